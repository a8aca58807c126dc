// Float32 to half, round to nearest even, without a table. The sum with a power of two that lies 13 bits above
// the value's last half digit rounds it in place; for values below the normal halves that power stays fixed,
// which rounds to their coarser grid.

/** Halves of four finite float32 values, zero-extended to 32 bits. */
// @ts-ignore: decorator
@inline export function halves(values: v128): v128 {
  // 65536 stands for everything that becomes infinite.
  const magnitude = i32x4.min_s(v128.and(values, i32x4.splat(0x7fffffff)), i32x4.splat(0x47800000));
  const exponent = v128.and(magnitude, i32x4.splat(0x7f800000));
  // 2^13 times the power of two of the value, at least 2^-1: its last digit is one unit of the half.
  const base = i32x4.add(i32x4.max_s(exponent, i32x4.splat(113 << 23)), i32x4.splat(13 << 23));
  const digits = i32x4.sub(f32x4.add(magnitude, base), base);
  // `digits` counts units from the power of two down; normal values bring their hidden one, which adds 1 to
  // the exponent field below.
  const field = i32x4.shr_u(i32x4.sub(base, i32x4.splat((113 + 13) << 23)), 13);
  return v128.or(i32x4.add(digits, field), v128.and(i32x4.shr_u(values, 16), i32x4.splat(0x8000)));
}

/** Half of a finite float32 value. */
// @ts-ignore: decorator
@inline export function halfOf(value: f32): i32 {
  return i32x4.extract_lane(halves(f32x4.splat(value)), 0);
}

/** Whether a half is infinite. */
// @ts-ignore: decorator
@inline export function isInfinite(half: i32): bool {
  return (half & 0x7fff) == 0x7c00;
}

/** A finite half as float32. */
export function floatOf(half: i32): f32 {
  const magnitude = half & 0x7fff;
  const value: f32 =
    magnitude < 0x400
      ? <f32>magnitude * <f32>(1.0 / 16777216.0)
      : reinterpret<f32>((magnitude << 13) + (112 << 23));
  return half == magnitude ? value : -value;
}

/** Four numbers that are not negative and that a half can hold, rounded to halves. */
// @ts-ignore: decorator
@inline export function roundToHalf(values: v128): v128 {
  const exponent = v128.and(values, i32x4.splat(0x7f800000));
  const base = i32x4.add(i32x4.max_s(exponent, i32x4.splat(113 << 23)), i32x4.splat(13 << 23));
  return f32x4.sub(f32x4.add(values, base), base);
}
