// What the search of the affine types knows of the sub-blocks of a block.
//
// Lanes are sub-blocks, and values are walked in order, so every sum has the order of the reference in
// `blocks/search/k-affine-fit.ts`. Four sub-blocks are a group. Their values are walked for one group at a time: two
// would need more than the 16 registers there are, which makes trials a fifth slower.

import { turnFour } from "../turn";

/** For every value of a group's sub-blocks: itself without the mean, its share of the weights, and itself. */
const lanes: usize = memory.data(256 * 12, 16);
export const STRIDE: usize = 48;
export const SHARE: usize = 16;
export const VALUE: usize = 32;

/** Fields of 16 sub-blocks, 4 bytes a number. */
export const fields: usize = memory.data(16 * 64, 16);
export const TOTAL: usize = 0;
export const MEAN: usize = 64;
export const VARIANCE: usize = 2 * 64;
export const SQUARE: usize = 3 * 64;
/** The best fit: see `Fit` in the reference. */
export const ERROR: usize = 4 * 64;
export const SCALE: usize = 5 * 64;
export const CURVATURE: usize = 6 * 64;
export const LEVEL: usize = 7 * 64;
export const PULL: usize = 8 * 64;
export const INVERSE: usize = 9 * 64;
export const SHIFT: usize = 10 * 64;
/** Its error with what its levels of scale and offset lose, and these levels. */
export const LOWEST: usize = 11 * 64;
export const SCALE_LEVEL: usize = 12 * 64;
export const OFFSET_LEVEL: usize = 13 * 64;
/** Levels of scale and offset of ggml's block. */
export const GGML_SCALE: usize = 14 * 64;
export const GGML_OFFSET: usize = 15 * 64;

/** Lanes of the group that begins with sub-block `s`, of `count` values each. */
// @ts-ignore: decorator
@inline export function lanesOf(s: usize, count: usize): usize {
  return lanes + s * count * (STRIDE / 4);
}

/** Weights below this part of the largest of a block count as that. */
const LEAST_WEIGHT: f32 = 1.0 / 281474976710656;

// @ts-ignore: decorator
@inline export function zero(): v128 {
  return i32x4.splat(0);
}

/** Numbers at least 0 and at most `top`; NaN stays. */
// @ts-ignore: decorator
@inline export function clamp(numbers: v128, top: v128): v128 {
  return f32x4.pmax(f32x4.pmin(numbers, top), zero());
}

/** Inverse of steps; 0 of none. */
// @ts-ignore: decorator
@inline export function inverseOf(steps: v128): v128 {
  return v128.and(f32x4.div(f32x4.splat(1), steps), f32x4.gt(steps, zero()));
}

/** The largest of 256 numbers that are not negative, or magnitudes. */
export function largest(numbers: usize): f32 {
  let most = zero();
  for (let at = numbers; at < numbers + 1024; at += 16) {
    most = f32x4.pmax(most, f32x4.abs(v128.load(at)));
  }
  most = f32x4.pmax(most, v128.shuffle<i64>(most, most, 1, 0));
  most = f32x4.pmax(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
  return f32x4.extract_lane(most, 0);
}

/** Spreads four sub-blocks of `count` numbers over lanes. */
// @ts-ignore: decorator
@inline function turn(from: usize, count: usize, to: usize): void {
  for (let j: usize = 0; j < count; j += 4) turnFour(from + 4 * j, 4 * count, to + STRIDE * j, STRIDE);
}

/** Sums of a group and its state before any trial. */
function begin(first: usize, count: usize, top: f32, at: usize): void {
  const end = first + count * STRIDE;
  let total = zero();
  let sum = zero();
  let low = zero();
  let high = v128.load(first, VALUE);
  for (let lane = first; lane < end; lane += STRIDE) {
    const x = v128.load(lane, VALUE);
    const weight = v128.load(lane, SHARE);
    total = f32x4.add(total, weight);
    sum = f32x4.add(sum, f32x4.mul(weight, x));
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
  }
  const mean = f32x4.div(sum, total);
  let variance = zero();
  for (let lane = first; lane < end; lane += STRIDE) {
    const share = f32x4.div(v128.load(lane, SHARE), total);
    const x = f32x4.sub(v128.load(lane, VALUE), mean);
    v128.store(lane, share, SHARE);
    v128.store(lane, x);
    variance = f32x4.add(variance, f32x4.mul(f32x4.mul(share, x), x));
  }
  const square = f32x4.add(variance, f32x4.mul(mean, mean));
  const ranged = f32x4.gt(high, low);
  const inverse = v128.and(f32x4.div(f32x4.splat(top), f32x4.sub(high, low)), ranged);
  v128.store(at, total, TOTAL);
  v128.store(at, mean, MEAN);
  v128.store(at, variance, VARIANCE);
  v128.store(at, square, SQUARE);
  v128.store(at, v128.bitselect(square, variance, f32x4.gt(mean, zero())), ERROR);
  v128.store(at, zero(), SCALE);
  v128.store(at, zero(), CURVATURE);
  v128.store(at, zero(), LEVEL);
  v128.store(at, mean, PULL);
  v128.store(at, inverse, INVERSE);
  v128.store(at, f32x4.mul(f32x4.sub(mean, low), inverse), SHIFT);
}

/** Spreads the values and weights of a block over the lanes. */
export function placeBlock(x: usize, weights: usize, count: usize, top: f32): void {
  const most: f32 = weights == 0 ? 0 : largest(weights);
  const by = f32x4.splat(most);
  const least = f32x4.splat(LEAST_WEIGHT);
  for (let s: usize = 0; s < 256 / count; s += 4) {
    const at = lanesOf(s, count);
    const end = at + count * STRIDE;
    turn(x + 4 * s * count, count, at + VALUE);
    if (most > 0) {
      turn(weights + 4 * s * count, count, at + SHARE);
      for (let lane = at; lane < end; lane += STRIDE) {
        v128.store(lane, f32x4.pmax(f32x4.div(v128.load(lane, SHARE), by), least), SHARE);
      }
    } else {
      for (let lane = at; lane < end; lane += STRIDE) v128.store(lane, f32x4.splat(1), SHARE);
    }
    begin(at, count, top, fields + 4 * s);
  }
}
