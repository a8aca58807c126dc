// Q4_1, Q5_0 and Q5_1 without an importance: the scale follows from the range of the block, and values are rounded
// to the nearest level, half up.

import { halfOf } from "../half";
import { bytesOf, MAGIC, MAGIC_BITS, packFifths, packNibbles } from "./pack";

const VALUES: i32 = 32;

/** Smallest value of the block, and largest: which of two zeros is not said. */
let low: f32 = 0;
let high: f32 = 0;

// @ts-ignore: decorator
@inline function measure(x: usize): void {
  const a = v128.load(x);
  const b = v128.load(x, 16);
  let least = f32x4.pmin(a, b);
  let most = f32x4.pmax(a, b);
  for (let i: usize = 32; i < 128; i += 32) {
    const c = v128.load(x + i);
    const d = v128.load(x + i, 16);
    least = f32x4.pmin(least, f32x4.pmin(c, d));
    most = f32x4.pmax(most, f32x4.pmax(c, d));
  }
  // Both reductions in one: the largest is the negated smallest of the negated values.
  most = f32x4.neg(most);
  let both = f32x4.pmin(v128.shuffle<i64>(least, most, 0, 2), v128.shuffle<i64>(least, most, 1, 3));
  both = f32x4.pmin(both, v128.shuffle<i32>(both, both, 1, 0, 3, 2));
  low = f32x4.extract_lane(both, 0);
  high = -f32x4.extract_lane(both, 2);
}

/** The first of the values whose magnitude is `size`. */
function firstOfSize(x: usize, size: f32): f32 {
  while (abs(load<f32>(x)) != size) x += 4;
  return load<f32>(x);
}

/** Levels of four values that are not negative before they are cut off. */
// @ts-ignore: decorator
@inline function levels4(x: v128, offset: v128, inverse: v128, half: v128): v128 {
  const level = f32x4.add(f32x4.mul(f32x4.sub(x, offset), inverse), half);
  return i32x4.sub(f32x4.add(f32x4.trunc(level), f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, offset: v128, inverse: v128, half: v128): v128 {
  return bytesOf(
    levels4(v128.load(x), offset, inverse, half),
    levels4(v128.load(x, 16), offset, inverse, half),
    levels4(v128.load(x, 32), offset, inverse, half),
    levels4(v128.load(x, 48), offset, inverse, half),
  );
}

/** Inverse of a scale, 0 for the scale 0. */
// @ts-ignore: decorator
@inline function inverseOf(scale: f32): f32 {
  return scale == 0 ? 0 : 1 / scale;
}

/** Q5_0: the first value of largest magnitude becomes level -16, whatever its sign. */
export function q5_0(x: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += VALUES) {
    measure(x);
    const size = max(-low, high);
    const extreme = -low == high ? firstOfSize(x, size) : size == high ? high : low;
    // In a block of zeros the scale is -0 whatever the sign of the first.
    const scale = (size == 0 ? <f32>0 : extreme) / -16;
    store<u16>(output, halfOf(scale));
    const inverse = inverseOf(scale);
    if (abs(inverse) == Infinity) {
      // The scale is a zero as a half: ggml on x86-64 stores zeros for its levels.
      store<i32>(output, 0, 2);
      v128.store(output, i32x4.splat(0), 6);
    } else {
      const lanes = f32x4.splat(inverse);
      const half = f32x4.splat(16.5);
      const top = i8x16.splat(31);
      const first = i8x16.min_u(levels16(x, i32x4.splat(0), lanes, half), top);
      const second = i8x16.min_u(levels16(x + 64, i32x4.splat(0), lanes, half), top);
      packFifths(first, second, output + 2);
    }
    x += 128;
    output += 22;
  }
}

/** Q4_1 and Q5_1: the smallest value becomes level 0, the largest the highest. */
// @ts-ignore: decorator
@inline function affine(x: usize, output: usize, values: i32, fifth: bool): void {
  for (let i = 0; i < values; i += VALUES) {
    measure(x);
    const scale = (high - low) / (fifth ? 31 : 15);
    store<u16>(output, halfOf(scale));
    // Of two zeros the first gives the offset its sign.
    store<u16>(output, halfOf(low == 0 ? firstOfSize(x, 0) : low), 2);
    // An infinite inverse belongs to a scale that is a zero as a half: ggml on x86-64 stores zeros for its levels.
    const inverse = inverseOf(scale);
    const lanes = f32x4.splat(inverse == Infinity ? 0 : inverse);
    const offset = f32x4.splat(low);
    const half = f32x4.splat(0.5);
    const first = levels16(x, offset, lanes, half);
    const second = levels16(x + 64, offset, lanes, half);
    if (fifth) packFifths(first, second, output + 4);
    else packNibbles(first, second, output + 4);
    x += 128;
    output += fifth ? 24 : 20;
  }
}

export function q4_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, false);
}

export function q5_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, true);
}
