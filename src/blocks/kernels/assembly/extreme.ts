/** Values whose magnitudes stay below this are stored as zero. */
export const NEGLIGIBLE: f32 = 1e-15;

/** The first of 16 numbers whose magnitude is largest; 0 for none. NaN counts for nothing. */
// @ts-ignore: decorator
@inline export function extremeOf16(at: usize): f32 {
  const a = f32x4.abs(v128.load(at));
  const b = f32x4.abs(v128.load(at, 16));
  const c = f32x4.abs(v128.load(at, 32));
  const d = f32x4.abs(v128.load(at, 48));
  let most = f32x4.pmax(f32x4.pmax(i32x4.splat(0), a), b);
  most = f32x4.pmax(f32x4.pmax(most, c), d);
  most = f32x4.pmax(most, v128.shuffle<i64>(most, most, 1, 0));
  most = f32x4.pmax(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
  const equal =
    i32x4.bitmask(f32x4.eq(a, most)) |
    (i32x4.bitmask(f32x4.eq(b, most)) << 4) |
    (i32x4.bitmask(f32x4.eq(c, most)) << 8) |
    (i32x4.bitmask(f32x4.eq(d, most)) << 12);
  return equal === 0 ? 0 : load<f32>(at + 4 * <usize>ctz(equal));
}
