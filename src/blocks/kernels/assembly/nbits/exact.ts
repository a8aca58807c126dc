// Blocks that a type holds exactly: see `exactFit` in `src/blocks/nbits/exact.ts`, which says the same for one block.

import { inverseOf, stored } from "../search/halves";
import { turned } from "../search/lanes";
import { NEGLIGIBLE } from "../search/scale";
import { clamp } from "./fit";
import { high, largest, low, pointOf } from "./range";

/** Scales and zero points of the blocks for which `findExact` finds any. */
export let exactScale: v128 = i32x4.splat(0);
export let exactZero: v128 = i32x4.splat(0);

/** Greatest common divisors of the magnitudes, and which blocks have none. */
let unit: v128 = i32x4.splat(0);
let failed: v128 = i32x4.splat(0);

/** Euclid's steps; most blocks fail within the first few. */
// @ts-ignore: decorator
@inline function findUnits(values: usize, most: v128, least: v128): void {
  const zero = i32x4.splat(0);
  unit = most;
  failed = f32x4.le(most, f32x4.splat(NEGLIGIBLE));
  for (let at = turned; at < turned + 16 * values; at += 16) {
    let a = f32x4.abs(v128.load(at));
    let b = unit;
    let active = v128.not(failed);
    while (v128.any_true(active)) {
      const rest = f32x4.sub(a, f32x4.mul(f32x4.trunc(f32x4.div(a, b)), b));
      const over = f32x4.ne(rest, zero);
      const lost = v128.andnot(over, f32x4.ge(rest, least));
      failed = v128.or(failed, v128.and(active, lost));
      a = v128.bitselect(b, a, active);
      b = v128.bitselect(rest, b, active);
      active = v128.andnot(v128.and(active, over), lost);
    }
    unit = a;
    if (i32x4.all_true(failed)) return;
  }
}

/** The largest parts of the units that are halves, 0 where there is none. */
// @ts-ignore: decorator
@inline function sizesOf(most: v128, steps: f32): v128 {
  const quotient = f32x4.div(most, unit);
  let size = i32x4.splat(0);
  let open = v128.not(failed);
  for (let part: f32 = 1; v128.any_true(open); part++) {
    open = v128.and(open, f32x4.le(f32x4.mul(f32x4.splat(part), quotient), f32x4.splat(steps)));
    const d = stored(f32x4.div(unit, f32x4.splat(part)));
    const hit = v128.and(open, f32x4.eq(f32x4.mul(d, f32x4.splat(part)), unit));
    size = v128.bitselect(d, size, hit);
    open = v128.andnot(open, hit);
  }
  return size;
}

/** Which blocks lose nothing; needs the range of all values. */
// @ts-ignore: decorator
@inline export function findExact(values: usize, points: bool, top: f32): v128 {
  const middle: f32 = (top + 1) / 2;
  const steps = points ? top : middle;
  const most = largest();
  findUnits(values, most, f32x4.div(most, f32x4.splat(steps + 0.5)));
  if (i32x4.all_true(failed)) return i32x4.splat(0);
  const size = sizesOf(most, steps);
  let exact = f32x4.ne(size, i32x4.splat(0));
  if (points) {
    exactScale = size;
    exactZero = pointOf(f32x4.mul(f32x4.neg(low), inverseOf(size)), top);
  } else {
    const upside = f32x4.gt(high, f32x4.mul(size, f32x4.splat(middle - 1)));
    exactScale = v128.bitselect(f32x4.neg(size), size, upside);
    exactZero = f32x4.splat(middle);
  }
  const inverse = inverseOf(exactScale);
  const lowest = f32x4.neg(exactZero);
  const highest = f32x4.sub(f32x4.splat(top), exactZero);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    const level = clamp(f32x4.nearest(f32x4.mul(x, inverse)), lowest, highest);
    exact = v128.and(exact, f32x4.eq(f32x4.mul(exactScale, level), x));
  }
  return exact;
}
