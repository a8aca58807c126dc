// How a kernel reads its source. `S` is the source type: bfloat16 is written u16, half is written i16 and
// float32 is written f32, so that one generic body is compiled for each of them.

/** Bits of infinity in the source type; magnitudes from here on are not finite. */
// @ts-ignore: decorator
@inline export function infinity<S>(): i32 {
  return isFloat<S>() ? 0x7f800000 : isSigned<S>() ? 0x7c00 : 0x7f80;
}

/** Bits of the magnitude of one value. They order like the magnitudes themselves. */
// @ts-ignore: decorator
@inline export function magnitude<S>(at: usize): i32 {
  return isFloat<S>() ? load<i32>(at) & 0x7fffffff : load<u16>(at) & 0x7fff;
}

/** Magnitudes of 4 (float32) or 8 values. */
// @ts-ignore: decorator
@inline export function magnitudes<S>(at: usize): v128 {
  return isFloat<S>()
    ? v128.and(v128.load(at), i32x4.splat(0x7fffffff))
    : v128.and(v128.load(at), i16x8.splat(0x7fff));
}

/** The larger of magnitudes, lane by lane. */
// @ts-ignore: decorator
@inline export function larger<S>(a: v128, b: v128): v128 {
  return isFloat<S>() ? i32x4.max_s(a, b) : i16x8.max_s(a, b);
}

/** The largest lane of magnitudes. */
// @ts-ignore: decorator
@inline export function largest<S>(lanes: v128): i32 {
  let a = larger<S>(lanes, v128.shuffle<i64>(lanes, lanes, 1, 0));
  a = larger<S>(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  if (isFloat<S>()) return i32x4.extract_lane(a, 0);
  a = larger<S>(a, v128.shuffle<i16>(a, a, 1, 0, 3, 2, 5, 4, 7, 6));
  return i16x8.extract_lane_u(a, 0);
}

/** The largest magnitude of 32 values. */
// @ts-ignore: decorator
@inline export function largestOf32<S>(at: usize): i32 {
  let a = larger<S>(magnitudes<S>(at), magnitudes<S>(at + 16));
  let b = larger<S>(magnitudes<S>(at + 32), magnitudes<S>(at + 48));
  if (isFloat<S>()) {
    a = larger<S>(a, larger<S>(magnitudes<S>(at + 64), magnitudes<S>(at + 80)));
    b = larger<S>(b, larger<S>(magnitudes<S>(at + 96), magnitudes<S>(at + 112)));
  }
  return largest<S>(larger<S>(a, b));
}

/** Four finite halves, zero-extended to 32 bits, as float32. */
// @ts-ignore: decorator
@inline export function widenHalves(halves: v128): v128 {
  const sign = i32x4.shl(v128.and(halves, i32x4.splat(0x8000)), 16);
  const bits = i32x4.shl(v128.and(halves, i32x4.splat(0x7fff)), 13);
  // A subnormal gets the exponent of the smallest normal half and loses its hidden one again: this needs no
  // arithmetic on subnormal float32 numbers, which is slow.
  const subnormal = i32x4.lt_s(bits, i32x4.splat(1 << 23));
  const one = v128.and(subnormal, i32x4.splat(1 << 23));
  const normal = i32x4.add(i32x4.add(bits, i32x4.splat(112 << 23)), one);
  return v128.or(f32x4.sub(normal, v128.and(subnormal, i32x4.splat(113 << 23))), sign);
}

/** Four finite values as float32. */
// @ts-ignore: decorator
@inline export function floats<S>(at: usize): v128 {
  if (isFloat<S>()) return v128.load(at);
  if (isSigned<S>()) return widenHalves(v128.load_ext<u16>(at));
  return i32x4.shl(v128.load_ext<u16>(at), 16);
}

/** One finite value as float32. */
// @ts-ignore: decorator
@inline export function float<S>(at: usize): f32 {
  if (isFloat<S>()) return load<f32>(at);
  if (isSigned<S>()) return f32x4.extract_lane(widenHalves(i32x4.splat(load<u16>(at))), 0);
  return reinterpret<f32>(<u32>load<u16>(at) << 16);
}

/** A finite magnitude's bits as float32. */
// @ts-ignore: decorator
@inline export function valueOf<S>(bits: i32): f32 {
  if (isFloat<S>()) return reinterpret<f32>(bits);
  if (isSigned<S>()) return f32x4.extract_lane(widenHalves(i32x4.splat(bits)), 0);
  return reinterpret<f32>(bits << 16);
}

/** Index of the first of `values` values whose magnitude is at least `limit`, or −1. */
export function firstFrom<S>(at: usize, values: i32, limit: i32): i32 {
  for (let i = 0; i < values; i++) {
    if (magnitude<S>(at + <usize>i * sizeof<S>()) >= limit) return i;
  }
  return -1;
}
