// Levels of the scales of a block, and of its minimums. Lanes are blocks: see `affine-fields.ts`.

import { FIELD_STEP, nearestOf } from "./affine-fields";

/** Maxima below this count as zero. */
const NEGLIGIBLE: f32 = 1e-15;

// @ts-ignore: decorator
@inline function highest(numbers: usize, bytes: usize): v128 {
  let high = i32x4.splat(0);
  for (let at: usize = 0; at < bytes; at += FIELD_STEP) high = f32x4.pmax(high, v128.load(numbers + at));
  return high;
}

/**
 * Levels in even steps up to the largest number.
 *
 * @param numbers scales or minimums of four blocks
 * @param count numbers of a block
 * @param top largest level
 * @returns the steps
 */
export function spreadScales(numbers: usize, count: i32, top: f32, levels: usize): v128 {
  const bytes = <usize>count * FIELD_STEP;
  const high = highest(numbers, bytes);
  const some = f32x4.gt(high, i32x4.splat(0));
  const inverse = v128.and(f32x4.div(f32x4.splat(top), high), some);
  for (let at: usize = 0; at < bytes; at += FIELD_STEP) {
    const level = nearestOf(f32x4.mul(inverse, v128.load(numbers + at)));
    v128.store(levels + at, v128.and(level, i32x4.splat(255)));
  }
  return f32x4.div(high, f32x4.splat(top));
}

// @ts-ignore: decorator
@inline function levelOf(number: v128, inverse: v128, top: v128): v128 {
  return i32x4.min_s(nearestOf(f32x4.mul(inverse, number)), top);
}

/** Weighted squared error under an inverse scale. The plain one comes first; its levels wrap to bytes. */
// @ts-ignore: decorator
@inline function errorOf(
  numbers: usize,
  weights: usize,
  bytes: usize,
  inverse: v128,
  top: v128,
  plain: bool,
): v128 {
  const scale = f32x4.div(f32x4.splat(1), inverse);
  let error = i32x4.splat(0);
  for (let at: usize = 0; at < bytes; at += FIELD_STEP) {
    const number = v128.load(numbers + at);
    const level = plain
      ? v128.and(nearestOf(f32x4.mul(inverse, number)), i32x4.splat(255))
      : levelOf(number, inverse, top);
    const off = f32x4.sub(number, f32x4.mul(scale, f32x4.convert_i32x4_s(level)));
    error = f32x4.add(error, f32x4.mul(f32x4.mul(v128.load(weights + at), off), off));
  }
  return error;
}

/** Σ weight · number · level and Σ weight · level² of four blocks: where the search for their scale stands. */
const sums: usize = memory.data(2 * 16, 16);

/** Moves one level of each block if that fits better; returns where it did. */
// @ts-ignore: decorator
@inline function improve(number: v128, weight: v128, top: v128, levels: usize): v128 {
  const zero = i32x4.splat(0);
  const sumLX = v128.load(sums);
  const sumLL = v128.load(sums, 16);
  const old = v128.load(levels);
  const oldLevel = f32x4.convert_i32x4_s(old);
  const product = f32x4.mul(weight, number);
  const restLX = f32x4.sub(sumLX, f32x4.mul(product, oldLevel));
  const restLL = f32x4.sub(sumLL, f32x4.mul(f32x4.mul(weight, oldLevel), oldLevel));
  const next = i32x4.min_s(nearestOf(f32x4.div(f32x4.mul(number, restLL), restLX)), top);
  const level = f32x4.convert_i32x4_s(next);
  const nextLX = f32x4.add(restLX, f32x4.mul(product, level));
  const nextLL = f32x4.add(restLL, f32x4.mul(f32x4.mul(weight, level), level));
  const gained = f32x4.gt(
    f32x4.mul(f32x4.mul(nextLX, nextLX), sumLL),
    f32x4.mul(f32x4.mul(sumLX, sumLX), nextLL),
  );
  const possible = v128.and(f32x4.gt(restLX, zero), f32x4.gt(restLL, zero));
  const moved = v128.and(v128.and(possible, i32x4.ne(next, old)), gained);
  v128.store(levels, v128.bitselect(v128.and(next, i32x4.splat(255)), old, moved));
  v128.store(sums, v128.bitselect(nextLX, sumLX, moved));
  v128.store(sums, v128.bitselect(nextLL, sumLL, moved), 16);
  return moved;
}

/**
 * Levels of numbers that are hardly ever negative: the best of nine scales by squared error, weighted by the sums
 * of weights of the sub-blocks, then up to five passes in which single levels move.
 *
 * @param numbers scales or minimums of four blocks
 * @param weights the sums of weights beside them
 * @param count numbers of a block
 * @param topLevel largest level
 * @returns the scales of the levels
 */
export function searchScales(
  numbers: usize,
  weights: usize,
  count: i32,
  topLevel: f32,
  levels: usize,
): v128 {
  const bytes = <usize>count * FIELD_STEP;
  const zero = i32x4.splat(0);
  const top = i32x4.splat(<i32>topLevel);
  const high = highest(numbers, bytes);
  let inverse = f32x4.div(f32x4.splat(topLevel), high);
  let best = errorOf(numbers, weights, bytes, inverse, top, true);
  for (let t = -4; t <= 4; t++) {
    if (t == 0) continue;
    const tried = f32x4.div(f32x4.splat(<f32>0.1 * <f32>t + topLevel), high);
    const error = errorOf(numbers, weights, bytes, tried, top, false);
    inverse = v128.bitselect(tried, inverse, f32x4.lt(error, best));
    best = f32x4.pmin(best, error);
  }
  let sumLX = zero;
  let sumLL = zero;
  for (let at: usize = 0; at < bytes; at += FIELD_STEP) {
    const number = v128.load(numbers + at);
    const weight = v128.load(weights + at);
    const whole = levelOf(number, inverse, top);
    const level = f32x4.convert_i32x4_s(whole);
    v128.store(levels + at, v128.and(whole, i32x4.splat(255)));
    sumLX = f32x4.add(sumLX, f32x4.mul(f32x4.mul(weight, number), level));
    sumLL = f32x4.add(sumLL, f32x4.mul(f32x4.mul(weight, level), level));
  }
  v128.store(sums, sumLX);
  v128.store(sums, sumLL, 16);
  for (let pass = 0; pass < 5; pass++) {
    let moved = zero;
    for (let at: usize = 0; at < bytes; at += FIELD_STEP) {
      const here = improve(v128.load(numbers + at), v128.load(weights + at), top, levels + at);
      moved = v128.or(moved, here);
    }
    if (!v128.any_true(moved)) break;
  }
  sumLX = v128.load(sums);
  sumLL = v128.load(sums, 16);
  const some = f32x4.ge(high, f32x4.splat(NEGLIGIBLE));
  for (let at: usize = 0; at < bytes; at += FIELD_STEP) {
    v128.store(levels + at, v128.and(v128.load(levels + at), some));
  }
  return v128.and(f32x4.div(sumLX, sumLL), v128.and(some, f32x4.gt(sumLL, zero)));
}
