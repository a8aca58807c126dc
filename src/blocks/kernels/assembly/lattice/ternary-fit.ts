// Weights of values, and the least-squares fit of a scale to the points that were found.

import { pointValues } from "./ternary-tables";

/** Bytes of a block of float32 values. */
export const BLOCK: usize = 4 * 256;

/** Weights of up to four blocks, and their products with the values. */
export const weighted: usize = memory.data(4 * 4 * 256, 16);
export const products: usize = memory.data(4 * 4 * 256, 16);
/** Σ terms of a fit: weight·level·x and weight·level² of values. */
export const fitProducts: usize = memory.data(4 * 4 * 256, 16);
export const fitSquares: usize = memory.data(4 * 4 * 256, 16);

/** Four float32 sums of `count` terms each, `stride` bytes apart, in order. */
// @ts-ignore: decorator
@inline export function sumFour(terms: usize, stride: usize, count: i32, to: usize): void {
  let a: f32 = 0;
  let b: f32 = 0;
  let c: f32 = 0;
  let d: f32 = 0;
  for (let i: usize = 0; i < 4 * <usize>count; i += 4) {
    a += load<f32>(terms + i);
    b += load<f32>(terms + i + stride);
    c += load<f32>(terms + i + 2 * stride);
    d += load<f32>(terms + i + 3 * stride);
  }
  v128.store(to, f32x4(a, b, c, d));
}

/** Sums of squares of four blocks. */
const squareSums: usize = memory.data(16, 16);

/**
 * The importance times sqrt(2·mean x² + x²) of the values of four blocks; without an importance it counts as
 * 1.
 */
// @ts-ignore: decorator
@inline export function weigh(x: usize, weights: usize, count: i32): void {
  const end = BLOCK * <usize>count;
  for (let i: usize = 0; i < end; i += 16) {
    const value = v128.load(x + i);
    v128.store(products + i, f32x4.mul(value, value));
  }
  sumFour(products, BLOCK, 256, squareSums);
  for (let block: usize = 0; block < <usize>count; block++) {
    const spread = f32x4.splat((load<f32>(squareSums + 4 * block) * 2) / 256);
    for (let i = BLOCK * block; i < BLOCK * (block + 1); i += 16) {
      const value = v128.load(x + i);
      let weight = f32x4.sqrt(f32x4.add(spread, v128.load(products + i)));
      if (weights !== 0) weight = f32x4.mul(v128.load(weights + i), weight);
      v128.store(weighted + i, weight);
      v128.store(products + i, f32x4.mul(weight, value));
    }
  }
}

/** Shift of the levels of a group. */
// @ts-ignore: decorator
@inline export function shiftOf(shifts: i32, group: i32): f32 {
  return ((shifts >> group) & 1) !== 0 ? -0.125 : 0.125;
}

/** Levels of four values of a point, times `by`. */
// @ts-ignore: decorator
@inline export function levelsOf(values: usize, shift: f32, by: f32): v128 {
  const wide = i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(values)));
  return f32x4.mul(f32x4.add(f32x4.convert_i32x4_s(wide), f32x4.splat(shift)), f32x4.splat(by));
}

/** Terms of a fit of four values. */
// @ts-ignore: decorator
@inline function fit(x: usize, offset: usize, levels: v128): void {
  const weight = f32x4.mul(v128.load(weighted + offset), levels);
  v128.store(fitProducts + offset, f32x4.mul(weight, v128.load(x)));
  v128.store(fitSquares + offset, f32x4.mul(weight, levels));
}

/** Terms of a fit of a group; `offset` is that of its first value among the weights. */
// @ts-ignore: decorator
@inline export function fitGroup(x: usize, offset: usize, point: i32, shift: f32, by: f32): void {
  const values = pointValues(point);
  fit(x, offset, levelsOf(values, shift, by));
  fit(x + 16, offset + 16, levelsOf(values + 4, shift, by));
}
