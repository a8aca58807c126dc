// The search for scale and minimum of a sub-block, which is the bulk of the work of the affine types.
//
// Lanes are sub-blocks, and the values are walked in order: every sum of a sub-block is taken in the order of
// ggml's scalar code and has the same bits. Two groups of four sub-blocks go together, for the sums of one wait
// for the adder most of the time.

import { FIELD_STEP, FROMS, INVERSES, MINIMUMS, nearestOf, SCALES, SUMS } from "./affine-fields";

/** Spread values below this are rounded as usual; beyond, ggml's bits are no longer the nearest integer. */
const USUAL: f32 = 4194303;

/** For every value of up to 32: four lanes of each group of its value, its weight and its level. */
const lanes: usize = memory.data(32 * 96, 16);
const STRIDE: usize = 96;
const WEIGHT: usize = 32;
const LEVEL: usize = 64;
/** Between the groups, for each of these. */
const NEXT: usize = 16;

/** State of the two groups, four lanes of each number. */
const state: usize = memory.data(2 * 272, 16);
const GROUP: usize = 272;
/** Sums of the weights and of weight · value. */
const SUM_W: usize = 0;
const SUM_X: usize = 16;
const LOW: usize = 32;
const HIGH: usize = 48;
/** The best so far: its error, its scale and offset, and from which offset and inverse scale its levels came. */
const ERROR: usize = 64;
const SCALE: usize = 80;
const OFFSET: usize = 96;
const FROM: usize = 112;
const INVERSE: usize = 128;
/** The trial: its inverse scale, sums of weight · level, weight · level² and weight · level · value, and its fit. */
const TRIED: usize = 144;
const SUM_L: usize = 160;
const SUM_LL: usize = 176;
const SUM_LX: usize = 192;
const FIT_SCALE: usize = 208;
const FIT_OFFSET: usize = 224;
const FIT_ERROR: usize = 240;
/** Which sub-blocks have a range. */
const RANGED: usize = 256;

// @ts-ignore: decorator
@inline function zero(): v128 {
  return i32x4.splat(0);
}

/** Stores four values of each of four sub-blocks, `step` bytes apart, lanes by sub-block. */
// @ts-ignore: decorator
@inline function turn4(from: usize, step: usize, to: usize): void {
  const a = v128.load(from);
  const b = v128.load(from + step);
  const c = v128.load(from + 2 * step);
  const d = v128.load(from + 3 * step);
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<i64>(ab, cd, 0, 2));
  v128.store(to + STRIDE, v128.shuffle<i64>(ab, cd, 1, 3));
  v128.store(to + 2 * STRIDE, v128.shuffle<i64>(ab2, cd2, 0, 2));
  v128.store(to + 3 * STRIDE, v128.shuffle<i64>(ab2, cd2, 1, 3));
}

/** Spreads eight sub-blocks of `count` values over the lanes. */
// @ts-ignore: decorator
@inline function turn(from: usize, count: i32, to: usize): void {
  const step = <usize>count * 4;
  for (let j: usize = 0; j < <usize>count; j += 4) {
    turn4(from + 4 * j, step, to + STRIDE * j);
    turn4(from + 4 * j + 4 * step, step, to + STRIDE * j + NEXT);
  }
}

/** Eight sub-blocks of 16 values; each magnitude is its weight. */
export function placeByMagnitude(x: usize): void {
  turn(x, 16, lanes);
  for (let at = lanes; at < lanes + 16 * STRIDE; at += STRIDE) {
    v128.store(at, f32x4.abs(v128.load(at)), WEIGHT);
    v128.store(at, f32x4.abs(v128.load(at, NEXT)), WEIGHT + NEXT);
  }
}

/** Eight sub-blocks of 32 values; a weight is the root of their mean square plus the magnitude. */
export function placeBySpread(x: usize): void {
  turn(x, 32, lanes);
  let a = zero();
  let b = zero();
  for (let at = lanes; at < lanes + 32 * STRIDE; at += STRIDE) {
    const valueA = v128.load(at);
    const valueB = v128.load(at, NEXT);
    a = f32x4.add(a, f32x4.mul(valueA, valueA));
    b = f32x4.add(b, f32x4.mul(valueB, valueB));
  }
  a = f32x4.sqrt(f32x4.mul(a, f32x4.splat(0.03125)));
  b = f32x4.sqrt(f32x4.mul(b, f32x4.splat(0.03125)));
  for (let at = lanes; at < lanes + 32 * STRIDE; at += STRIDE) {
    v128.store(at, f32x4.add(a, f32x4.abs(v128.load(at))), WEIGHT);
    v128.store(at, f32x4.add(b, f32x4.abs(v128.load(at, NEXT))), WEIGHT + NEXT);
  }
}

// @ts-ignore: decorator
@inline function weigh(at: usize, variance: v128): void {
  const x = v128.load(at);
  const root = f32x4.sqrt(f32x4.add(variance, f32x4.mul(x, x)));
  v128.store(at, f32x4.mul(v128.load(at, WEIGHT), root), WEIGHT);
}

/** Eight sub-blocks; a weight is the importance times the root of `variance` plus the square. */
export function placeByImportance(x: usize, importance: usize, count: i32, variance: f32): void {
  turn(x, count, lanes);
  turn(importance, count, lanes + WEIGHT);
  const v = f32x4.splat(variance);
  for (let at = lanes; at < lanes + <usize>count * STRIDE; at += STRIDE) {
    weigh(at, v);
    weigh(at + NEXT, v);
  }
}

/** Range and sums of a group. What has no range is given one: its result is not used, see `finish`. */
// @ts-ignore: decorator
@inline function measure(count: i32, next: usize, group: usize): void {
  const first = lanes + next;
  let low = zero();
  let high = v128.load(first);
  let sumW = zero();
  let sumX = zero();
  for (let at = first; at < first + <usize>count * STRIDE; at += STRIDE) {
    const x = v128.load(at);
    const w = v128.load(at, WEIGHT);
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
    sumW = f32x4.add(sumW, w);
    sumX = f32x4.add(sumX, f32x4.mul(w, x));
  }
  v128.store(group, sumW, SUM_W);
  v128.store(group, sumX, SUM_X);
  v128.store(group, low, LOW);
  const ranged = f32x4.gt(high, low);
  v128.store(group, ranged, RANGED);
  v128.store(group, v128.bitselect(high, f32x4.add(low, f32x4.splat(1)), ranged), HIGH);
}

/** Level of four spread values. */
// @ts-ignore: decorator
@inline function levelOf(x: v128, offset: v128, inverse: v128, top: v128, usual: bool): v128 {
  const spread = f32x4.mul(inverse, f32x4.sub(x, offset));
  if (usual) return f32x4.pmax(f32x4.pmin(f32x4.nearest(spread), top), zero());
  return f32x4.pmax(f32x4.pmin(f32x4.convert_i32x4_s(nearestOf(spread)), top), zero());
}

/** Levels of a trial and their sums. */
// @ts-ignore: decorator
@inline function sum(count: i32, topLevel: f32, usual: bool): void {
  const a = state;
  const b = state + GROUP;
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
  for (let at = lanes; at < lanes + <usize>count * STRIDE; at += STRIDE) {
    const xA = v128.load(at);
    const xB = v128.load(at, NEXT);
    const levelA = levelOf(xA, offsetA, inverseA, top, usual);
    const levelB = levelOf(xB, offsetB, inverseB, top, usual);
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
@inline function errorOf(at: usize, scale: v128, offset: v128, absolute: bool): v128 {
  const fitted = f32x4.add(f32x4.mul(scale, v128.load(at, LEVEL)), offset);
  const off = f32x4.sub(fitted, v128.load(at));
  return f32x4.mul(v128.load(at, WEIGHT), absolute ? f32x4.abs(off) : f32x4.mul(off, off));
}

/** Errors of a trial's fit. */
// @ts-ignore: decorator
@inline function errors(count: i32, absolute: bool): void {
  const a = state;
  const b = state + GROUP;
  const scaleA = v128.load(a, FIT_SCALE);
  const scaleB = v128.load(b, FIT_SCALE);
  const offsetA = v128.load(a, FIT_OFFSET);
  const offsetB = v128.load(b, FIT_OFFSET);
  let errorA = zero();
  let errorB = zero();
  for (let at = lanes; at < lanes + <usize>count * STRIDE; at += STRIDE) {
    errorA = f32x4.add(errorA, errorOf(at, scaleA, offsetA, absolute));
    errorB = f32x4.add(errorB, errorOf(at + NEXT, scaleB, offsetB, absolute));
  }
  v128.store(a, errorA, FIT_ERROR);
  v128.store(b, errorB, FIT_ERROR);
}

function judge(count: i32, absolute: bool): void {
  if (absolute) errors(count, true);
  else errors(count, false);
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
@inline function fit(group: usize): void {
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
@inline function settle(group: usize): void {
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
// @ts-ignore: decorator
@inline function attempt(numerator: f32, count: i32, top: f32): void {
  const a = aim(state, numerator);
  const b = aim(state + GROUP, numerator);
  if (a && b) sum(count, top, true);
  else sum(count, top, false);
}

/** Takes the plain spread of the range, which the trials have to beat. */
// @ts-ignore: decorator
@inline function begin(count: i32, top: f32, absolute: bool): void {
  for (let group = state; group <= state + GROUP; group += GROUP) {
    v128.store(group, v128.load(group, LOW), OFFSET);
  }
  attempt(top, count, top);
  for (let group = state; group <= state + GROUP; group += GROUP) {
    const inverse = v128.load(group, TRIED);
    const scale = f32x4.div(f32x4.splat(1), inverse);
    const low = v128.load(group, LOW);
    v128.store(group, scale, FIT_SCALE);
    v128.store(group, low, FIT_OFFSET);
    v128.store(group, scale, SCALE);
    v128.store(group, low, FROM);
    v128.store(group, inverse, INVERSE);
  }
  judge(count, absolute);
  for (let group = state; group <= state + GROUP; group += GROUP) {
    v128.store(group, v128.load(group, FIT_ERROR), ERROR);
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
function finish(group: usize, to: usize): void {
  const ranged = v128.load(group, RANGED);
  const offset = v128.bitselect(v128.load(group, OFFSET), v128.load(group, LOW), ranged);
  spill(v128.and(v128.load(group, SCALE), ranged), to + SCALES);
  spill(f32x4.neg(offset), to + MINIMUMS);
  spill(v128.load(group, SUM_W), to + SUMS);
  spill(v128.load(group, FROM), to + FROMS);
  spill(v128.and(v128.load(group, INVERSE), ranged), to + INVERSES);
}

/**
 * Searches the eight sub-blocks that were placed.
 *
 * @param count values of a sub-block
 * @param top largest level
 * @param first the trials spread the range over `top + first` levels, then over `step` more each time
 * @param absolute whether the error of a value counts as it is and not squared
 * @param to where the fields of the first sub-block go
 */
export function search(
  count: i32,
  top: f32,
  first: f32,
  step: f32,
  steps: i32,
  absolute: bool,
  to: usize,
): void {
  measure(count, 0, state);
  measure(count, NEXT, state + GROUP);
  begin(count, top, absolute);
  for (let t = 0; t <= steps; t++) {
    attempt(first + step * <f32>t + top, count, top);
    fit(state);
    fit(state + GROUP);
    judge(count, absolute);
    settle(state);
    settle(state + GROUP);
  }
  finish(state, to);
  finish(state + GROUP, to + 4 * FIELD_STEP);
}
