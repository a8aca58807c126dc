// Trials of the sub-blocks of the affine types: see `blocks/search/k-affine-fit.ts`, whose operations these are.

import { levelAbove, levelBelow, lossOf } from "./k-affine-loss";
import {
  clamp,
  CURVATURE,
  ERROR,
  fields,
  GGML_OFFSET,
  GGML_SCALE,
  INVERSE,
  inverseOf,
  lanes,
  LEVEL,
  LOWEST,
  MEAN,
  NEXT,
  OFFSET_LEVEL,
  PULL,
  SCALE,
  SCALE_LEVEL,
  SHARE,
  SHIFT,
  SQUARE,
  STRIDE,
  VARIANCE,
  zero,
} from "./k-affine-lanes";

/** Steps of the sequence that moves trials: see `moveAim` in the reference. */
const FIRST_STEP: u32 = 3242174889;
const SECOND_STEP: u32 = 2447445414;

/** A trial of two groups: where its levels come from, and their sums. */
const trial: usize = memory.data(2 * 80, 16);
const GROUP: usize = 80;
const TRIED_INVERSE: usize = 0;
const TRIED_SHIFT: usize = 16;
const SUM_L: usize = 32;
const SUM_LL: usize = 48;
const SUM_LX: usize = 64;

/** The fit of a group's trial and its levels of scale and offset, in the fields of `k-affine-lanes.ts`. */
const fitted: usize = memory.data(16 * 64, 16);

/** The step of scales, its inverse and these of offsets, four lanes each. */
const steps: usize = memory.data(4 * 16, 16);

// @ts-ignore: decorator
@inline function levelOf(x: v128, inverse: v128, shift: v128, top: v128): v128 {
  return f32x4.nearest(clamp(f32x4.add(f32x4.mul(x, inverse), shift), top));
}

/**
 * Sums of a trial's levels. Equal weights are a power of two each: products with them can wait for the end and
 * keep their bits.
 */
// @ts-ignore: decorator
@inline function sumLevels(from: usize, count: usize, topLevel: f32, weighted: bool): void {
  const a = trial;
  const b = trial + GROUP;
  const top = f32x4.splat(topLevel);
  const inverseA = v128.load(a, TRIED_INVERSE);
  const inverseB = v128.load(b, TRIED_INVERSE);
  const shiftA = v128.load(a, TRIED_SHIFT);
  const shiftB = v128.load(b, TRIED_SHIFT);
  let sumLA = zero();
  let sumLB = zero();
  let sumLLA = zero();
  let sumLLB = zero();
  let sumLXA = zero();
  let sumLXB = zero();
  const end = from + count * STRIDE;
  for (let at = from; at < end; at += STRIDE) {
    const xA = v128.load(at);
    const xB = v128.load(at, NEXT);
    const levelA = levelOf(xA, inverseA, shiftA, top);
    const levelB = levelOf(xB, inverseB, shiftB, top);
    const productA = weighted ? f32x4.mul(v128.load(at, SHARE), levelA) : levelA;
    const productB = weighted ? f32x4.mul(v128.load(at, SHARE + NEXT), levelB) : levelB;
    sumLA = f32x4.add(sumLA, productA);
    sumLB = f32x4.add(sumLB, productB);
    sumLLA = f32x4.add(sumLLA, f32x4.mul(productA, levelA));
    sumLLB = f32x4.add(sumLLB, f32x4.mul(productB, levelB));
    sumLXA = f32x4.add(sumLXA, f32x4.mul(productA, xA));
    sumLXB = f32x4.add(sumLXB, f32x4.mul(productB, xB));
  }
  if (!weighted) {
    const share = f32x4.splat(1 / <f32>count);
    sumLA = f32x4.mul(sumLA, share);
    sumLB = f32x4.mul(sumLB, share);
    sumLLA = f32x4.mul(sumLLA, share);
    sumLLB = f32x4.mul(sumLLB, share);
    sumLXA = f32x4.mul(sumLXA, share);
    sumLXB = f32x4.mul(sumLXB, share);
  }
  v128.store(a, sumLA, SUM_L);
  v128.store(b, sumLB, SUM_L);
  v128.store(a, sumLLA, SUM_LL);
  v128.store(b, sumLLB, SUM_LL);
  v128.store(a, sumLXA, SUM_LX);
  v128.store(b, sumLXB, SUM_LX);
}

function sumWeighted(from: usize, count: usize, top: f32): void {
  sumLevels(from, count, top, true);
}

function sumEven(from: usize, count: usize, top: f32): void {
  sumLevels(from, count, top, false);
}

/** Where the best offset for a trial's levels would be below 0, given their scale. */
// @ts-ignore: decorator
@inline function heldAt0(scale: v128, sumL: v128, mean: v128): v128 {
  return f32x4.lt(f32x4.sub(f32x4.mul(scale, sumL), mean), zero());
}

/** Error of a group's trial; infinite where its levels tell nothing of a scale. */
// @ts-ignore: decorator
@inline function errorOf(group: usize, at: usize): v128 {
  const sumL = v128.load(group, SUM_L);
  const sumLL = v128.load(group, SUM_LL);
  const sumLX = v128.load(group, SUM_LX);
  const mean = v128.load(at, MEAN);
  const curvature = f32x4.sub(sumLL, f32x4.mul(sumL, sumL));
  const scale = f32x4.div(sumLX, curvature);
  let error = f32x4.sub(v128.load(at, VARIANCE), f32x4.mul(scale, sumLX));
  const held = heldAt0(scale, sumL, mean);
  if (v128.any_true(held)) {
    const heldLX = f32x4.add(sumLX, f32x4.mul(sumL, mean));
    const lost = f32x4.sub(v128.load(at, SQUARE), f32x4.mul(f32x4.div(heldLX, sumLL), heldLX));
    error = v128.bitselect(lost, error, held);
  }
  const some = v128.and(f32x4.gt(curvature, zero()), f32x4.gt(sumLX, zero()));
  return v128.bitselect(error, f32x4.splat(Infinity), some);
}

/** Stores the fit of a group's trial: see `Fit` in the reference. */
function storeFit(group: usize, at: usize): void {
  const sumL = v128.load(group, SUM_L);
  const sumLL = v128.load(group, SUM_LL);
  const sumLX = v128.load(group, SUM_LX);
  const mean = v128.load(at, MEAN);
  const curvature = f32x4.sub(sumLL, f32x4.mul(sumL, sumL));
  const free = f32x4.div(sumLX, curvature);
  const held = heldAt0(free, sumL, mean);
  const heldLX = f32x4.add(sumLX, f32x4.mul(sumL, mean));
  const scale = v128.bitselect(f32x4.div(heldLX, sumLL), free, held);
  const inverse = f32x4.div(f32x4.splat(1), scale);
  v128.store(fitted, scale, SCALE);
  v128.store(fitted, v128.bitselect(sumLL, curvature, held), CURVATURE);
  v128.store(fitted, v128.andnot(sumL, held), LEVEL);
  v128.store(fitted, v128.andnot(mean, held), PULL);
  v128.store(fitted, inverse, INVERSE);
  v128.store(fitted, v128.bitselect(f32x4.mul(mean, inverse), sumL, held), SHIFT);
}

// @ts-ignore: decorator
@inline function keep(at: usize, numbers: v128, where: v128, field: usize): void {
  v128.store(at + field, v128.bitselect(numbers, v128.load(at + field), where));
}

/** Takes the stored fit over in some lanes. */
function keepFit(at: usize, error: v128, where: v128): void {
  keep(at, error, where, ERROR);
  for (let field = SCALE; field <= SHIFT; field += SHIFT - INVERSE) {
    keep(at, v128.load(fitted + field), where, field);
  }
}

/** Moves both ends of the levels of two groups: trial `index` of an even filling of the square. */
// @ts-ignore: decorator
@inline function move(index: u32, radius: f32, top: f32, at: usize): void {
  const unit = radius * <f32>(1.0 / 2147483648.0);
  const low = <f32>(<i32>(index * FIRST_STEP)) * unit;
  const high = <f32>(<i32>(index * SECOND_STEP)) * unit;
  const stretch = f32x4.splat(<f32>1 / (<f32>1 + (low + high) / top));
  const by = f32x4.splat(low);
  v128.store(trial, f32x4.mul(v128.load(at, INVERSE), stretch), TRIED_INVERSE);
  v128.store(trial + GROUP, f32x4.mul(v128.load(at, INVERSE + NEXT), stretch), TRIED_INVERSE);
  const shiftA = f32x4.mul(f32x4.add(v128.load(at, SHIFT), by), stretch);
  const shiftB = f32x4.mul(f32x4.add(v128.load(at, SHIFT + NEXT), by), stretch);
  v128.store(trial, shiftA, TRIED_SHIFT);
  v128.store(trial + GROUP, shiftB, TRIED_SHIFT);
}

/** Radius of a trial: `width` less over all of `count`. */
// @ts-ignore: decorator
@inline function radiusOf(from: f32, width: f32, index: i32, count: i32): f32 {
  return from - (width / <f32>count) * <f32>index;
}

// @ts-ignore: decorator
@inline function settleAlone(group: usize, at: usize): void {
  const error = errorOf(group, at);
  const better = f32x4.lt(error, v128.load(at, ERROR));
  if (!v128.any_true(better)) return;
  storeFit(group, at);
  keepFit(at, error, better);
}

/** Aims a group as ggml's block has it. */
// @ts-ignore: decorator
@inline function aimAtGgml(group: usize, at: usize, scaleStep: f32, offsetStep: f32): void {
  const inverse = inverseOf(f32x4.mul(f32x4.splat(scaleStep), v128.load(at, GGML_SCALE)));
  const offset = f32x4.mul(f32x4.splat(offsetStep), v128.load(at, GGML_OFFSET));
  v128.store(group, inverse, TRIED_INVERSE);
  v128.store(group, f32x4.mul(f32x4.add(offset, v128.load(at, MEAN)), inverse), TRIED_SHIFT);
}

// @ts-ignore: decorator
@inline function aimAtBest(group: usize, at: usize): void {
  v128.store(group, v128.load(at, INVERSE), TRIED_INVERSE);
  v128.store(group, v128.load(at, SHIFT), TRIED_SHIFT);
}

/**
 * Looks for the best scale and offset of every sub-block by itself, from its range and from ggml's.
 *
 * @param scaleStep of ggml's block, as `offsetStep`
 * @param radius of the first trial, in levels; the last one's is `width` less
 */
export function searchAlone(
  count: usize,
  top: f32,
  weighted: bool,
  scaleStep: f32,
  offsetStep: f32,
  trials: i32,
  radius: f32,
  width: f32,
): void {
  for (let s: usize = 0; s < 256 / count; s += 8) {
    const from = lanes + s * count * (STRIDE / 8);
    const at = fields + 4 * s;
    for (let index = -2; index < trials; index++) {
      if (index == -2) {
        aimAtBest(trial, at);
        aimAtBest(trial + GROUP, at + NEXT);
      } else if (index == -1) {
        aimAtGgml(trial, at, scaleStep, offsetStep);
        aimAtGgml(trial + GROUP, at + NEXT, scaleStep, offsetStep);
      } else {
        move(index + 1, radiusOf(radius, width, index, trials), top, at);
      }
      if (weighted) sumWeighted(from, count, top);
      else sumEven(from, count, top);
      settleAlone(trial, at);
      settleAlone(trial + GROUP, at + NEXT);
    }
  }
}

/** The fit at `fit` placed on the steps; stores its levels and returns what they lose. */
function placeFit(fit: usize, top: v128): v128 {
  const scale = v128.load(fit, SCALE);
  const curvature = v128.load(fit, CURVATURE);
  const level = v128.load(fit, LEVEL);
  const pull = v128.load(fit, PULL);
  const step = v128.load(steps);
  const offsetStep = v128.load(steps, 32);
  const offsetInverse = v128.load(steps, 48);
  const below = levelBelow(scale, v128.load(steps, 16), top);
  const above = levelAbove(below, top);
  const first = lossOf(below, scale, curvature, level, pull, step, offsetStep, offsetInverse, top);
  const second = lossOf(above, scale, curvature, level, pull, step, offsetStep, offsetInverse, top);
  const better = f32x4.lt(second, first);
  const placed = v128.bitselect(above, below, better);
  const wanted = f32x4.sub(f32x4.mul(f32x4.mul(step, placed), level), pull);
  v128.store(fitted, placed, SCALE_LEVEL);
  v128.store(fitted, f32x4.nearest(clamp(f32x4.mul(wanted, offsetInverse), top)), OFFSET_LEVEL);
  return v128.bitselect(second, first, better);
}

function beginPlaced(at: usize, top: v128): void {
  v128.store(at, f32x4.add(v128.load(at, ERROR), placeFit(at, top)), LOWEST);
  v128.store(at, v128.load(fitted, SCALE_LEVEL), SCALE_LEVEL);
  v128.store(at, v128.load(fitted, OFFSET_LEVEL), OFFSET_LEVEL);
}

// @ts-ignore: decorator
@inline function settlePlaced(group: usize, at: usize, top: v128): void {
  const error = errorOf(group, at);
  const lowest = v128.load(at, LOWEST);
  if (!v128.any_true(f32x4.lt(error, lowest))) return;
  storeFit(group, at);
  const whole = f32x4.add(error, placeFit(fitted, top));
  const better = f32x4.lt(whole, lowest);
  if (!v128.any_true(better)) return;
  keepFit(at, error, better);
  keep(at, whole, better, LOWEST);
  keep(at, v128.load(fitted, SCALE_LEVEL), better, SCALE_LEVEL);
  keep(at, v128.load(fitted, OFFSET_LEVEL), better, OFFSET_LEVEL);
}

/**
 * Looks for the levels of every sub-block's scale and offset, beginning with the best fits so far.
 *
 * @param after trials before these
 */
export function searchPlaced(
  count: usize,
  top: f32,
  scaleTop: f32,
  weighted: bool,
  scaleStep: f32,
  offsetStep: f32,
  after: i32,
  trials: i32,
  radius: f32,
  width: f32,
): void {
  v128.store(steps, f32x4.splat(scaleStep));
  v128.store(steps, inverseOf(f32x4.splat(scaleStep)), 16);
  v128.store(steps, f32x4.splat(offsetStep), 32);
  v128.store(steps, inverseOf(f32x4.splat(offsetStep)), 48);
  const most = f32x4.splat(scaleTop);
  for (let s: usize = 0; s < 256 / count; s += 8) {
    const from = lanes + s * count * (STRIDE / 8);
    const at = fields + 4 * s;
    beginPlaced(at, most);
    beginPlaced(at + NEXT, most);
    for (let index = 0; index < trials; index++) {
      move(after + index + 1, radiusOf(radius, width, index, trials), top, at);
      if (weighted) sumWeighted(from, count, top);
      else sumEven(from, count, top);
      settlePlaced(trial, at, most);
      settlePlaced(trial + GROUP, at + NEXT, most);
    }
  }
}
