// Q4_0 and Q5_0 with an importance: of 19 scales the one that leaves the smallest weighted squared error.

import { halves } from "../half";
import { bytesOf, MAGIC, MAGIC_BITS, packFifths, packNibbles } from "./pack";
import { turnFour } from "./weighted";

/** Magnitudes below this count as zero. */
const NEGLIGIBLE: f32 = 1e-15;

/** Value j of four blocks at 16·j, then its weights, then its products with them. */
const turned: usize = memory.data(3 * 32 * 16, 16);
const WEIGHTS: usize = 32 * 16;
const PRODUCTS: usize = 2 * 32 * 16;
const TURNED_END: usize = turned + 32 * 16;

/** Level sums of two trials: Σ w·x·level and Σ w·level² of the first, then of the second. */
const sums: usize = memory.data(4 * 16, 16);

/** Where the search stands: the scale, the inverse scale that led to it, and scale · Σ w·x·level. */
let bestScale: v128 = i32x4.splat(0);
let bestInverse: v128 = i32x4.splat(0);
let best: v128 = i32x4.splat(0);

/** Levels of one value of four blocks; see `search` for the clamps. */
// @ts-ignore: decorator
@inline function levelsFor(x: v128, inverse: v128, bound: f32, upper: bool, lower: bool): v128 {
  let level = f32x4.nearest(f32x4.mul(x, inverse));
  if (upper) level = f32x4.pmin(level, f32x4.splat(bound - 1));
  if (lower) level = f32x4.pmax(level, f32x4.splat(-bound));
  return level;
}

/** The sums of two trials. Two at a time keep the adders busy: within one every addition waits for the last. */
// @ts-ignore: decorator
@inline function sum(a: v128, b: v128, bound: f32, upper: bool, lower: bool): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    const product = v128.load(at, PRODUCTS);
    const levelA = levelsFor(x, a, bound, upper, lower);
    const levelB = levelsFor(x, b, bound, upper, lower);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(f32x4.mul(weight, levelA), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(f32x4.mul(weight, levelB), levelB));
  }
  v128.store(sums, productA);
  v128.store(sums, squareA, 16);
  v128.store(sums, productB, 32);
  v128.store(sums, squareB, 48);
}

/** Takes a trial over where it is better than what the search has. */
function settle(inverse: v128, product: v128, square: v128): void {
  const scale = f32x4.div(product, square);
  const better = v128.and(
    f32x4.gt(square, i32x4.splat(0)),
    f32x4.gt(f32x4.mul(product, product), f32x4.mul(best, square)),
  );
  bestScale = v128.bitselect(scale, bestScale, better);
  bestInverse = v128.bitselect(inverse, bestInverse, better);
  best = v128.bitselect(f32x4.mul(scale, product), best, better);
}

/** Trial `t` of 18: the inverse scale that puts the extreme value on level -(bound + step/10), in float32 like ggml. */
// @ts-ignore: decorator
@inline function trial(t: i32, bound: f32, extreme: v128): v128 {
  const step = t < 9 ? t - 9 : t - 8;
  return f32x4.div(f32x4.splat(-(bound + <f32>0.1 * <f32>step)), extreme);
}

// @ts-ignore: decorator
@inline function attempt(from: i32, to: i32, extreme: v128, bound: f32, upper: bool, lower: bool): void {
  for (let t = from; t < to; t += 2) {
    const a = trial(t, bound, extreme);
    const b = trial(t + 1, bound, extreme);
    sum(a, b, bound, upper, lower);
    settle(a, v128.load(sums), v128.load(sums, 16));
    settle(b, v128.load(sums, 32), v128.load(sums, 48));
  }
}

/**
 * Tries 19 inverse scales for four blocks. `upper` says whether a value can reach a level above bound - 1.
 *
 * Most clamps of levels cannot matter and are not made. The extreme value itself falls below level -bound only when
 * it is put on -(bound + ½) or lower, in the last trials; a value of the other sign passes bound - 1 only where the
 * extreme value is put on -(bound - ½) or lower, so never in the first four, and in no trial unless it is nearly as
 * large as the extreme value.
 */
// @ts-ignore: decorator
@inline function search(extreme: v128, bound: f32, upper: bool): void {
  const start = f32x4.div(f32x4.splat(-bound), extreme);
  sum(start, start, bound, upper, false);
  const product = v128.load(sums);
  const square = v128.load(sums, 16);
  bestScale = v128.andnot(f32x4.div(product, square), f32x4.eq(square, i32x4.splat(0)));
  bestInverse = start;
  best = f32x4.mul(bestScale, product);
  attempt(0, 4, extreme, bound, false, false);
  attempt(4, 12, extreme, bound, upper, false);
  attempt(12, 18, extreme, bound, upper, true);
}

/** Finds the scales of the four blocks at `turned`; where all values are negligible, scale and inverse are 0. */
// @ts-ignore: decorator
@inline function searchFour(bound: f32): void {
  // The first value of largest magnitude, and the largest magnitude on the other side of zero.
  let extreme = i32x4.splat(0);
  let size = i32x4.splat(0);
  let high = i32x4.splat(0);
  let low = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 16) {
    const x = v128.load(at);
    const magnitude = f32x4.abs(x);
    const more = f32x4.gt(magnitude, size);
    extreme = v128.bitselect(x, extreme, more);
    size = f32x4.pmax(size, magnitude);
    high = f32x4.pmax(high, x);
    low = f32x4.pmin(low, x);
    v128.store(at, f32x4.mul(v128.load(at, WEIGHTS), x), PRODUCTS);
  }
  const nothing = f32x4.lt(size, f32x4.splat(NEGLIGIBLE));
  extreme = v128.bitselect(f32x4.splat(1), extreme, nothing);
  const other = f32x4.pmin(high, f32x4.neg(low));
  // A little less than the ratio of bound - ½ to bound + 0.9.
  const ratio: f32 = (bound - <f32>0.51) / (bound + <f32>0.9);
  if (v128.any_true(f32x4.gt(other, f32x4.mul(size, f32x4.splat(ratio))))) search(extreme, bound, true);
  else search(extreme, bound, false);
  bestScale = v128.andnot(bestScale, nothing);
  bestInverse = v128.andnot(bestInverse, nothing);
}

/** Nearest integers of four numbers plus `bound`, at least 0 and at most 2·bound - 1. */
// @ts-ignore: decorator
@inline function levels4(x: v128, inverse: v128, bound: i32): v128 {
  const rounded = f32x4.add(f32x4.mul(x, inverse), f32x4.splat(MAGIC));
  const level = i32x4.sub(rounded, i32x4.splat(MAGIC_BITS - bound));
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(2 * bound - 1)), i32x4.splat(0));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, inverse: v128, bound: i32): v128 {
  return bytesOf(
    levels4(v128.load(x), inverse, bound),
    levels4(v128.load(x, 16), inverse, bound),
    levels4(v128.load(x, 32), inverse, bound),
    levels4(v128.load(x, 48), inverse, bound),
  );
}

// @ts-ignore: decorator
@inline function storeBlock(x: usize, half: i32, inverse: f32, bound: i32, output: usize): void {
  store<u16>(output, half);
  const lanes = f32x4.splat(inverse);
  // Without an inverse scale the levels are zeros as stored: the lowest level, under a scale of 0.
  const keep = i32x4.splat(inverse == 0 ? 0 : -1);
  const low = v128.and(levels16(x, lanes, bound), keep);
  const high = v128.and(levels16(x + 64, lanes, bound), keep);
  if (bound == 16) packFifths(low, high, output + 2);
  else packNibbles(low, high, output + 2);
}

/** Scales as halves and inverse scales of four blocks. */
const found: usize = memory.data(2 * 16, 16);

// @ts-ignore: decorator
@inline function encode(x: usize, weights: usize, output: usize, values: i32, mean: f32, bound: i32): void {
  const bytes: usize = bound == 16 ? 22 : 18;
  const importance = weights - x;
  for (let blocks = values / 32; blocks > 0; blocks -= 4) {
    turnFour(x, 0, blocks, importance, mean, turned, turned + WEIGHTS, 16);
    searchFour(<f32>bound);
    v128.store(found, halves(bestScale));
    v128.store(found, bestInverse, 16);
    for (let k = 0; k < min(4, blocks); k++) {
      const at = found + 4 * <usize>k;
      storeBlock(x, load<i32>(at), load<f32>(at, 16), bound, output);
      x += 128;
      output += bytes;
    }
  }
}

/** See `encodeBlocks`; `meanSquare` is of the row. */
export function weightedQ4_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 8);
}

export function weightedQ5_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 16);
}
