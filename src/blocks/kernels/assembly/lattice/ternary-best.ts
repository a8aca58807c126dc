// The best cut of a sub-block, and why most cuts need no look.
//
// ggml takes the cuts in turn and keeps a new one when product² > best · square in float32, where a cut's score is
// product² / square and `best` the rounded score of the one kept. Roundings make this more than a maximum: a cut
// within some 2^-22 of the best may win or lose. But cuts whose scores lie below the greatest by more than
// `MARGIN` have no say: take only the others, k of them, in the same order. Between the margin and the greatest
// score the running maximum must somewhere rise by a factor of at least 1 + MARGIN / k. A cut that rises more than
// the roundings is taken whatever was kept before, and from there on both processions are the same; what is
// kept can then sink by no more than the roundings of k comparisons. With at most `MOST` contenders,
// MARGIN > k·(2k + 3)·2^-21.6 holds, with room for the scan, whose scores are off by less than 2^-13.
//
// Where there are more of them (equal values), or where products leave the normal range of float32, all
// cuts are taken.

/** Fraction of the greatest score that a contender may lack. */
export const MARGIN: f32 = 1.0 / 256;
/** Most contenders. */
export const MOST: i32 = 64;

/** Scores, weights and their products that are safe from overflow, and from loss by underflow. */
const SMALL: f32 = 1e-27;
const LARGE: f32 = 1e30;

/** The best cut so far; `shifts` has bit g set when the levels of group g are shifted down, -1 before any cut. */
export let low: i32 = 0;
export let high: i32 = 0;
export let shifts: i32 = -1;
export let scale: f32 = 0;
let score: f32 = 0;

/** Cuts with a contender: `low` and `high`, two bytes. */
const cuts: usize = memory.data(2 * 64, 16);
let cutCount: i32 = 0;
let contenders: i32 = 0;

/** Starts a search. */
// @ts-ignore: decorator
@inline export function begin(): void {
  shifts = -1;
  score = -f32.MAX_VALUE;
  cutCount = 0;
  contenders = 0;
}

/** Takes a cut if it is better. */
// @ts-ignore: decorator
@inline export function take(product: f32, square: f32, atLow: i32, atHigh: i32, withShifts: i32): void {
  if (square > 0 && product * product > score * square) {
    scale = product / square;
    score = scale * product;
    low = atLow;
    high = atHigh;
    shifts = withShifts;
  }
}

/** Whether contenders can be told from the rest by a score that one of the cuts has, and the sum of weights. */
// @ts-ignore: decorator
@inline export function isSafe(known: f32, weight: f32): bool {
  const least = min(min(known, weight), known * weight);
  const most = max(max(known, weight), known * weight);
  return least > SMALL && most < LARGE;
}

/** Notes the cuts at `low` and from `high` on, one for each lane in `lanes`, and `more` contenders. */
// @ts-ignore: decorator
@inline export function note(atLow: i32, fromHigh: i32, lanes: i32, more: i32): bool {
  contenders += more;
  if (contenders > MOST) return false;
  while (lanes !== 0) {
    store<u16>(cuts + 2 * cutCount++, atLow | ((fromHigh + ctz(lanes)) << 8));
    lanes &= lanes - 1;
  }
  return true;
}

// @ts-ignore: decorator
@inline export function notedCuts(): i32 {
  return cutCount;
}

// @ts-ignore: decorator
@inline export function notedLow(index: i32): i32 {
  return load<u8>(cuts + 2 * index);
}

// @ts-ignore: decorator
@inline export function notedHigh(index: i32): i32 {
  return load<u8>(cuts + 2 * index, 1);
}

/** The largest of four lanes. */
// @ts-ignore: decorator
@inline export function largestLane(lanes: v128): f32 {
  const pairs = f32x4.pmax(lanes, v128.shuffle<i32>(lanes, lanes, 2, 3, 0, 1));
  return max(f32x4.extract_lane(pairs, 0), f32x4.extract_lane(pairs, 1));
}
