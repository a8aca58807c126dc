// MXFP4 and NVFP4: codes of E2M1, a 4-bit float, under a scale d that is a power of two or a UE4M3 number.
//
// A magnitude takes the nearest of the doubled E2M1 numbers 0, 1, 2, 3, 4, 6, 8 and 12 in units of d, the smaller of
// two. In ggml's float32 differences to two neighbouring numbers no bit is lost, so that means: 2·|x|/d lies above
// 1, 3, 5, 7, 10, 14 or 20. For the integer c = ⌈2·|x|/d⌉ the same is true, and a table of bytes gives the code.

import { largest, magnitudes } from "../number";
import { MAGIC } from "../rounding";
import { bytesOf, MAGIC_BITS } from "./pack";

/** 2·|x|/d rounded up, as a number, for d = 2/scale. */
// @ts-ignore: decorator
@inline function ceiling(x: v128, scale: v128): v128 {
  return f32x4.ceil(f32x4.mul(f32x4.abs(x), scale));
}

/** Integer nearest to a number that is not negative and small. */
// @ts-ignore: decorator
@inline function integer(value: v128): v128 {
  return i32x4.sub(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS));
}

/** Codes without signs of 16 values, from bytes c. */
// @ts-ignore: decorator
@inline function codesOf(c: v128): v128 {
  const table = i8x16(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6);
  const code = i8x16.swizzle(table, i8x16.min_u(c, i8x16.splat(15)));
  return i8x16.sub(code, i8x16.gt_s(c, i8x16.splat(20)));
}

/** Bit 7 of bytes: whether the code is not zero and its value is negative. There is no negative zero. */
// @ts-ignore: decorator
@inline function signsOf(x: usize, codes: v128): v128 {
  const signs = bytesOf(v128.load(x), v128.load(x, 16), v128.load(x, 32), v128.load(x, 48));
  return v128.and(v128.and(signs, i8x16.splat(-128)), i8x16.gt_s(codes, i32x4.splat(0)));
}

// @ts-ignore: decorator
@inline function codes16(x: usize, scale: v128): v128 {
  return codesOf(
    bytesOf(
      integer(ceiling(v128.load(x), scale)),
      integer(ceiling(v128.load(x, 16), scale)),
      integer(ceiling(v128.load(x, 32), scale)),
      integer(ceiling(v128.load(x, 48), scale)),
    ),
  );
}

/** Stores 16 codes low and 16 high. */
// @ts-ignore: decorator
@inline function pack(low: v128, lowSigns: v128, high: v128, highSigns: v128, output: usize): void {
  const first = v128.or(low, i16x8.shr_u(lowSigns, 4));
  const second = v128.or(i16x8.shl(high, 4), highSigns);
  v128.store(output, v128.or(first, second));
}

/**
 * ⌊log2 x⌋ of ggml, which rounds the logarithm to float32 before: just below a power of two that gives the power
 * itself. For x = 2^k·z, ½ ≤ z < 1, the tangent of the logarithm at 1 is as good: it lies above k − 1 too, and is
 * the logarithm where that is near k.
 */
// @ts-ignore: decorator
@inline function floorLog2(x: f32): i32 {
  const bits = reinterpret<i64>(<f64>x);
  const k = <i32>(bits >> 52) - 1022;
  const z = reinterpret<f64>((bits & 0xfffffffffffff) | (<i64>1022 << 52));
  return <i32>floor(<f32>(<f64>k + (z - 1) * 1.4426950408889634));
}

const enlarged: usize = memory.data(4 * 32, 16);

/** A copy of 32 values, times 2^64. */
function enlarge(x: usize): usize {
  for (let i: usize = 0; i < 4 * 32; i += 16) {
    v128.store(enlarged + i, f32x4.mul(v128.load(x + i), f32x4.splat(18446744073709551616.0)));
  }
  return enlarged;
}

/**
 * MXFP4's exponent for a largest magnitude. Below 2^-125 the byte wraps: d is so large that all codes are 0, as in
 * ggml.
 */
// @ts-ignore: decorator
@inline export function exponentOf(size: f32): i32 {
  return size == 0 ? 0 : (floorLog2(size) + 125) & 255;
}

/** Writes an MXFP4 block. */
// @ts-ignore: decorator
@inline export function storeMxfp4(x: usize, exponent: i32, output: usize): void {
  store<u8>(output, exponent);
  // 2/d = 2^(129 - exponent) has no float32 below 2; both factors are then moved by 2^64.
  const from = exponent < 2 ? enlarge(x) : x;
  const power = exponent < 2 ? 256 - 64 - exponent : 256 - exponent;
  const scale = f32x4.splat(reinterpret<f32>(power << 23));
  const low = codes16(from, scale);
  const high = codes16(from + 64, scale);
  pack(low, signsOf(x, low), high, signsOf(x + 64, high), output + 1);
}

export function mxfp4(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 32) {
    let a = i32x4.max_s(magnitudes<f32>(x), magnitudes<f32>(x + 16));
    let b = i32x4.max_s(magnitudes<f32>(x + 32), magnitudes<f32>(x + 48));
    a = i32x4.max_s(a, i32x4.max_s(magnitudes<f32>(x + 64), magnitudes<f32>(x + 80)));
    b = i32x4.max_s(b, i32x4.max_s(magnitudes<f32>(x + 96), magnitudes<f32>(x + 112)));
    const size = reinterpret<f32>(largest<f32>(i32x4.max_s(a, b)));
    storeMxfp4(x, exponentOf(size), output);
    x += 4 * 32;
    output += 17;
  }
}

/** Largest magnitudes of four groups of 16 values. */
// @ts-ignore: decorator
@inline function sizes(x: usize): v128 {
  const a = size16(x);
  const b = size16(x + 64);
  const c = size16(x + 128);
  const d = size16(x + 192);
  const ab = i32x4.max_s(v128.shuffle<i32>(a, b, 0, 4, 1, 5), v128.shuffle<i32>(a, b, 2, 6, 3, 7));
  const cd = i32x4.max_s(v128.shuffle<i32>(c, d, 0, 4, 1, 5), v128.shuffle<i32>(c, d, 2, 6, 3, 7));
  return i32x4.max_s(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

// @ts-ignore: decorator
@inline function size16(x: usize): v128 {
  return i32x4.max_s(
    i32x4.max_s(magnitudes<f32>(x), magnitudes<f32>(x + 16)),
    i32x4.max_s(magnitudes<f32>(x + 32), magnitudes<f32>(x + 48)),
  );
}

/** UE4M3 codes of four numbers: halves round up, 7 is the end of the subnormals, and from 256 on all is 448. */
// @ts-ignore: decorator
@inline export function toUe4m3(values: v128): v128 {
  const normal = i32x4.sub(i32x4.shr_u(i32x4.add(values, i32x4.splat(0x80000)), 20), i32x4.splat(120 << 3));
  const units = f32x4.add(f32x4.mul(values, f32x4.splat(512)), f32x4.splat(0.5));
  const subnormal = f32x4.pmin(f32x4.trunc(units), f32x4.splat(7));
  const code = v128.bitselect(integer(subnormal), normal, f32x4.lt(values, f32x4.splat(1.0 / 64)));
  return v128.bitselect(i32x4.splat(0x7e), code, i32x4.ge_s(code, i32x4.splat(15 << 3)));
}

/** Scales of four groups: a power of two, and the inverse of the whole number that d is a multiple of. */
const powers: usize = memory.data(4 * 4, 16);
const inverses: usize = memory.data(4 * 4, 16);

/**
 * Codes of group `g`. Its d is n·2^p with n at most 15, so c is taken in two steps that lose nothing: up to a whole
 * multiple of 2^p/2, then of n: with c' = ⌈2·|x|/2^p⌉, (c' − ½)/n is never a whole number, nor near one.
 */
// @ts-ignore: decorator
@inline function codesOfGroup(x: usize, g: usize): v128 {
  const power = v128.load32_splat(powers + 4 * g);
  const inverse = v128.load32_splat(inverses + 4 * g);
  const half = f32x4.sub(f32x4.splat(0.5), f32x4.mul(inverse, f32x4.splat(0.5)));
  return codesOf(
    bytesOf(
      integer(f32x4.add(f32x4.mul(ceiling(v128.load(x), power), inverse), half)),
      integer(f32x4.add(f32x4.mul(ceiling(v128.load(x, 16), power), inverse), half)),
      integer(f32x4.add(f32x4.mul(ceiling(v128.load(x, 32), power), inverse), half)),
      integer(f32x4.add(f32x4.mul(ceiling(v128.load(x, 48), power), inverse), half)),
    ),
  );
}

/** Two groups, each with its first eight codes low and the others high. */
// @ts-ignore: decorator
@inline function packGroups(x: usize, g: usize, output: usize): void {
  const a = codesOfGroup(x, g);
  const b = codesOfGroup(x + 64, g + 1);
  const aSigns = signsOf(x, a);
  const bSigns = signsOf(x + 64, b);
  pack(
    v128.shuffle<i64>(a, b, 0, 2),
    v128.shuffle<i64>(aSigns, bSigns, 0, 2),
    v128.shuffle<i64>(a, b, 1, 3),
    v128.shuffle<i64>(aSigns, bSigns, 1, 3),
    output,
  );
}

/** Writes an NVFP4 block with the UE4M3 codes of its four groups. */
// @ts-ignore: decorator
@inline export function storeNvfp4(x: usize, codes: v128, output: usize): void {
  const zeros = i32x4.splat(0);
  const bytes = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(codes, zeros), zeros);
  store<i32>(output, i32x4.extract_lane(bytes, 0));
  // d = n·2^(exponent - 11), with subnormals at exponent 1.
  const exponent = i32x4.max_s(i32x4.shr_u(codes, 3), i32x4.splat(1));
  const n = i32x4.sub(codes, i32x4.shl(i32x4.sub(exponent, i32x4.splat(1)), 3));
  const power = i32x4.shl(i32x4.sub(i32x4.splat(127 + 12), exponent), 23);
  // A scale of zero makes all codes zero.
  v128.store(powers, v128.andnot(power, i32x4.eq(codes, zeros)));
  const divisor = f32x4.convert_i32x4_s(i32x4.max_s(n, i32x4.splat(1)));
  v128.store(inverses, f32x4.div(f32x4.splat(1), divisor));
  packGroups(x, 0, output + 4);
  packGroups(x + 128, 2, output + 20);
}

export function nvfp4(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 64) {
    storeNvfp4(x, toUe4m3(f32x4.div(sizes(x), f32x4.splat(6))), output);
    x += 4 * 64;
    output += 36;
  }
}
