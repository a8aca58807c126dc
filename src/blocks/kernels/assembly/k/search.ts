// The scale of 16 or 32 values on levels -bound…bound - 1 with the least weighted squared error, by trials.
//
// Lanes are sub-blocks: each lane of a vector belongs to one of four sub-blocks, and the values are walked in
// order. So every sum of a sub-block is taken in the order of ggml's scalar code and has the same bits.

import { NEGLIGIBLE } from "../extreme";

/** For four sub-blocks, transposed: value j of each, its weight and their product, up to 32 vectors of each. */
export const turned: usize = memory.data(3 * 16 * 32, 16);
export const WEIGHTS: usize = 16 * 32;
const PRODUCTS: usize = 2 * 16 * 32;

/** Sums of three trials: Σ weight·value·level and Σ weight·level² of the first, then of the others. */
const sums: usize = memory.data(6 * 16, 16);

/** Where the search stands: the scale, the inverse scale that led to it, and scale · Σ weight·value·level. */
let bestScale: v128 = i32x4.splat(0);
let bestInverse: v128 = i32x4.splat(0);
let best: v128 = i32x4.splat(0);

/** Levels of one value of four sub-blocks; see `search` for the clamps. */
// @ts-ignore: decorator
@inline function levelsFor(x: v128, inverse: v128, bound: f32, upper: bool, lower: bool): v128 {
  let level = f32x4.nearest(f32x4.mul(x, inverse));
  if (upper) level = f32x4.pmin(level, f32x4.splat(bound - 1));
  if (lower) level = f32x4.pmax(level, f32x4.splat(-bound));
  return level;
}

/**
 * The sums of three trials. Several at a time keep the adders busy: within one trial every addition waits for the
 * one before it.
 */
// @ts-ignore: decorator
@inline function sumThree(
  count: usize,
  a: v128,
  b: v128,
  c: v128,
  bound: f32,
  upper: bool,
  lower: bool,
): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  let productC = i32x4.splat(0);
  let squareC = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * count; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    const product = v128.load(at, PRODUCTS);
    const levelA = levelsFor(x, a, bound, upper, lower);
    const levelB = levelsFor(x, b, bound, upper, lower);
    const levelC = levelsFor(x, c, bound, upper, lower);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    productC = f32x4.add(productC, f32x4.mul(product, levelC));
    squareA = f32x4.add(squareA, f32x4.mul(f32x4.mul(weight, levelA), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(f32x4.mul(weight, levelB), levelB));
    squareC = f32x4.add(squareC, f32x4.mul(f32x4.mul(weight, levelC), levelC));
  }
  v128.store(sums, productA);
  v128.store(sums, squareA, 16);
  v128.store(sums, productB, 32);
  v128.store(sums, squareB, 48);
  v128.store(sums, productC, 64);
  v128.store(sums, squareC, 80);
}

/** The sums of a single trial. */
// @ts-ignore: decorator
@inline function sumOne(count: usize, inverse: v128, bound: f32, upper: bool): void {
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * count; at += 16) {
    const level = levelsFor(v128.load(at), inverse, bound, upper, false);
    product = f32x4.add(product, f32x4.mul(v128.load(at, PRODUCTS), level));
    square = f32x4.add(square, f32x4.mul(f32x4.mul(v128.load(at, WEIGHTS), level), level));
  }
  v128.store(sums, product);
  v128.store(sums, square, 16);
}

/** Takes a trial over where it is better than what the search has. */
// @ts-ignore: decorator
@inline function settle(inverse: v128, product: v128, square: v128): void {
  const scale = f32x4.div(product, square);
  const better = v128.and(
    f32x4.gt(square, i32x4.splat(0)),
    f32x4.gt(f32x4.mul(product, product), f32x4.mul(best, square)),
  );
  bestScale = v128.bitselect(scale, bestScale, better);
  bestInverse = v128.bitselect(inverse, bestInverse, better);
  best = v128.bitselect(f32x4.mul(scale, product), best, better);
}

/** Trial `t` of 18: the inverse scale that puts the extreme value on level -(bound + step/10), in float32. */
// @ts-ignore: decorator
@inline function trial(t: i32, extreme: v128, bound: f32): v128 {
  const step = t < 9 ? t - 9 : t - 8;
  return f32x4.div(f32x4.splat(-(bound + <f32>0.1 * <f32>step)), extreme);
}

// @ts-ignore: decorator
@inline function attempt(
  count: usize,
  from: i32,
  to: i32,
  extreme: v128,
  bound: f32,
  upper: bool,
  lower: bool,
): void {
  for (let t = from; t < to; t += 3) {
    const a = trial(t, extreme, bound);
    const b = trial(t + 1, extreme, bound);
    const c = trial(t + 2, extreme, bound);
    sumThree(count, a, b, c, bound, upper, lower);
    settle(a, v128.load(sums), v128.load(sums, 16));
    settle(b, v128.load(sums, 32), v128.load(sums, 48));
    settle(c, v128.load(sums, 64), v128.load(sums, 80));
  }
}

/**
 * Tries 19 inverse scales for four sub-blocks. `upper` says whether a value can reach a level above bound - 1.
 *
 * Most clamps of levels cannot matter and are not made. The extreme value itself falls below level -bound only
 * from bound + 0.5 on, in the last trials; a value of the other sign passes bound - 1 only from bound - 0.5 on,
 * so never in the first four, and in no trial unless it is nearly as large as the extreme value.
 */
// @ts-ignore: decorator
@inline function tryAll(count: usize, extreme: v128, bound: f32, upper: bool): void {
  const start = f32x4.div(f32x4.splat(-bound), extreme);
  sumOne(count, start, bound, upper);
  const product = v128.load(sums);
  const square = v128.load(sums, 16);
  bestScale = v128.andnot(f32x4.div(product, square), f32x4.eq(square, i32x4.splat(0)));
  bestInverse = start;
  best = f32x4.mul(bestScale, product);
  attempt(count, 0, 3, extreme, bound, false, false);
  attempt(count, 3, 12, extreme, bound, upper, false);
  attempt(count, 12, 18, extreme, bound, upper, true);
}

/**
 * Searches the scales of the sub-blocks in `turned`. Stores four scales, and the four inverse scales whose
 * levels they belong to (0 where all values are negligible).
 */
// @ts-ignore: decorator
@inline function search(count: usize, bound: f32, scales: usize, inverses: usize): void {
  // The first value of largest magnitude, and the largest magnitude on the other side of zero.
  let extreme = i32x4.splat(0);
  let size = i32x4.splat(0);
  let high = i32x4.splat(0);
  let low = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * count; at += 16) {
    const x = v128.load(at);
    v128.store(at, f32x4.mul(v128.load(at, WEIGHTS), x), PRODUCTS);
    const magnitude = f32x4.abs(x);
    const more = f32x4.gt(magnitude, size);
    extreme = v128.bitselect(x, extreme, more);
    size = f32x4.pmax(size, magnitude);
    high = f32x4.pmax(high, x);
    low = f32x4.pmin(low, x);
  }
  const nothing = f32x4.lt(size, f32x4.splat(NEGLIGIBLE));
  extreme = v128.bitselect(f32x4.splat(1), extreme, nothing);
  const other = f32x4.pmin(high, f32x4.neg(low));
  // A little less than where a value of the other sign gets clamped in the last trial.
  const reach: f32 = ((bound - 0.5) / (bound + 0.9)) * 0.9999;
  if (v128.any_true(f32x4.gt(other, f32x4.mul(size, f32x4.splat(reach))))) tryAll(count, extreme, bound, true);
  else tryAll(count, extreme, bound, false);
  v128.store(scales, v128.andnot(bestScale, nothing));
  v128.store(inverses, v128.andnot(bestInverse, nothing));
}

/** Searches scales of 16 values on levels -32…31; see `search`. */
export function search32(scales: usize, inverses: usize): void {
  search(16, 32, scales, inverses);
}

/** Searches scales of 16 values on levels -4…3; see `search`. */
export function search4(scales: usize, inverses: usize): void {
  search(16, 4, scales, inverses);
}

/** Searches scales of 32 values on levels -8…7; see `search`. */
export function search8(scales: usize, inverses: usize): void {
  search(32, 8, scales, inverses);
}

/** Searches scales of 32 values on levels -16…15; see `search`. */
export function search16(scales: usize, inverses: usize): void {
  search(32, 16, scales, inverses);
}
