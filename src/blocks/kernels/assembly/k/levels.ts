// Levels -bound…bound - 1, stored as bytes with `bound` added.

import { MAGIC } from "../rounding";

/** Nearest integers of four numbers plus `bound`, at least 0 and below twice the bound. */
// @ts-ignore: decorator
@inline function nearest(values: v128, bound: i32): v128 {
  const bits = v128.and(f32x4.add(values, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  const level = i32x4.sub(bits, i32x4.splat(0x400000 - bound));
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(2 * bound - 1)), i32x4.splat(0));
}

// @ts-ignore: decorator
@inline function bytes(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Levels of 16 values for a scale that is not zero. */
// @ts-ignore: decorator
@inline export function divided(values: usize, scale: f32, bound: i32): v128 {
  const by = f32x4.splat(scale);
  return bytes(
    nearest(f32x4.div(v128.load(values), by), bound),
    nearest(f32x4.div(v128.load(values, 16), by), bound),
    nearest(f32x4.div(v128.load(values, 32), by), bound),
    nearest(f32x4.div(v128.load(values, 48), by), bound),
  );
}

/** Levels of 16 values for an inverse scale; bytes of zero for one of zero. */
// @ts-ignore: decorator
@inline export function multiplied(values: usize, inverse: f32, bound: i32): v128 {
  if (inverse == 0) return i32x4.splat(0);
  const by = f32x4.splat(inverse);
  return bytes(
    nearest(f32x4.mul(v128.load(values), by), bound),
    nearest(f32x4.mul(v128.load(values, 16), by), bound),
    nearest(f32x4.mul(v128.load(values, 32), by), bound),
    nearest(f32x4.mul(v128.load(values, 48), by), bound),
  );
}
