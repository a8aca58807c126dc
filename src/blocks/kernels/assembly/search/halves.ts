import { halves } from "../half";

/** Finite halves as float32. */
// @ts-ignore: decorator
@inline export function widened(half: v128): v128 {
  const magnitude = v128.and(half, i32x4.splat(0x7fff));
  const normal = i32x4.add(i32x4.shl(magnitude, 13), i32x4.splat(112 << 23));
  const subnormal = f32x4.mul(f32x4.convert_i32x4_s(magnitude), f32x4.splat(1.0 / 16777216.0));
  const value = v128.bitselect(subnormal, normal, i32x4.lt_s(magnitude, i32x4.splat(0x400)));
  return v128.or(value, i32x4.shl(v128.and(half, i32x4.splat(0x8000)), 16));
}

/** The halves nearest to four numbers as float32, the largest finite ones at most. */
export function stored(values: v128): v128 {
  const most = f32x4.splat(65504);
  return widened(halves(f32x4.pmax(f32x4.pmin(values, most), f32x4.neg(most))));
}

/** Inverse of stored scales; 0, which makes every level 0, for 0. */
// @ts-ignore: decorator
@inline export function inverseOf(scale: v128): v128 {
  const zero = f32x4.eq(scale, i32x4.splat(0));
  return v128.andnot(f32x4.div(f32x4.splat(1), scale), zero);
}
