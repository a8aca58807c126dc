// How scales and zero points of four blocks at `turned` are compared and fitted: `errorOf` and `sumsOf` in
// `src/blocks/search/scale.ts` say the same for one block.

import { inverseOf } from "../search/halves";
import { PRODUCTS, turned, WEIGHTS } from "../search/lanes";
import { plainScale, plainZero } from "./range";

/** Scales and zero points of the least error so far. */
export let bestScale: v128 = i32x4.splat(0);
export let bestZero: v128 = i32x4.splat(0);
let error: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline export function weightAt(at: usize, weighted: bool): v128 {
  return weighted ? v128.load(at, WEIGHTS) : f32x4.splat(1);
}

// @ts-ignore: decorator
@inline export function productAt(at: usize, weighted: bool): v128 {
  return weighted ? v128.load(at, PRODUCTS) : v128.load(at);
}

// @ts-ignore: decorator
@inline export function weigh(weight: v128, value: v128, weighted: bool): v128 {
  return weighted ? f32x4.mul(weight, value) : value;
}

// @ts-ignore: decorator
@inline export function clamp(level: v128, lowest: v128, highest: v128): v128 {
  return f32x4.pmax(f32x4.pmin(level, highest), lowest);
}

/** The scale that fits the levels under an inverse scale best; 0 where these are all 0. */
// @ts-ignore: decorator
@inline export function fitTo(inverse: v128, zero: v128, top: f32, values: usize, weighted: bool): v128 {
  const lowest = f32x4.neg(zero);
  const highest = f32x4.sub(f32x4.splat(top), zero);
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const level = clamp(f32x4.nearest(f32x4.mul(v128.load(at), inverse)), lowest, highest);
    product = f32x4.add(product, f32x4.mul(productAt(at, weighted), level));
    square = f32x4.add(square, f32x4.mul(weigh(weightAt(at, weighted), level, weighted), level));
  }
  return v128.and(f32x4.div(product, square), f32x4.gt(square, i32x4.splat(0)));
}

/** Takes stored scales over where their error is the least so far. */
// @ts-ignore: decorator
@inline export function compare(scale: v128, zero: v128, top: f32, values: usize, weighted: bool): void {
  const inverse = inverseOf(scale);
  const lowest = f32x4.neg(zero);
  const highest = f32x4.sub(f32x4.splat(top), zero);
  let left = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    const level = clamp(f32x4.nearest(f32x4.mul(x, inverse)), lowest, highest);
    const off = f32x4.sub(x, f32x4.mul(scale, level));
    left = f32x4.add(left, weigh(weightAt(at, weighted), f32x4.mul(off, off), weighted));
  }
  const better = f32x4.lt(left, error);
  bestScale = v128.bitselect(scale, bestScale, better);
  bestZero = v128.bitselect(zero, bestZero, better);
  error = v128.bitselect(left, error, better);
}

/** Begins with the plain scales. */
// @ts-ignore: decorator
@inline export function comparePlain(top: f32, values: usize, weighted: bool): void {
  error = f32x4.splat(Infinity);
  compare(plainScale, plainZero, top, values, weighted);
}
