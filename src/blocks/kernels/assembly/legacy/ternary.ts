// TQ1_0, TQ2_0 and Q2_0: the largest magnitude of a block is its scale d, and values become -d, 0 or d; as integers,
// the trits -1, 0 and 1.

import { halfOf } from "../half";
import { largest, magnitudes } from "../number";
import { bytesOf } from "./pack";

/** The largest magnitude of `values` values. */
// @ts-ignore: decorator
@inline function sizeOf(x: usize, values: i32): f32 {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  for (const end = x + <usize>values * 4; x < end; x += 32) {
    a = i32x4.max_s(a, magnitudes<f32>(x));
    b = i32x4.max_s(b, magnitudes<f32>(x + 16));
  }
  return reinterpret<f32>(largest<f32>(i32x4.max_s(a, b)));
}

/** Trits of four values: multiples of d rounded half away from zero, or half to even. */
// @ts-ignore: decorator
@inline function trits4(x: usize, inverse: v128, even: bool): v128 {
  const multiple = f32x4.mul(v128.load(x), inverse);
  if (even) {
    const below = f32x4.lt(multiple, f32x4.splat(-0.5));
    return i32x4.sub(below, f32x4.gt(multiple, f32x4.splat(0.5)));
  }
  const down = f32x4.le(multiple, f32x4.splat(-0.5));
  return i32x4.sub(down, f32x4.ge(multiple, f32x4.splat(0.5)));
}

/** Trits of 16 values as bytes. */
// @ts-ignore: decorator
@inline function trits16(x: usize, inverse: v128, even: bool): v128 {
  return bytesOf(
    trits4(x, inverse, even),
    trits4(x + 16, inverse, even),
    trits4(x + 32, inverse, even),
    trits4(x + 48, inverse, even),
  );
}

/**
 * Inverse scale, in all lanes; 0 where it would be infinite: such a scale is a zero as a half, and ggml on x86-64
 * then stores trits of 0.
 */
// @ts-ignore: decorator
@inline function inverseOf(d: f32): v128 {
  const inverse: f32 = d == 0 ? 0 : 1 / d;
  return f32x4.splat(inverse == Infinity ? 0 : inverse);
}

// @ts-ignore: decorator
@inline function thrice(bytes: v128, plus: v128): v128 {
  return i8x16.add(i8x16.add(bytes, bytes), i8x16.add(bytes, plus));
}

/**
 * Eight of the numbers q below 243 that five trits make, times 256/243 and rounded up. The rounding multiplication
 * gives 1024 · 13/243 · q to within one half, which is nearer than the next multiple of 1024/243.
 */
// @ts-ignore: decorator
@inline function stretch8(q: v128): v128 {
  const part = i16x8.q15mulr_sat_s(i16x8.shl(q, 7), i16x8.splat(14024));
  return i16x8.add(q, i16x8.shr_u(i16x8.add(part, i16x8.splat(1021)), 10));
}

/** Bytes of TQ1_0 for sums of 3^n · trit. */
// @ts-ignore: decorator
@inline function stretch(sums: v128): v128 {
  const q = i8x16.add(sums, i8x16.splat(121));
  return i8x16.narrow_i16x8_u(
    stretch8(i16x8.extend_low_i8x16_u(q)),
    stretch8(i16x8.extend_high_i8x16_u(q)),
  );
}

/** Sums of 16 bytes that take five values each, `apart` values apart. */
// @ts-ignore: decorator
@inline function five(x: usize, apart: usize, inverse: v128, even: bool): v128 {
  let sums = trits16(x, inverse, even);
  sums = thrice(sums, trits16(x + 4 * apart, inverse, even));
  sums = thrice(sums, trits16(x + 8 * apart, inverse, even));
  sums = thrice(sums, trits16(x + 12 * apart, inverse, even));
  return thrice(sums, trits16(x + 16 * apart, inverse, even));
}

/** Writes a TQ1_0 block; see `trits4`. */
// @ts-ignore: decorator
@inline export function storeTQ1_0(x: usize, d: f32, output: usize, even: bool): void {
  const inverse = inverseOf(d);
  v128.store(output, stretch(five(x, 32, inverse, even)));
  v128.store(output, stretch(five(x + 4 * 16, 32, inverse, even)), 16);
  v128.store(output, stretch(five(x + 4 * 160, 16, inverse, even)), 32);
  // The last 16 values: four to a byte, four bytes; the fifth trit is -1.
  const last = trits16(x + 4 * 240, inverse, even);
  let sums = thrice(last, v128.shuffle<i32>(last, last, 1, 1, 1, 1));
  sums = thrice(sums, v128.shuffle<i32>(last, last, 2, 2, 2, 2));
  sums = thrice(sums, v128.shuffle<i32>(last, last, 3, 3, 3, 3));
  store<i32>(output, i32x4.extract_lane(stretch(thrice(sums, i8x16.splat(-1))), 0), 48);
  store<u16>(output, halfOf(d), 52);
}

export function tq1_0(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 256) {
    storeTQ1_0(x, sizeOf(x, 256), output, false);
    x += 4 * 256;
    output += 54;
  }
}

// @ts-ignore: decorator
@inline function fourfold(bytes: v128, plus: v128): v128 {
  const twice = i8x16.add(bytes, bytes);
  return i8x16.add(i8x16.add(twice, twice), plus);
}

/** Bytes of 64 values that lie 32 apart in four runs of 16. */
// @ts-ignore: decorator
@inline function planes(x: usize, inverse: v128, even: bool): v128 {
  let sums = trits16(x + 4 * 96, inverse, even);
  sums = fourfold(sums, trits16(x + 4 * 64, inverse, even));
  sums = fourfold(sums, trits16(x + 4 * 32, inverse, even));
  sums = fourfold(sums, trits16(x, inverse, even));
  // 1 on each of the four levels.
  return i8x16.add(sums, i8x16.splat(85));
}

/** Writes a TQ2_0 block; see `trits4`. */
// @ts-ignore: decorator
@inline export function storeTQ2_0(x: usize, d: f32, output: usize, even: bool): void {
  const inverse = inverseOf(d);
  v128.store(output, planes(x, inverse, even));
  v128.store(output, planes(x + 4 * 16, inverse, even), 16);
  v128.store(output, planes(x + 4 * 128, inverse, even), 32);
  v128.store(output, planes(x + 4 * 144, inverse, even), 48);
  store<u16>(output, halfOf(d), 64);
}

export function tq2_0(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 256) {
    storeTQ2_0(x, sizeOf(x, 256), output, false);
    x += 4 * 256;
    output += 66;
  }
}

/** Sums of 4^n · level over each four of 16 levels. */
// @ts-ignore: decorator
@inline export function joinFours(a: v128, b: v128, c: v128, d: v128): v128 {
  const ones = i32x4.splat(1 | (4 << 16));
  const low = i16x8.narrow_i32x4_s(a, b);
  const high = i16x8.narrow_i32x4_s(c, d);
  const pairs = i16x8.narrow_i32x4_s(i32x4.dot_i16x8_s(low, ones), i32x4.dot_i16x8_s(high, ones));
  return i32x4.dot_i16x8_s(pairs, i32x4.splat(1 | (16 << 16)));
}

// @ts-ignore: decorator
@inline function fours(x: usize, inverse: v128): v128 {
  return joinFours(
    trits4(x, inverse, false),
    trits4(x + 16, inverse, false),
    trits4(x + 32, inverse, false),
    trits4(x + 48, inverse, false),
  );
}

export function q2_0(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 64) {
    const d = sizeOf(x, 64);
    store<u16>(output, halfOf(d));
    if (d != 0 && 1 / d == Infinity) {
      // The scale is a zero as a half: ggml on x86-64 stores zeros, which here mean -d.
      v128.store(output, i32x4.splat(0), 2);
    } else {
      const inverse = inverseOf(d);
      const sums = bytesOf(
        fours(x, inverse),
        fours(x + 64, inverse),
        fours(x + 128, inverse),
        fours(x + 192, inverse),
      );
      v128.store(output, i8x16.add(sums, i8x16.splat(85)), 2);
    }
    x += 4 * 64;
    output += 18;
  }
}
