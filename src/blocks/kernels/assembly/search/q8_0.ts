// Q8_0: see `src/blocks/search/q8_0.ts`, which says the same. Lanes are values of one block, for the integers eight.

import { halfOf } from "../half";
import { MAGIC_BITS } from "../legacy/pack";
import { MAGIC } from "../rounding";
import { inverseOf, stored } from "./halves";
import { LEAST } from "./lanes";
import { NEGLIGIBLE } from "./scale";
import { levels16 } from "./scaled";

/** Bytes of the values of a block. */
const PART: usize = 4 * 32;
const BYTES: usize = 34;

const FROM: i32 = 254;
const BY: i32 = 2;
const TRIALS: i32 = 24;

/** Half of what is cut off from a distance, and how many bits that are. */
const ROUNDING: i32 = 512;
const CUT: i32 = 10;
const LARGEST_VALUE: f32 = 32767;
const LARGEST_WEIGHT: i32 = 1023;

/** Weights of a block. */
const weights: usize = memory.data(4 * 32, 16);

/** Values and weights of a block as integers. */
let valuesA: v128 = i32x4.splat(0);
let valuesB: v128 = i32x4.splat(0);
let valuesC: v128 = i32x4.splat(0);
let valuesD: v128 = i32x4.splat(0);
let sharesA: v128 = i32x4.splat(0);
let sharesB: v128 = i32x4.splat(0);
let sharesC: v128 = i32x4.splat(0);
let sharesD: v128 = i32x4.splat(0);

/** The larger of neighbours and of lanes two apart: the largest lane everywhere. */
// @ts-ignore: decorator
@inline function largestLane(v: v128): v128 {
  const pairs = f32x4.pmax(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.pmax(pairs, v128.shuffle<i32>(pairs, pairs, 1, 0, 3, 2));
}

/** Sum of four lanes, everywhere: the first and third, and the second and fourth. */
// @ts-ignore: decorator
@inline function sumOf(v: v128): v128 {
  const pairs = f32x4.add(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.add(pairs, v128.shuffle<i32>(pairs, pairs, 1, 0, 3, 2));
}

/** Puts the importances of a block in units of the largest: see `blockWeights`. */
// @ts-ignore: decorator
@inline function weigh(importance: usize): void {
  let most = v128.load(importance);
  for (let j: usize = 16; j < PART; j += 16) most = f32x4.pmax(most, v128.load(importance + j));
  most = largestLane(most);
  const alike = f32x4.lt(most, f32x4.splat(LEAST));
  const one = f32x4.splat(1);
  const inverse = f32x4.div(one, v128.bitselect(one, most, alike));
  for (let j: usize = 0; j < PART; j += 16) {
    v128.store(weights + j, v128.bitselect(one, f32x4.mul(v128.load(importance + j), inverse), alike));
  }
}

/** The largest magnitude among the values that have a weight. */
// @ts-ignore: decorator
@inline function largestOf(x: usize, weighted: bool): v128 {
  let most = i32x4.splat(0);
  for (let j: usize = 0; j < PART; j += 16) {
    let size = f32x4.abs(v128.load(x + j));
    if (weighted) size = v128.and(size, f32x4.gt(v128.load(weights + j), i32x4.splat(0)));
    most = f32x4.pmax(most, size);
  }
  return largestLane(most);
}

/** Numbers times a unit, as integers. */
// @ts-ignore: decorator
@inline function integers(at: usize, unit: v128): v128 {
  return i32x4.sub(
    f32x4.add(f32x4.mul(v128.load(at), unit), f32x4.splat(MAGIC)),
    i32x4.splat(MAGIC_BITS),
  );
}

// @ts-ignore: decorator
@inline function eightIntegers(at: usize, unit: v128): v128 {
  return i16x8.narrow_i32x4_s(integers(at, unit), integers(at + 16, unit));
}

// @ts-ignore: decorator
@inline function errors(distance: v128, shares: v128, weighted: bool): v128 {
  const cut = i16x8.shr_s(distance, CUT);
  return i32x4.dot_i16x8_s(cut, weighted ? i16x8.mul(cut, shares) : cut);
}

/** Sums of the four lanes of four vectors. */
// @ts-ignore: decorator
@inline function sums(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = i32x4.add(v128.shuffle<i32>(a, b, 0, 4, 1, 5), v128.shuffle<i32>(a, b, 2, 6, 3, 7));
  const cd = i32x4.add(v128.shuffle<i32>(c, d, 0, 4, 1, 5), v128.shuffle<i32>(c, d, 2, 6, 3, 7));
  return i32x4.add(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

/** Sums of a trial, to be added up. */
// @ts-ignore: decorator
@inline function sumsOf(a: v128, b: v128, c: v128, d: v128, weighted: bool): v128 {
  const ab = i32x4.add(errors(a, sharesA, weighted), errors(b, sharesB, weighted));
  return i32x4.add(ab, i32x4.add(errors(c, sharesC, weighted), errors(d, sharesD, weighted)));
}

/** The best trial, in all lanes. */
// @ts-ignore: decorator
@inline function bestTrial(weighted: bool): v128 {
  const first = i16x8.splat(<i16>FROM);
  const rounding = i16x8.splat(<i16>ROUNDING);
  let a = i16x8.add(i16x8.mul(valuesA, first), rounding);
  let b = i16x8.add(i16x8.mul(valuesB, first), rounding);
  let c = i16x8.add(i16x8.mul(valuesC, first), rounding);
  let d = i16x8.add(i16x8.mul(valuesD, first), rounding);
  // One trial further.
  const nextA = i16x8.shl(valuesA, BY >> 1);
  const nextB = i16x8.shl(valuesB, BY >> 1);
  const nextC = i16x8.shl(valuesC, BY >> 1);
  const nextD = i16x8.shl(valuesD, BY >> 1);
  let least = f32x4.splat(Infinity);
  let best = i32x4.splat(0);
  let trial = f32x4(<f32>FROM, <f32>(FROM - BY), <f32>(FROM - BY * 2), <f32>(FROM - BY * 3));
  for (let t = 0; t < TRIALS; t += 4) {
    const first = sumsOf(a, b, c, d, weighted);
    a = i16x8.sub(a, nextA);
    b = i16x8.sub(b, nextB);
    c = i16x8.sub(c, nextC);
    d = i16x8.sub(d, nextD);
    const second = sumsOf(a, b, c, d, weighted);
    a = i16x8.sub(a, nextA);
    b = i16x8.sub(b, nextB);
    c = i16x8.sub(c, nextC);
    d = i16x8.sub(d, nextD);
    const third = sumsOf(a, b, c, d, weighted);
    a = i16x8.sub(a, nextA);
    b = i16x8.sub(b, nextB);
    c = i16x8.sub(c, nextC);
    d = i16x8.sub(d, nextD);
    const fourth = sumsOf(a, b, c, d, weighted);
    a = i16x8.sub(a, nextA);
    b = i16x8.sub(b, nextB);
    c = i16x8.sub(c, nextC);
    d = i16x8.sub(d, nextD);
    let sum = sums(first, second, third, fourth);
    if (!weighted) sum = i32x4.mul(sum, i32x4.splat(LARGEST_WEIGHT));
    const loss = f32x4.mul(f32x4.convert_i32x4_s(sum), f32x4.div(f32x4.splat(1), f32x4.mul(trial, trial)));
    best = v128.bitselect(trial, best, f32x4.lt(loss, least));
    least = f32x4.pmin(loss, least);
    trial = f32x4.sub(trial, f32x4.splat(<f32>(BY * 4)));
  }
  const lanes = f32x4.eq(least, f32x4.neg(largestLane(f32x4.neg(least))));
  // Copies the best lane, the first of equals, to all.
  let found = v128.shuffle<i32>(best, best, 3, 3, 3, 3);
  found = v128.bitselect(v128.shuffle<i32>(best, best, 2, 2, 2, 2), found, v128.shuffle<i32>(lanes, lanes, 2, 2, 2, 2));
  found = v128.bitselect(v128.shuffle<i32>(best, best, 1, 1, 1, 1), found, v128.shuffle<i32>(lanes, lanes, 1, 1, 1, 1));
  return v128.bitselect(v128.shuffle<i32>(best, best, 0, 0, 0, 0), found, v128.shuffle<i32>(lanes, lanes, 0, 0, 0, 0));
}

// @ts-ignore: decorator
@inline function levelsOf(x: v128, inverse: v128): v128 {
  const level = f32x4.nearest(f32x4.mul(x, inverse));
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(127)), f32x4.splat(-127));
}

/** The scale that suits the levels under an inverse scale best. */
// @ts-ignore: decorator
@inline function fitScale(x: usize, inverse: v128, weighted: bool): v128 {
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  for (let j: usize = 0; j < PART; j += 16) {
    const value = v128.load(x + j);
    const level = levelsOf(value, inverse);
    const own = weighted ? f32x4.mul(v128.load(weights + j), level) : level;
    product = f32x4.add(product, f32x4.mul(own, value));
    square = f32x4.add(square, f32x4.mul(own, level));
  }
  return f32x4.div(sumOf(product), sumOf(square));
}

/** Whichever of two stored scales loses less, the second one if both lose the same. */
// @ts-ignore: decorator
@inline function better(x: usize, a: v128, b: v128, weighted: bool): v128 {
  const inverseA = inverseOf(a);
  const inverseB = inverseOf(b);
  let errorA = i32x4.splat(0);
  let errorB = i32x4.splat(0);
  for (let j: usize = 0; j < PART; j += 16) {
    const value = v128.load(x + j);
    const offA = f32x4.sub(value, f32x4.mul(a, levelsOf(value, inverseA)));
    const offB = f32x4.sub(value, f32x4.mul(b, levelsOf(value, inverseB)));
    const squareA = f32x4.mul(offA, offA);
    const squareB = f32x4.mul(offB, offB);
    errorA = f32x4.add(errorA, weighted ? f32x4.mul(v128.load(weights + j), squareA) : squareA);
    errorB = f32x4.add(errorB, weighted ? f32x4.mul(v128.load(weights + j), squareB) : squareB);
  }
  return v128.bitselect(a, b, f32x4.lt(sumOf(errorA), sumOf(errorB)));
}

/** The scale of a block as the half stores it, in all lanes. */
// @ts-ignore: decorator
@inline function searchScale(x: usize, largest: v128, weighted: bool): v128 {
  const unit = f32x4.div(f32x4.splat(LARGEST_VALUE), largest);
  valuesA = eightIntegers(x, unit);
  valuesB = eightIntegers(x + 32, unit);
  valuesC = eightIntegers(x + 64, unit);
  valuesD = eightIntegers(x + 96, unit);
  if (weighted) {
    const share = f32x4.splat(<f32>LARGEST_WEIGHT);
    sharesA = eightIntegers(weights, share);
    sharesB = eightIntegers(weights + 32, share);
    sharesC = eightIntegers(weights + 64, share);
    sharesD = eightIntegers(weights + 96, share);
  }
  const inverse = f32x4.div(bestTrial(weighted), f32x4.add(largest, largest));
  const scale = stored(fitScale(x, inverse, weighted));
  return better(x, scale, stored(f32x4.div(largest, f32x4.splat(127))), weighted);
}

// @ts-ignore: decorator
@inline function encodeBlocks(x: usize, importance: usize, output: usize, values: i32, weighted: bool): void {
  for (; values > 0; values -= 32) {
    if (weighted) {
      weigh(importance);
      importance += PART;
    }
    const largest = largestOf(x, weighted);
    let d: v128 = i32x4.splat(0);
    if (f32x4.extract_lane(largest, 0) > NEGLIGIBLE) d = searchScale(x, largest, weighted);
    const inverse = inverseOf(d);
    store<u16>(output, halfOf(f32x4.extract_lane(d, 0)));
    v128.store(output, levels16(x, inverse, -127, 127, 0), 2);
    v128.store(output, levels16(x + 64, inverse, -127, 127, 0), 18);
    x += PART;
    output += BYTES;
  }
}

export function searchQ8_0(x: usize, weights: usize, output: usize, values: i32): void {
  if (weights === 0) encodeBlocks(x, 0, output, values, false);
  else encodeBlocks(x, weights, output, values, true);
}
