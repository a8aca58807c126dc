// The range of four blocks of values at `turned`, and their plain scales: see `nearestFit` in
// `src/blocks/nbits/nearest.ts`, which says the same for one block.

import { inverseOf, stored } from "../search/halves";
import { turned, WEIGHTS } from "../search/lanes";

/** Smallest and largest of the values and 0. */
export let low: v128 = i32x4.splat(0);
export let high: v128 = i32x4.splat(0);

/** The plain scales, as halves store them, and their zero points. */
export let plainScale: v128 = i32x4.splat(0);
export let plainZero: v128 = i32x4.splat(0);

/** The larger magnitude of both ends of the range. */
// @ts-ignore: decorator
@inline export function largest(): v128 {
  return f32x4.pmax(f32x4.neg(low), high);
}

/** @param weighted whether only values that have a weight count */
// @ts-ignore: decorator
@inline export function findRange(values: usize, weighted: bool): void {
  let least = i32x4.splat(0);
  let most = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    let x = v128.load(at);
    if (weighted) x = v128.and(x, f32x4.gt(v128.load(at, WEIGHTS), i32x4.splat(0)));
    least = f32x4.pmin(least, x);
    most = f32x4.pmax(most, x);
  }
  low = least;
  high = most;
}

/** The nearest whole zero point, of 0 to `top`. */
// @ts-ignore: decorator
@inline export function pointOf(units: v128, top: f32): v128 {
  return f32x4.nearest(f32x4.pmax(f32x4.pmin(units, f32x4.splat(top)), i32x4.splat(0)));
}

/** The first value of the largest magnitude. */
// @ts-ignore: decorator
@inline function extreme(values: usize): v128 {
  let most = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    most = v128.bitselect(x, most, f32x4.gt(f32x4.abs(x), f32x4.abs(most)));
  }
  return most;
}

/** Needs the range of all values. */
// @ts-ignore: decorator
@inline export function findPlain(values: usize, points: bool, top: f32): void {
  if (points) {
    plainScale = stored(f32x4.div(f32x4.sub(high, low), f32x4.splat(top)));
    plainZero = pointOf(f32x4.mul(f32x4.neg(low), inverseOf(plainScale)), top);
  } else {
    const middle: f32 = (top + 1) / 2;
    plainScale = stored(f32x4.div(extreme(values), f32x4.splat(-middle)));
    plainZero = f32x4.splat(middle);
  }
}
