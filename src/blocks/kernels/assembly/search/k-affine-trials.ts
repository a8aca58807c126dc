// Trials of the sub-blocks of the affine types: see `blocks/search/k-affine.ts`.

import { aim, errorOf, fitted, keep, keepFit, NEXT_TRIAL, storeFit, sumTrials, trials } from "./k-affine-fit";
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
  LEVEL,
  LOWEST,
  MEAN,
  OFFSET_LEVEL,
  PULL,
  SCALE,
  SCALE_LEVEL,
  SHIFT,
} from "./k-affine-lanes";

/** Steps of the sequence that moves trials: see `moveAim` in the reference. */
const FIRST_STEP: u32 = 3242174889;
const SECOND_STEP: u32 = 2447445414;

/** The step of scales, its inverse and these of offsets, four lanes each. */
const steps: usize = memory.data(4 * 16, 16);

/** How trials move the levels: a shift and a stretch of each, 8 bytes a trial. */
const moves: usize = memory.data(256 * 8, 16);

/**
 * Prepares the moves of some trials, which are the same for all blocks: see `moveAim` in the reference.
 *
 * @param after trials before these
 * @param radius of the first trial, in levels; the last one's is `width` less
 */
export function prepareMoves(after: i32, count: i32, radius: f32, width: f32, top: f32): void {
  for (let index = 0; index < count; index++) {
    const unit = (radius - (width / <f32>count) * <f32>index) * <f32>(1.0 / 2147483648.0);
    const number = <u32>(after + index + 1);
    const low = <f32>(<i32>(number * FIRST_STEP)) * unit;
    const high = <f32>(<i32>(number * SECOND_STEP)) * unit;
    const at = moves + 8 * <usize>(after + index);
    store<f32>(at, low);
    store<f32>(at, <f32>1 / (<f32>1 + (low + high) / top), 4);
  }
}

/** Moves both ends of a group's levels. */
// @ts-ignore: decorator
@inline function move(moveAt: usize, trial: usize, at: usize, top: v128): void {
  const stretch = v128.load32_splat(moveAt, 4);
  const shift = f32x4.add(v128.load(at, SHIFT), v128.load32_splat(moveAt));
  aim(trial, f32x4.mul(v128.load(at, INVERSE), stretch), f32x4.mul(shift, stretch), top);
}

// @ts-ignore: decorator
@inline function settleAlone(trial: usize, at: usize): void {
  const error = errorOf(trial, at);
  const better = f32x4.lt(error, v128.load(at, ERROR));
  if (!v128.any_true(better)) return;
  storeFit(trial, at);
  keepFit(at, error, better);
}

/** Aims a group as ggml's block has it. */
// @ts-ignore: decorator
@inline function aimAtGgml(trial: usize, at: usize, scaleStep: f32, offsetStep: f32, top: v128): void {
  const inverse = inverseOf(f32x4.mul(f32x4.splat(scaleStep), v128.load(at, GGML_SCALE)));
  const offset = f32x4.mul(f32x4.splat(offsetStep), v128.load(at, GGML_OFFSET));
  aim(trial, inverse, f32x4.mul(f32x4.add(offset, v128.load(at, MEAN)), inverse), top);
}

// @ts-ignore: decorator
@inline function aimAtBest(trial: usize, at: usize, top: v128): void {
  aim(trial, v128.load(at, INVERSE), v128.load(at, SHIFT), top);
}

// @ts-ignore: decorator
@inline function attemptAlone(s: usize, count: usize, top: f32, weighted: bool): void {
  sumTrials(s, count, top, weighted);
  settleAlone(trials, fields + 4 * s);
  settleAlone(trials + NEXT_TRIAL, fields + 4 * s + 16);
}

/**
 * Looks for the best scale and offset of every sub-block by itself, from its range and from ggml's.
 *
 * @param scaleStep of ggml's block, as `offsetStep`
 * @param moved how many of the prepared moves to try
 */
export function searchAlone(
  count: usize,
  topLevel: f32,
  weighted: bool,
  scaleStep: f32,
  offsetStep: f32,
  moved: i32,
): void {
  const top = f32x4.splat(topLevel);
  for (let s: usize = 0; s < 256 / count; s += 8) {
    const a = fields + 4 * s;
    const b = a + 16;
    aimAtBest(trials, a, top);
    aimAtBest(trials + NEXT_TRIAL, b, top);
    attemptAlone(s, count, topLevel, weighted);
    aimAtGgml(trials, a, scaleStep, offsetStep, top);
    aimAtGgml(trials + NEXT_TRIAL, b, scaleStep, offsetStep, top);
    attemptAlone(s, count, topLevel, weighted);
    const end = moves + 8 * <usize>moved;
    for (let moveAt = moves; moveAt < end; moveAt += 8) {
      move(moveAt, trials, a, top);
      move(moveAt, trials + NEXT_TRIAL, b, top);
      attemptAlone(s, count, topLevel, weighted);
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
@inline function settlePlaced(trial: usize, at: usize, top: v128): void {
  const error = errorOf(trial, at);
  const lowest = v128.load(at, LOWEST);
  if (!v128.any_true(f32x4.lt(error, lowest))) return;
  storeFit(trial, at);
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
 * @param after moves to leave out
 * @param moved how many of the prepared moves to try after those
 */
export function searchPlaced(
  count: usize,
  topLevel: f32,
  scaleTop: f32,
  weighted: bool,
  scaleStep: f32,
  offsetStep: f32,
  after: i32,
  moved: i32,
): void {
  v128.store(steps, f32x4.splat(scaleStep));
  v128.store(steps, inverseOf(f32x4.splat(scaleStep)), 16);
  v128.store(steps, f32x4.splat(offsetStep), 32);
  v128.store(steps, inverseOf(f32x4.splat(offsetStep)), 48);
  const top = f32x4.splat(topLevel);
  const most = f32x4.splat(scaleTop);
  for (let s: usize = 0; s < 256 / count; s += 8) {
    const a = fields + 4 * s;
    const b = a + 16;
    beginPlaced(a, most);
    beginPlaced(b, most);
    const end = moves + 8 * <usize>(after + moved);
    for (let moveAt = moves + 8 * <usize>after; moveAt < end; moveAt += 8) {
      move(moveAt, trials, a, top);
      move(moveAt, trials + NEXT_TRIAL, b, top);
      sumTrials(s, count, topLevel, weighted);
      settlePlaced(trials, a, most);
      settlePlaced(trials + NEXT_TRIAL, b, most);
    }
  }
}
