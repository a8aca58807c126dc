// How the search for affine scales holds what it searches.
//
// Lanes are sub-blocks, and the values are walked in order: every sum of a sub-block is taken in the order of
// ggml's scalar code and has the same bits. Four sub-blocks are a group; two groups are a set and are walked
// together, for the sums of one wait for the adder most of the time. A second set is searched in turns with the
// first, for between the sums there are long chains of divisions.

import { turnFour } from "../turn";

/** A set: for every value of up to 32 its vectors, then the numbers of its groups. */
export const sets: usize = memory.data(2 * 3616, 16);
export const SET: usize = 3616;

/** From a value to the next: four lanes of each group of the value itself, its weight and its level. */
export const STRIDE: usize = 96;
export const WEIGHT: usize = 32;
export const LEVEL: usize = 64;
/** From the first group to the second, within each of these. */
export const NEXT: usize = 16;

/** Numbers of a group, four lanes each. */
export const GROUPS: usize = 32 * 96;
export const GROUP: usize = 272;
/** Sums of the weights and of weight · value. */
export const SUM_W: usize = 0;
export const SUM_X: usize = 16;
/** Lowest value or 0, highest value, and which sub-blocks have a range between these. */
export const LOW: usize = 32;
export const HIGH: usize = 48;
export const RANGED: usize = 64;
/** The best so far: its error, its scale and offset, and from which offset and inverse scale its levels came. */
export const ERROR: usize = 80;
export const SCALE: usize = 96;
export const OFFSET: usize = 112;
export const FROM: usize = 128;
export const INVERSE: usize = 144;
/** The trial: its inverse scale, sums of weight · level, weight · level² and weight · level · value, and its fit. */
export const TRIED: usize = 160;
export const SUM_L: usize = 176;
export const SUM_LL: usize = 192;
export const SUM_LX: usize = 208;
export const FIT_SCALE: usize = 224;
export const FIT_OFFSET: usize = 240;
export const FIT_ERROR: usize = 256;

// @ts-ignore: decorator
@inline export function zero(): v128 {
  return i32x4.splat(0);
}

/** Spreads eight sub-blocks of `count` values over the lanes. */
// @ts-ignore: decorator
@inline function turn(from: usize, count: i32, to: usize): void {
  const step = <usize>count * 4;
  for (let j: usize = 0; j < <usize>count; j += 4) {
    turnFour(from + 4 * j, step, to + STRIDE * j, STRIDE);
    turnFour(from + 4 * j + 4 * step, step, to + STRIDE * j + NEXT, STRIDE);
  }
}

/** Eight sub-blocks of 16 values; each magnitude is its weight. */
export function placeByMagnitude(set: usize, x: usize): void {
  turn(x, 16, set);
  for (let at = set; at < set + 16 * STRIDE; at += STRIDE) {
    v128.store(at, f32x4.abs(v128.load(at)), WEIGHT);
    v128.store(at, f32x4.abs(v128.load(at, NEXT)), WEIGHT + NEXT);
  }
}

/** Eight sub-blocks of 32 values; a weight is the root of their mean square plus the magnitude. */
export function placeBySpread(set: usize, x: usize): void {
  turn(x, 32, set);
  let a = zero();
  let b = zero();
  for (let at = set; at < set + 32 * STRIDE; at += STRIDE) {
    const valueA = v128.load(at);
    const valueB = v128.load(at, NEXT);
    a = f32x4.add(a, f32x4.mul(valueA, valueA));
    b = f32x4.add(b, f32x4.mul(valueB, valueB));
  }
  a = f32x4.sqrt(f32x4.mul(a, f32x4.splat(0.03125)));
  b = f32x4.sqrt(f32x4.mul(b, f32x4.splat(0.03125)));
  for (let at = set; at < set + 32 * STRIDE; at += STRIDE) {
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
export function placeByImportance(set: usize, x: usize, importance: usize, count: i32, variance: f32): void {
  turn(x, count, set);
  turn(importance, count, set + WEIGHT);
  const v = f32x4.splat(variance);
  for (let at = set; at < set + <usize>count * STRIDE; at += STRIDE) {
    weigh(at, v);
    weigh(at + NEXT, v);
  }
}

/** Range and sums of a group. What has no range is given one: its result is not used, see `finish`. */
// @ts-ignore: decorator
@inline function measureGroup(count: i32, set: usize, next: usize, group: usize): void {
  const first = set + next;
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

/** Takes the range and the sums of the weights of a set. */
export function measure(set: usize, count: i32): void {
  measureGroup(count, set, 0, set + GROUPS);
  measureGroup(count, set, NEXT, set + GROUPS + GROUP);
}
