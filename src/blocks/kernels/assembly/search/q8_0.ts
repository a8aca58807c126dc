// Q8_0: see `src/blocks/search/q8_0.ts`, which says the same for one block.
//
// Lanes are values of a block, eight of them as integers. What there is one of in a block is computed for four blocks
// at once, and every step is done for all four before the next: one step of a block waits for another.

import { halves } from "../half";
import { laneAt } from "../legacy/lanes";
import { MAGIC_BITS } from "../legacy/pack";
import { MAGIC } from "../rounding";
import { turn4 } from "../turn";
import { inverseOf, stored } from "./halves";
import { LEAST } from "./lanes";
import { NEGLIGIBLE } from "./scale";
import { levels16 } from "./scaled";

/** Bytes of the values of a block, and of what is stored of them. */
const PART: usize = 4 * 32;
const BYTES: usize = 34;

/** Trials put the largest magnitude on level FROM / 2, and each other one BY / 2 levels lower. */
const FROM: i32 = 254;
const BY: i32 = 2;
const TRIALS: i32 = 24;

/** Half of what is cut off from a distance, and how many bits that are. */
const ROUNDING: i32 = 512;
const CUT: i32 = 10;
const LARGEST_VALUE: f32 = 32767;
const LARGEST_WEIGHT: i32 = 1023;

/** Where the four blocks start, and their weights. */
const blocks: usize = memory.data(4 * 4, 16);
const weights: usize = memory.data(4 * 128, 16);

/** Numbers of the four blocks, to be copied to all lanes. */
const numbers: usize = memory.data(4 * 16, 16);

/** A vector of each of the four blocks, to be reduced to a lane each. */
const partsA: usize = memory.data(4 * 16, 16);
const partsB: usize = memory.data(4 * 16, 16);

// @ts-ignore: decorator
@inline function blockAt(b: usize): usize {
  return load<usize>(blocks + 4 * b);
}

/** Every other lane of two vectors, from lane 0 and from lane 2 on. */
// @ts-ignore: decorator
@inline function low(a: v128, b: v128): v128 {
  return v128.shuffle<i32>(a, b, 0, 4, 1, 5);
}

// @ts-ignore: decorator
@inline function high(a: v128, b: v128): v128 {
  return v128.shuffle<i32>(a, b, 2, 6, 3, 7);
}

/** Sums of four vectors, a lane each: of its first and third lane, and of its second and fourth. */
// @ts-ignore: decorator
@inline function sumsOf(parts: usize): v128 {
  const a = v128.load(parts);
  const b = v128.load(parts, 16);
  const c = v128.load(parts, 32);
  const d = v128.load(parts, 48);
  const ab = f32x4.add(low(a, b), high(a, b));
  const cd = f32x4.add(low(c, d), high(c, d));
  return f32x4.add(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

/** The same of integers. */
// @ts-ignore: decorator
@inline function wholeSumsOf(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = i32x4.add(low(a, b), high(a, b));
  const cd = i32x4.add(low(c, d), high(c, d));
  return i32x4.add(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

/** The largest lane of four vectors, a lane each. */
// @ts-ignore: decorator
@inline function largestOf(parts: usize): v128 {
  const a = v128.load(parts);
  const b = v128.load(parts, 16);
  const c = v128.load(parts, 32);
  const d = v128.load(parts, 48);
  const ab = f32x4.pmax(low(a, b), high(a, b));
  const cd = f32x4.pmax(low(c, d), high(c, d));
  return f32x4.pmax(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

/** Puts importances in units of the largest of their block: see `blockWeights`. */
// @ts-ignore: decorator
@inline function weigh(apart: usize): void {
  for (let b: usize = 0; b < 4; b++) {
    const from = blockAt(b) + apart;
    let most = v128.load(from);
    for (let j: usize = 16; j < PART; j += 16) most = f32x4.pmax(most, v128.load(from + j));
    v128.store(partsA + 16 * b, most);
  }
  const most = largestOf(partsA);
  const alike = f32x4.lt(most, f32x4.splat(LEAST));
  const one = f32x4.splat(1);
  v128.store(numbers, f32x4.div(one, v128.bitselect(one, most, alike)));
  v128.store(numbers, alike, 16);
  for (let b: usize = 0; b < 4; b++) {
    const from = blockAt(b) + apart;
    const to = weights + PART * b;
    const inverse = v128.load32_splat(numbers + 4 * b);
    const even = v128.load32_splat(numbers + 4 * b, 16);
    for (let j: usize = 0; j < PART; j += 16) {
      v128.store(to + j, v128.bitselect(one, f32x4.mul(v128.load(from + j), inverse), even));
    }
  }
}

/** The largest magnitudes of the values that have a weight. */
// @ts-ignore: decorator
@inline function largestSizes(weighted: bool): v128 {
  for (let b: usize = 0; b < 4; b++) {
    const x = blockAt(b);
    let most = i32x4.splat(0);
    for (let j: usize = 0; j < PART; j += 16) {
      let size = f32x4.abs(v128.load(x + j));
      if (weighted) size = v128.and(size, f32x4.gt(v128.load(weights + PART * b + j), i32x4.splat(0)));
      most = f32x4.pmax(most, size);
    }
    v128.store(partsA + 16 * b, most);
  }
  return largestOf(partsA);
}

/** Numbers times a unit, as integers. */
// @ts-ignore: decorator
@inline function integers(at: usize, unit: v128): v128 {
  const sum = f32x4.add(f32x4.mul(v128.load(at), unit), f32x4.splat(MAGIC));
  return i32x4.sub(sum, i32x4.splat(MAGIC_BITS));
}

// @ts-ignore: decorator
@inline function eightIntegers(at: usize, unit: v128): v128 {
  return i16x8.narrow_i32x4_s(integers(at, unit), integers(at + 16, unit));
}

/** Weighted squares of eight distances, two to a lane. */
// @ts-ignore: decorator
@inline function squares(distance: v128, shares: v128, weighted: bool): v128 {
  const cut = i16x8.shr_s(distance, CUT);
  return i32x4.dot_i16x8_s(cut, weighted ? i16x8.mul(cut, shares) : cut);
}

/** Finds the trial with the least loss in each lane of a block; they go to `partsA`, their losses to `partsB`. */
// @ts-ignore: decorator
@inline function tryBlock(b: usize, unit: v128, weighted: bool): void {
  const x = blockAt(b);
  const own = weights + PART * b;
  const most = f32x4.splat(<f32>LARGEST_WEIGHT);
  // By how much a distance changes from one trial to the next; all of them are modulo 2^16.
  const by = i16x8.splat(<i16>BY);
  const stepA = i16x8.mul(eightIntegers(x, unit), by);
  const stepB = i16x8.mul(eightIntegers(x + 32, unit), by);
  const stepC = i16x8.mul(eightIntegers(x + 64, unit), by);
  const stepD = i16x8.mul(eightIntegers(x + 96, unit), by);
  const sharesA = weighted ? eightIntegers(own, most) : by;
  const sharesB = weighted ? eightIntegers(own + 32, most) : by;
  const sharesC = weighted ? eightIntegers(own + 64, most) : by;
  const sharesD = weighted ? eightIntegers(own + 96, most) : by;
  const steps = i16x8.splat(<i16>(FROM / BY));
  const rounding = i16x8.splat(<i16>ROUNDING);
  let distanceA = i16x8.add(i16x8.mul(stepA, steps), rounding);
  let distanceB = i16x8.add(i16x8.mul(stepB, steps), rounding);
  let distanceC = i16x8.add(i16x8.mul(stepC, steps), rounding);
  let distanceD = i16x8.add(i16x8.mul(stepD, steps), rounding);
  let least = f32x4.splat(Infinity);
  let best = i32x4.splat(0);
  let trial = f32x4(<f32>FROM, <f32>(FROM - BY), <f32>(FROM - BY * 2), <f32>(FROM - BY * 3));
  for (let t = 0; t < TRIALS; t += 4) {
    let sum0 = squares(distanceA, sharesA, weighted);
    sum0 = i32x4.add(sum0, squares(distanceB, sharesB, weighted));
    sum0 = i32x4.add(sum0, squares(distanceC, sharesC, weighted));
    sum0 = i32x4.add(sum0, squares(distanceD, sharesD, weighted));
    distanceA = i16x8.sub(distanceA, stepA);
    distanceB = i16x8.sub(distanceB, stepB);
    distanceC = i16x8.sub(distanceC, stepC);
    distanceD = i16x8.sub(distanceD, stepD);
    let sum1 = squares(distanceA, sharesA, weighted);
    sum1 = i32x4.add(sum1, squares(distanceB, sharesB, weighted));
    sum1 = i32x4.add(sum1, squares(distanceC, sharesC, weighted));
    sum1 = i32x4.add(sum1, squares(distanceD, sharesD, weighted));
    distanceA = i16x8.sub(distanceA, stepA);
    distanceB = i16x8.sub(distanceB, stepB);
    distanceC = i16x8.sub(distanceC, stepC);
    distanceD = i16x8.sub(distanceD, stepD);
    let sum2 = squares(distanceA, sharesA, weighted);
    sum2 = i32x4.add(sum2, squares(distanceB, sharesB, weighted));
    sum2 = i32x4.add(sum2, squares(distanceC, sharesC, weighted));
    sum2 = i32x4.add(sum2, squares(distanceD, sharesD, weighted));
    distanceA = i16x8.sub(distanceA, stepA);
    distanceB = i16x8.sub(distanceB, stepB);
    distanceC = i16x8.sub(distanceC, stepC);
    distanceD = i16x8.sub(distanceD, stepD);
    let sum3 = squares(distanceA, sharesA, weighted);
    sum3 = i32x4.add(sum3, squares(distanceB, sharesB, weighted));
    sum3 = i32x4.add(sum3, squares(distanceC, sharesC, weighted));
    sum3 = i32x4.add(sum3, squares(distanceD, sharesD, weighted));
    distanceA = i16x8.sub(distanceA, stepA);
    distanceB = i16x8.sub(distanceB, stepB);
    distanceC = i16x8.sub(distanceC, stepC);
    distanceD = i16x8.sub(distanceD, stepD);
    let sum = wholeSumsOf(sum0, sum1, sum2, sum3);
    if (!weighted) sum = i32x4.mul(sum, i32x4.splat(LARGEST_WEIGHT));
    const loss = f32x4.mul(f32x4.convert_i32x4_s(sum), f32x4.div(f32x4.splat(1), f32x4.mul(trial, trial)));
    best = v128.bitselect(trial, best, f32x4.lt(loss, least));
    least = f32x4.pmin(least, loss);
    trial = f32x4.sub(trial, f32x4.splat(<f32>(BY * 4)));
  }
  v128.store(partsA + 16 * b, best);
  v128.store(partsB + 16 * b, least);
}

/** The best of the trials that `tryBlock` found for each block: of equal ones that of the first lane. */
// @ts-ignore: decorator
@inline function bestTrials(): v128 {
  turn4(
    v128.load(partsA),
    v128.load(partsA, 16),
    v128.load(partsA, 32),
    v128.load(partsA, 48),
    partsA,
    16,
  );
  turn4(
    v128.load(partsB),
    v128.load(partsB, 16),
    v128.load(partsB, 32),
    v128.load(partsB, 48),
    partsB,
    16,
  );
  let best = v128.load(partsA);
  let least = v128.load(partsB);
  for (let lane: usize = 16; lane < 64; lane += 16) {
    const loss = v128.load(partsB + lane);
    best = v128.bitselect(v128.load(partsA + lane), best, f32x4.lt(loss, least));
    least = f32x4.pmin(least, loss);
  }
  return best;
}

// @ts-ignore: decorator
@inline function levelsOf(x: v128, inverse: v128): v128 {
  const level = f32x4.nearest(f32x4.mul(x, inverse));
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(127)), f32x4.splat(-127));
}

/** The scales that suit the levels under inverse scales best. */
// @ts-ignore: decorator
@inline function fitScales(inverses: v128, weighted: bool): v128 {
  v128.store(numbers, inverses);
  for (let b: usize = 0; b < 4; b++) {
    const x = blockAt(b);
    const inverse = v128.load32_splat(numbers + 4 * b);
    let product = i32x4.splat(0);
    let square = i32x4.splat(0);
    for (let j: usize = 0; j < PART; j += 16) {
      const value = v128.load(x + j);
      const level = levelsOf(value, inverse);
      const own = weighted ? f32x4.mul(v128.load(weights + PART * b + j), level) : level;
      product = f32x4.add(product, f32x4.mul(own, value));
      square = f32x4.add(square, f32x4.mul(own, level));
    }
    v128.store(partsA + 16 * b, product);
    v128.store(partsB + 16 * b, square);
  }
  return f32x4.div(sumsOf(partsA), sumsOf(partsB));
}

// @ts-ignore: decorator
@inline function squareOff(x: v128, scale: v128, inverse: v128): v128 {
  const off = f32x4.sub(x, f32x4.mul(scale, levelsOf(x, inverse)));
  return f32x4.mul(off, off);
}

/** Whichever of two stored scales loses less in each block, the second one if both lose the same. */
// @ts-ignore: decorator
@inline function better(scales: v128, others: v128, weighted: bool): v128 {
  v128.store(numbers, scales);
  v128.store(numbers, inverseOf(scales), 16);
  v128.store(numbers, others, 32);
  v128.store(numbers, inverseOf(others), 48);
  for (let b: usize = 0; b < 4; b++) {
    const x = blockAt(b);
    const scale = v128.load32_splat(numbers + 4 * b);
    const inverse = v128.load32_splat(numbers + 4 * b, 16);
    const other = v128.load32_splat(numbers + 4 * b, 32);
    const otherInverse = v128.load32_splat(numbers + 4 * b, 48);
    let error = i32x4.splat(0);
    let otherError = i32x4.splat(0);
    for (let j: usize = 0; j < PART; j += 16) {
      const value = v128.load(x + j);
      let square = squareOff(value, scale, inverse);
      let otherSquare = squareOff(value, other, otherInverse);
      if (weighted) {
        const weight = v128.load(weights + PART * b + j);
        square = f32x4.mul(weight, square);
        otherSquare = f32x4.mul(weight, otherSquare);
      }
      error = f32x4.add(error, square);
      otherError = f32x4.add(otherError, otherSquare);
    }
    v128.store(partsA + 16 * b, error);
    v128.store(partsB + 16 * b, otherError);
  }
  return v128.bitselect(scales, others, f32x4.lt(sumsOf(partsA), sumsOf(partsB)));
}

/** The scales of the four blocks as halves store them. */
// @ts-ignore: decorator
@inline function searchScales(weighted: bool): v128 {
  const sizes = largestSizes(weighted);
  const nothing = f32x4.le(sizes, f32x4.splat(NEGLIGIBLE));
  const largest = v128.bitselect(f32x4.splat(1), sizes, nothing);
  v128.store(numbers, f32x4.div(f32x4.splat(LARGEST_VALUE), largest));
  for (let b: usize = 0; b < 4; b++) tryBlock(b, v128.load32_splat(numbers + 4 * b), weighted);
  const scales = stored(fitScales(f32x4.div(bestTrials(), f32x4.add(largest, largest)), weighted));
  const plain = stored(f32x4.div(largest, f32x4.splat(127)));
  return v128.andnot(better(scales, plain, weighted), nothing);
}

// @ts-ignore: decorator
@inline function encodeBlocks(x: usize, apart: usize, output: usize, values: i32, weighted: bool): void {
  for (let left = values / 32; left > 0; left -= 4) {
    for (let b = 0; b < 4; b++) store<usize>(blocks + 4 * <usize>b, laneAt(b, x, PART, left));
    if (weighted) weigh(apart);
    const scales = searchScales(weighted);
    v128.store(numbers, inverseOf(scales));
    v128.store(numbers, halves(scales), 16);
    for (let b: usize = 0; b < <usize>min(4, left); b++) {
      const inverse = v128.load32_splat(numbers + 4 * b);
      store<u16>(output, load<u16>(numbers + 4 * b, 16));
      v128.store(output, levels16(x, inverse, -127, 127, 0), 2);
      v128.store(output, levels16(x + 64, inverse, -127, 127, 0), 18);
      x += PART;
      output += BYTES;
    }
  }
}

export function searchQ8_0(x: usize, weights: usize, output: usize, values: i32): void {
  if (weights === 0) encodeBlocks(x, 0, output, values, false);
  else encodeBlocks(x, weights - x, output, values, true);
}
