// The search for scale and minimum of a sub-block, which is the bulk of the work of the affine types. The plain
// spread of its range over the levels comes first; each trial then starts from the best offset so far and fits
// scale and offset to its levels by weighted least squares. See `affine-lanes.ts`.

import { FIELD_STEP, FROMS, INVERSES, MINIMUMS, nearestOf, SCALES, SUMS } from "./affine-fields";
import {
  ERROR,
  FIT_ERROR,
  FIT_OFFSET,
  FIT_SCALE,
  FROM,
  GROUP,
  GROUPS,
  HIGH,
  INVERSE,
  LEVEL,
  LOW,
  NEXT,
  OFFSET,
  RANGED,
  SCALE,
  SET,
  STRIDE,
  SUM_L,
  SUM_LL,
  SUM_LX,
  SUM_W,
  SUM_X,
  TRIED,
  WEIGHT,
  measure,
  sets,
  zero,
} from "./affine-lanes";

/** Spread values below this are rounded as usual; beyond, ggml's bits are no longer the nearest integer. */
const USUAL: f32 = 4194303;

// Switches that are types: of two calls that differ in a constant only, the compiler makes one, with a branch for
// every value.
type Yes = i32;
type No = u32;

/** Level of four spread values. */
// @ts-ignore: decorator
@inline function levelOf<Usual>(x: v128, offset: v128, inverse: v128, top: v128): v128 {
  let level = f32x4.mul(inverse, f32x4.sub(x, offset));
  if (isSigned<Usual>()) level = f32x4.nearest(level);
  else level = f32x4.convert_i32x4_s(nearestOf(level));
  return f32x4.pmax(f32x4.pmin(level, top), zero());
}

/** Levels of a trial and their sums. */
// @ts-ignore: decorator
@inline function sum<Usual>(set: usize, count: i32, topLevel: f32): void {
  const a = set + GROUPS;
  const b = a + GROUP;
  const top = f32x4.splat(topLevel);
  const inverseA = v128.load(a, TRIED);
  const inverseB = v128.load(b, TRIED);
  const offsetA = v128.load(a, OFFSET);
  const offsetB = v128.load(b, OFFSET);
  let sumLA = zero();
  let sumLB = zero();
  let sumLLA = zero();
  let sumLLB = zero();
  let sumLXA = zero();
  let sumLXB = zero();
  for (let at = set; at < set + <usize>count * STRIDE; at += STRIDE) {
    const xA = v128.load(at);
    const xB = v128.load(at, NEXT);
    const levelA = levelOf<Usual>(xA, offsetA, inverseA, top);
    const levelB = levelOf<Usual>(xB, offsetB, inverseB, top);
    v128.store(at, levelA, LEVEL);
    v128.store(at, levelB, LEVEL + NEXT);
    const productA = f32x4.mul(v128.load(at, WEIGHT), levelA);
    const productB = f32x4.mul(v128.load(at, WEIGHT + NEXT), levelB);
    sumLA = f32x4.add(sumLA, productA);
    sumLB = f32x4.add(sumLB, productB);
    sumLLA = f32x4.add(sumLLA, f32x4.mul(productA, levelA));
    sumLLB = f32x4.add(sumLLB, f32x4.mul(productB, levelB));
    sumLXA = f32x4.add(sumLXA, f32x4.mul(productA, xA));
    sumLXB = f32x4.add(sumLXB, f32x4.mul(productB, xB));
  }
  v128.store(a, sumLA, SUM_L);
  v128.store(b, sumLB, SUM_L);
  v128.store(a, sumLLA, SUM_LL);
  v128.store(b, sumLLB, SUM_LL);
  v128.store(a, sumLXA, SUM_LX);
  v128.store(b, sumLXB, SUM_LX);
}

// @ts-ignore: decorator
@inline function errorOf<Absolute>(at: usize, scale: v128, offset: v128): v128 {
  const fitted = f32x4.add(f32x4.mul(scale, v128.load(at, LEVEL)), offset);
  const off = f32x4.sub(fitted, v128.load(at));
  return f32x4.mul(v128.load(at, WEIGHT), isSigned<Absolute>() ? f32x4.abs(off) : f32x4.mul(off, off));
}

/** Errors of a trial's fit. */
// @ts-ignore: decorator
@inline function errors<Absolute>(set: usize, count: i32): void {
  const a = set + GROUPS;
  const b = a + GROUP;
  const scaleA = v128.load(a, FIT_SCALE);
  const scaleB = v128.load(b, FIT_SCALE);
  const offsetA = v128.load(a, FIT_OFFSET);
  const offsetB = v128.load(b, FIT_OFFSET);
  let errorA = zero();
  let errorB = zero();
  for (let at = set; at < set + <usize>count * STRIDE; at += STRIDE) {
    errorA = f32x4.add(errorA, errorOf<Absolute>(at, scaleA, offsetA));
    errorB = f32x4.add(errorB, errorOf<Absolute>(at + NEXT, scaleB, offsetB));
  }
  v128.store(a, errorA, FIT_ERROR);
  v128.store(b, errorB, FIT_ERROR);
}

/** Errors of what `fit` found. */
// @ts-ignore: decorator
@inline function judge(set: usize, count: i32, absolute: bool): void {
  if (absolute) errors<Yes>(set, count);
  else errors<No>(set, count);
}

/** Sets the inverse scale of a trial from the best offset; whether all spread values are rounded as usual. */
// @ts-ignore: decorator
@inline function aim(group: usize, numerator: f32): bool {
  const offset = v128.load(group, OFFSET);
  const inverse = f32x4.div(f32x4.splat(numerator), f32x4.sub(v128.load(group, HIGH), offset));
  v128.store(group, inverse, TRIED);
  // The highest value is spread to the numerator unless the inverse is infinite, which shows at the lowest too.
  const lowest = f32x4.abs(f32x4.mul(inverse, f32x4.sub(v128.load(group, LOW), offset)));
  return i32x4.all_true(f32x4.lt(lowest, f32x4.splat(USUAL)));
}

/** Weighted least squares: scale and offset for the levels of a trial. */
// @ts-ignore: decorator
@inline function fitGroup(group: usize): void {
  const sumW = v128.load(group, SUM_W);
  const sumX = v128.load(group, SUM_X);
  const sumL = v128.load(group, SUM_L);
  const sumLL = v128.load(group, SUM_LL);
  const sumLX = v128.load(group, SUM_LX);
  const determinant = f32x4.sub(f32x4.mul(sumW, sumLL), f32x4.mul(sumL, sumL));
  const scale = f32x4.div(f32x4.sub(f32x4.mul(sumW, sumLX), f32x4.mul(sumX, sumL)), determinant);
  const offset = f32x4.div(f32x4.sub(f32x4.mul(sumLL, sumX), f32x4.mul(sumL, sumLX)), determinant);
  const above = f32x4.gt(offset, zero());
  v128.store(group, v128.bitselect(f32x4.div(sumLX, sumLL), scale, above), FIT_SCALE);
  // Without a positive determinant there is no fit: NaN makes its error lose.
  const none = v128.not(f32x4.gt(determinant, zero()));
  v128.store(group, v128.or(v128.andnot(offset, above), none), FIT_OFFSET);
}

/** Takes a trial over where its error is less than the best. */
// @ts-ignore: decorator
@inline function settleGroup(group: usize): void {
  const error = v128.load(group, FIT_ERROR);
  const best = v128.load(group, ERROR);
  const better = f32x4.lt(error, best);
  const offset = v128.load(group, OFFSET);
  v128.store(group, v128.bitselect(error, best, better), ERROR);
  v128.store(group, v128.bitselect(v128.load(group, FIT_SCALE), v128.load(group, SCALE), better), SCALE);
  v128.store(group, v128.bitselect(v128.load(group, FIT_OFFSET), offset, better), OFFSET);
  v128.store(group, v128.bitselect(offset, v128.load(group, FROM), better), FROM);
  v128.store(group, v128.bitselect(v128.load(group, TRIED), v128.load(group, INVERSE), better), INVERSE);
}

/** Levels and sums of the inverse scales that spread the range over `numerator` levels. */
function attempt(set: usize, numerator: f32, count: i32, top: f32): void {
  const a = aim(set + GROUPS, numerator);
  const b = aim(set + GROUPS + GROUP, numerator);
  if (a && b) sum<Yes>(set, count, top);
  else sum<No>(set, count, top);
}

/** Takes the plain spread of the range, which the trials have to beat. */
function begin(set: usize, count: i32, top: f32, absolute: bool): void {
  const a = set + GROUPS;
  const b = a + GROUP;
  measure(set, count);
  v128.store(a, v128.load(a, LOW), OFFSET);
  v128.store(b, v128.load(b, LOW), OFFSET);
  attempt(set, top, count, top);
  for (let group = a; group <= b; group += GROUP) {
    const inverse = v128.load(group, TRIED);
    const scale = f32x4.div(f32x4.splat(1), inverse);
    const low = v128.load(group, LOW);
    v128.store(group, scale, FIT_SCALE);
    v128.store(group, low, FIT_OFFSET);
    v128.store(group, scale, SCALE);
    v128.store(group, low, FROM);
    v128.store(group, inverse, INVERSE);
  }
  judge(set, count, absolute);
  v128.store(a, v128.load(a, FIT_ERROR), ERROR);
  v128.store(b, v128.load(b, FIT_ERROR), ERROR);
}

function fit(set: usize): void {
  fitGroup(set + GROUPS);
  fitGroup(set + GROUPS + GROUP);
}

function settle(set: usize, count: i32, absolute: bool): void {
  judge(set, count, absolute);
  settleGroup(set + GROUPS);
  settleGroup(set + GROUPS + GROUP);
}

/**
 * Searches the sets that were placed.
 *
 * @param both whether there are two
 * @param count values of a sub-block
 * @param top largest level
 * @param first the trials spread the range over `top + first` levels, then over `step` more each time
 * @param absolute whether the error of a value counts as it is and not squared
 */
export function search(
  both: bool,
  count: i32,
  top: f32,
  first: f32,
  step: f32,
  steps: i32,
  absolute: bool,
): void {
  const other = sets + SET;
  begin(sets, count, top, absolute);
  if (both) begin(other, count, top, absolute);
  for (let t = 0; t <= steps; t++) {
    const numerator = first + step * <f32>t + top;
    attempt(sets, numerator, count, top);
    fit(sets);
    if (both) {
      attempt(other, numerator, count, top);
      fit(other);
    }
    settle(sets, count, absolute);
    if (both) settle(other, count, absolute);
  }
}

/** Stores a number of each sub-block of a group. */
// @ts-ignore: decorator
@inline function spill(numbers: v128, to: usize): void {
  v128.store_lane<f32>(to, numbers, 0);
  v128.store_lane<f32>(to, numbers, 1, FIELD_STEP);
  v128.store_lane<f32>(to, numbers, 2, 2 * FIELD_STEP);
  v128.store_lane<f32>(to, numbers, 3, 3 * FIELD_STEP);
}

/** Stores what was found for the four sub-blocks of a group. */
function finishGroup(group: usize, to: usize): void {
  const ranged = v128.load(group, RANGED);
  const offset = v128.bitselect(v128.load(group, OFFSET), v128.load(group, LOW), ranged);
  spill(v128.and(v128.load(group, SCALE), ranged), to + SCALES);
  spill(f32x4.neg(offset), to + MINIMUMS);
  spill(v128.load(group, SUM_W), to + SUMS);
  spill(v128.load(group, FROM), to + FROMS);
  spill(v128.and(v128.load(group, INVERSE), ranged), to + INVERSES);
}

/** Stores what was found for the eight sub-blocks of a set. */
export function finish(set: usize, to: usize): void {
  finishGroup(set + GROUPS, to);
  finishGroup(set + GROUPS + GROUP, to + 4 * FIELD_STEP);
}
