// Codes of 8 bits: see `searchEight` in `src/blocks/nbits/eight.ts`, which says the same for one block.
//
// A lane of 32 bits belongs to a block, and holds two of its values as 16-bit integers.

import { MAGIC_BITS } from "../legacy/pack";
import { MAGIC } from "../rounding";
import { stored } from "../search/halves";
import { turned, WEIGHTS } from "../search/lanes";
import { NEGLIGIBLE } from "../search/scale";
import { compare, comparePlain, fitTo } from "./fit";
import { findRange, high, largest, low, pointOf } from "./range";

const TOP: f32 = 255;
const TRIALS: i32 = 24;
const LARGEST_VALUE: f32 = 32767;
const LARGEST_WEIGHT: f32 = 1023;

/** Half of what is cut off from a distance, and how many bits that are. */
const ROUNDING: i32 = 512;
const CUT: i32 = 10;

/** Two values of the four blocks at each vector; their weights lie behind, this far. */
const pairs: usize = memory.data(2 * 128 * 16, 16);
const SHARES: usize = 128 * 16;

/** Numbers times a unit, as integers. */
// @ts-ignore: decorator
@inline function integers(numbers: v128, unit: v128): v128 {
  const sum = f32x4.add(f32x4.mul(numbers, unit), f32x4.splat(MAGIC));
  return i32x4.sub(sum, i32x4.splat(MAGIC_BITS));
}

/** Two integers to a lane. */
// @ts-ignore: decorator
@inline function paired(low: v128, high: v128): v128 {
  return v128.or(v128.and(low, i32x4.splat(0xffff)), i32x4.shl(high, 16));
}

// @ts-ignore: decorator
@inline function valueAt(at: usize, weighted: bool): v128 {
  const x = v128.load(at);
  return weighted ? v128.and(x, f32x4.gt(v128.load(at, WEIGHTS), i32x4.splat(0))) : x;
}

// @ts-ignore: decorator
@inline function makePairs(values: usize, most: v128, weighted: bool): void {
  const unit = f32x4.div(f32x4.splat(LARGEST_VALUE), most);
  const whole = f32x4.splat(LARGEST_WEIGHT);
  for (let at = turned, to = pairs; at < turned + 16 * values; at += 32, to += 16) {
    v128.store(to, paired(integers(valueAt(at, weighted), unit), integers(valueAt(at + 16, weighted), unit)));
    if (!weighted) continue;
    const first = integers(v128.load(at, WEIGHTS), whole);
    const second = integers(v128.load(at + 16, WEIGHTS), whole);
    v128.store(to, paired(first, second), SHARES);
  }
}

/** Adds weighted squares of distances to a sum. */
// @ts-ignore: decorator
@inline function addSquares(sum: v128, distance: v128, shares: v128, weighted: bool): v128 {
  const cut = i16x8.shr_s(distance, CUT);
  return i32x4.add(sum, i32x4.dot_i16x8_s(cut, weighted ? i16x8.mul(cut, shares) : cut));
}

let bestTrial: v128 = i32x4.splat(0);
let leastLoss: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function settle(trial: v128, sum: v128): void {
  const number = f32x4.convert_i32x4_s(trial);
  const loss = f32x4.div(f32x4.convert_i32x4_s(sum), f32x4.mul(number, number));
  const better = f32x4.lt(loss, leastLoss);
  bestTrial = v128.bitselect(number, bestTrial, better);
  leastLoss = v128.bitselect(loss, leastLoss, better);
}

/** Four trials, each with a number two less than the last. */
// @ts-ignore: decorator
@inline function tryFour(from: v128, values: usize, weighted: bool): void {
  const trial = v128.or(from, i32x4.shl(from, 16));
  const rounding = i16x8.splat(<i16>ROUNDING);
  let a = i32x4.splat(0);
  let b = a;
  let c = a;
  let d = a;
  for (let at = pairs; at < pairs + 8 * values; at += 16) {
    const pair = v128.load(at);
    const shares = weighted ? v128.load(at, SHARES) : pair;
    const step = i16x8.add(pair, pair);
    let distance = i16x8.add(i16x8.mul(pair, trial), rounding);
    a = addSquares(a, distance, shares, weighted);
    distance = i16x8.sub(distance, step);
    b = addSquares(b, distance, shares, weighted);
    distance = i16x8.sub(distance, step);
    c = addSquares(c, distance, shares, weighted);
    distance = i16x8.sub(distance, step);
    d = addSquares(d, distance, shares, weighted);
  }
  settle(from, a);
  settle(i32x4.sub(from, i32x4.splat(2)), b);
  settle(i32x4.sub(from, i32x4.splat(4)), c);
  settle(i32x4.sub(from, i32x4.splat(6)), d);
}

/** Finds scales and zero points (`bestScale`, `bestZero`); returns the blocks that are next to nothing. */
// @ts-ignore: decorator
@inline export function searchEight(values: usize, points: bool, weighted: bool): v128 {
  if (weighted) findRange(values, true);
  const sizes = largest();
  const nothing = f32x4.le(sizes, f32x4.splat(NEGLIGIBLE));
  const most = v128.bitselect(f32x4.splat(1), sizes, nothing);
  const range = v128.bitselect(f32x4.splat(1), f32x4.sub(high, low), nothing);
  let from = i32x4.splat(256);
  if (points) {
    const spread = f32x4.div(f32x4.mul(f32x4.splat(2 * TOP), most), range);
    from = i32x4.trunc_sat_f32x4_s(spread);
  }
  makePairs(values, most, weighted);
  bestTrial = f32x4.convert_i32x4_s(from);
  leastLoss = f32x4.splat(Infinity);
  for (let t = 0; t < TRIALS; t += 4) tryFour(i32x4.sub(from, i32x4.splat(2 * t)), values, weighted);
  let inverse = f32x4.div(bestTrial, f32x4.add(most, most));
  let zero = f32x4.splat(128);
  if (points) {
    const room = f32x4.sub(f32x4.splat(TOP), f32x4.mul(f32x4.add(low, high), inverse));
    zero = pointOf(f32x4.mul(room, f32x4.splat(0.5)), TOP);
  } else {
    const upside = f32x4.ge(high, f32x4.neg(low));
    inverse = v128.bitselect(f32x4.neg(inverse), inverse, upside);
  }
  comparePlain(TOP, values, weighted);
  compare(stored(fitTo(inverse, zero, TOP, values, weighted)), zero, TOP, values, weighted);
  return nothing;
}
