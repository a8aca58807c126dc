// The trials of a sub-block and the codes that they give a group of its values.
//
// Lanes are trials: a code is made for four inverse scales at a time.

import { digitsOf, sizes } from "./block";

/** Room for trials. */
export const TRIALS: usize = 32;

/** Inverse scales that are tried, times the extreme of the sub-block; the last is repeated. */
const numerators: usize = memory.data(4 * 32, 16);
/** How many there are. */
export let trials: i32 = 0;
/** Inverse scales and scales of the trials. Eight scales are read from any trial on. */
export const inverses: usize = memory.data(4 * 32, 16);
export const scales: usize = memory.data(4 * 40, 16);
/** Codes of a group by trial, with room to read four behind. */
export const codes: usize = memory.data(4 * 36, 16);
/** Where elements of a group of eight rise to their higher digit. */
const bounds: usize = memory.data(4 * 8, 16);

/** Sets the trials: `top` and `reach` steps to both sides of it, in float32 like ggml. */
export function setTrials(top: f32, step: f32, reach: i32): void {
  trials = 2 * reach + 1;
  for (let t: i32 = 0; t < <i32>TRIALS; t++) {
    store<f32>(numerators + 4 * t, top + <f32>(min(t, trials - 1) - reach) * step);
  }
}

/** Divides the numerators by the extreme of a sub-block. */
export function startTrials(extreme: f32): void {
  const by = f32x4.splat(extreme);
  for (let t: usize = 0; t < 4 * TRIALS; t += 16) {
    const inverse = f32x4.div(v128.load(numerators + t), by);
    v128.store(inverses + t, inverse);
    v128.store(scales + t, f32x4.div(f32x4.splat(1), inverse));
  }
}

/** The scale of a trial. */
// @ts-ignore: decorator
@inline export function scaleOf(trial: i32): f32 {
  return load<f32>(scales + 4 * <usize>trial);
}

/** The largest inverse scale. */
// @ts-ignore: decorator
@inline export function lastInverse(): f32 {
  return load<f32>(inverses + 4 * <usize>(trials - 1));
}

/** Puts the digit of element k, at four inverse scales, below those of the elements behind it. */
// @ts-ignore: decorator
@inline function addDigit(code: v128, at: usize, k: usize, inverse: v128, eight: bool): v128 {
  const digits = digitsOf(f32x4.mul(inverse, v128.load32_splat(sizes + at + 4 * k)), eight ? 2 : 7);
  if (eight) return i32x4.add(i32x4.add(i32x4.add(code, code), code), digits);
  return i32x4.add(i32x4.shl(code, 3), digits);
}

/** Codes of a group at four inverse scales. */
// @ts-ignore: decorator
@inline export function codesAt(at: usize, inverse: v128, eight: bool): v128 {
  let code = i32x4.splat(0);
  if (eight) {
    code = addDigit(code, at, 7, inverse, true);
    code = addDigit(code, at, 6, inverse, true);
    code = addDigit(code, at, 5, inverse, true);
    code = addDigit(code, at, 4, inverse, true);
  }
  code = addDigit(code, at, 3, inverse, eight);
  code = addDigit(code, at, 2, inverse, eight);
  code = addDigit(code, at, 1, inverse, eight);
  return addDigit(code, at, 0, inverse, eight);
}

// @ts-ignore: decorator
@inline function addRise(code: v128, at: usize, k: usize, inverse: v128, place: i32): v128 {
  const value = f32x4.mul(inverse, v128.load32_splat(sizes + at + 4 * k));
  const risen = f32x4.ge(value, v128.load32_splat(bounds + 4 * k));
  return i32x4.add(code, v128.and(risen, i32x4.splat(place)));
}

/**
 * Codes of a group of eight in all trials, for values within 2^22 at every inverse scale.
 *
 * A digit is 1 above 2 and 2 from 4 on: with ties to even, and no rounding in the subtraction of 1 there. The
 * largest inverse scale is less than twice the smallest, so no element passes both bounds during the trials.
 */
function risingCodes(at: usize): void {
  const start = v128.load32_splat(inverses);
  const two = f32x4.splat(2);
  const above = f32x4.splat(reinterpret<f32>(0x40000001));
  const four = f32x4.splat(4);
  const low = f32x4.gt(f32x4.mul(start, v128.load(sizes + at)), two);
  const high = f32x4.gt(f32x4.mul(start, v128.load(sizes + at, 16)), two);
  v128.store(bounds, v128.bitselect(four, above, low));
  v128.store(bounds, v128.bitselect(four, above, high), 16);
  const ones = v128.and(i16x8.narrow_i32x4_s(low, high), i16x8.splat(1));
  let sum = i32x4.dot_i16x8_s(ones, i16x8(1, 3, 9, 27, 81, 243, 729, 2187));
  sum = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 2, 3, 0, 1));
  const first = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 1, 0, 3, 2));
  for (let t: usize = 0; t < 4 * <usize>trials; t += 16) {
    const inverse = v128.load(inverses + t);
    let code = addRise(first, at, 0, inverse, 1);
    code = addRise(code, at, 1, inverse, 3);
    code = addRise(code, at, 2, inverse, 9);
    code = addRise(code, at, 3, inverse, 27);
    code = addRise(code, at, 4, inverse, 81);
    code = addRise(code, at, 5, inverse, 243);
    code = addRise(code, at, 6, inverse, 729);
    code = addRise(code, at, 7, inverse, 2187);
    v128.store(codes + t, code);
  }
}

/**
 * Makes the codes of a group in all trials.
 *
 * @param rising whether all values are within 2^22 at every inverse scale
 */
// @ts-ignore: decorator
@inline export function makeCodes(at: usize, rising: bool, eight: bool): void {
  if (eight && rising) return risingCodes(at);
  for (let t: usize = 0; t < 4 * <usize>trials; t += 16) {
    v128.store(codes + t, codesAt(at, v128.load(inverses + t), eight));
  }
}

/** The last trials of all runs that give a group the same code, as bits. */
// @ts-ignore: decorator
@inline export function endsOfRuns(): u32 {
  let ends: u32 = 0;
  for (let t: usize = 0; t < <usize>trials; t += 4) {
    const changes = i32x4.ne(v128.load(codes + 4 * t), v128.load(codes + 4 * t, 4));
    ends |= <u32>i32x4.bitmask(changes) << <u32>t;
  }
  const last: u32 = 1 << (trials - 1);
  return (ends & (last - 1)) | last;
}
