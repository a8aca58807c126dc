// Between float32, half and bfloat16.

import { halves } from "./half";
import { firstFrom, floats, infinity, larger, largest, magnitude, magnitudes } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";

/** Values between two looks at the largest magnitude so far. */
const CHUNK: i32 = 4096;

/** 2^−14 as bfloat16. */
const LEAST_NORMAL_HALF: i16 = 0x3880;
/** What the exponent of a bfloat16 is larger than that of the same half, in its place: 127 − 15. */
const BIAS_DIFFERENCE: i16 = 112 << 7;

/** Bits of the least magnitude of `S` that `T` cannot hold as a finite number. */
// @ts-ignore: decorator
@inline function limit<S, T>(): i32 {
  // To half: 65520 rounds to infinity; the first bfloat16 above it is 65536. To bfloat16: a float32 within half
  // a unit of 2^128.
  if (!isFloat<T>() && isSigned<T>()) {
    if (isFloat<S>()) return 0x477ff000;
    if (!isSigned<S>()) return 0x4780;
  }
  if (!isFloat<T>() && !isSigned<T>() && isFloat<S>()) return 0x7f7f8000;
  return infinity<S>();
}

/** Stores eight float32 values as `T`. */
// @ts-ignore: decorator
@inline function store8<T>(at: usize, a: v128, b: v128): void {
  if (isFloat<T>()) {
    v128.store(at, a);
    v128.store(at, b, 16);
  } else if (isSigned<T>()) {
    v128.store(at, i16x8.narrow_i32x4_u(halves(a), halves(b)));
  } else {
    v128.store(at, i16x8.narrow_i32x4_u(bfloats(a), bfloats(b)));
  }
}

/** Bfloat16 of four finite float32 values, zero-extended to 32 bits. */
// @ts-ignore: decorator
@inline function bfloats(values: v128): v128 {
  const odd = v128.and(i32x4.shr_u(values, 16), i32x4.splat(1));
  return i32x4.shr_u(i32x4.add(i32x4.add(values, i32x4.splat(0x7fff)), odd), 16);
}

/**
 * Stores eight bfloat16 values as half. Normal halves have room for every bit of theirs, so only the exponent's
 * bias changes; a vector with a value that is a subnormal half (one in 50 with weights of usual size) is rounded as
 * float32.
 */
// @ts-ignore: decorator
@inline function storeHalves(at: usize, input: usize): void {
  const values = v128.load(input);
  const magnitudes = v128.and(values, i16x8.splat(0x7fff));
  const normal = i16x8.ge_s(magnitudes, i16x8.splat(LEAST_NORMAL_HALF));
  const zero = i16x8.eq(magnitudes, i16x8.splat(0));
  if (!i16x8.all_true(v128.or(normal, zero))) {
    store8<i16>(at, floats<u16>(input), floats<u16>(input + 8));
    return;
  }
  const moved = i16x8.shl(i16x8.sub(magnitudes, i16x8.splat(BIAS_DIFFERENCE)), 3);
  v128.store(at, v128.or(v128.and(moved, normal), v128.andnot(values, i16x8.splat(0x7fff))));
}

/** Converts eight values. */
// @ts-ignore: decorator
@inline function convert8<S, T>(at: usize, input: usize): void {
  if (!isFloat<S>() && !isSigned<S>() && !isFloat<T>() && isSigned<T>()) storeHalves(at, input);
  else store8<T>(at, floats<S>(input), floats<S>(input + 4 * sizeof<S>()));
}

/** Largest magnitude of eight values, lane by lane, joined with `most`. */
// @ts-ignore: decorator
@inline function join<S>(most: v128, at: usize): v128 {
  const joined = larger<S>(most, magnitudes<S>(at));
  return isFloat<S>() ? larger<S>(joined, magnitudes<S>(at + 16)) : joined;
}

function blame<S>(input: usize, values: i32, limit: i32): i32 {
  const index = firstFrom<S>(input, values, limit);
  const finite = magnitude<S>(input + <usize>index * sizeof<S>()) < infinity<S>();
  return stop(finite ? OVERFLOW : NON_FINITE, index);
}

/** Converts `values` values. Reads and may write up to seven values past the end. */
export function plain<S, T>(input: usize, output: usize, values: i32): i32 {
  for (let start = 0; start < values; start += CHUNK) {
    const end = min(values, start + CHUNK);
    let most = i32x4.splat(0);
    let i = start;
    for (; i + 8 <= end; i += 8) {
      const at = input + <usize>i * sizeof<S>();
      most = join<S>(most, at);
      convert8<S, T>(output + <usize>i * sizeof<T>(), at);
    }
    let found = largest<S>(most) >= limit<S, T>();
    if (i < end) {
      const at = input + <usize>i * sizeof<S>();
      convert8<S, T>(output + <usize>i * sizeof<T>(), at);
      found = found || firstFrom<S>(at, end - i, limit<S, T>()) >= 0;
    }
    if (found) return blame<S>(input, end, limit<S, T>());
  }
  return -1;
}

/** Looks for values that are not finite. */
export function check<S>(input: usize, values: i32): i32 {
  for (let start = 0; start < values; start += CHUNK) {
    const end = min(values, start + CHUNK);
    let most = i32x4.splat(0);
    let more = i32x4.splat(0);
    let i = start;
    for (; i + 16 <= end; i += 16) {
      const at = input + <usize>i * sizeof<S>();
      most = join<S>(most, at);
      more = join<S>(more, at + 8 * sizeof<S>());
    }
    const at = input + <usize>i * sizeof<S>();
    if (largest<S>(larger<S>(most, more)) >= infinity<S>() || firstFrom<S>(at, end - i, infinity<S>()) >= 0) {
      return blame<S>(input, end, infinity<S>());
    }
  }
  return -1;
}
