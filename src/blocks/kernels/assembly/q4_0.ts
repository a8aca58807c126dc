// Q4_0: 32 values share a half; the first value of largest magnitude becomes level -8, whatever its sign.

import { halfOf, isInfinite } from "./half";
import { firstFrom, float, floats, infinity, largestOf32, magnitudes } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";

const VALUES: i32 = 32;
const BYTES: usize = 18;

/** One bit for each of 16 values: whether its magnitude has these bits. */
// @ts-ignore: decorator
@inline function equals16<S>(at: usize, bits: i32): i32 {
  if (isFloat<S>()) {
    const sought = i32x4.splat(bits);
    const low = i16x8.narrow_i32x4_s(
      i32x4.eq(magnitudes<S>(at), sought),
      i32x4.eq(magnitudes<S>(at + 16), sought),
    );
    const high = i16x8.narrow_i32x4_s(
      i32x4.eq(magnitudes<S>(at + 32), sought),
      i32x4.eq(magnitudes<S>(at + 48), sought),
    );
    return i8x16.bitmask(i8x16.narrow_i16x8_s(low, high));
  }
  const sought = i16x8.splat(<i16>bits);
  return i8x16.bitmask(
    i8x16.narrow_i16x8_s(
      i16x8.eq(magnitudes<S>(at), sought),
      i16x8.eq(magnitudes<S>(at + 16), sought),
    ),
  );
}

/** Levels 0…16 of four values. */
// @ts-ignore: decorator
@inline function levels<S>(at: usize, inverse: v128): v128 {
  const x = f32x4.add(f32x4.mul(floats<S>(at), inverse), f32x4.splat(8.5));
  return i32x4.sub(f32x4.add(f32x4.trunc(x), f32x4.splat(12582912)), i32x4.splat(0x4b400000));
}

/** Levels 0…15 of 16 values. */
// @ts-ignore: decorator
@inline function levels16<S>(at: usize, inverse: v128): v128 {
  const packed = i8x16.narrow_i16x8_s(
    i16x8.narrow_i32x4_s(levels<S>(at, inverse), levels<S>(at + 4 * sizeof<S>(), inverse)),
    i16x8.narrow_i32x4_s(
      levels<S>(at + 8 * sizeof<S>(), inverse),
      levels<S>(at + 12 * sizeof<S>(), inverse),
    ),
  );
  return i8x16.min_u(packed, i8x16.splat(15));
}

export function q4_0<S>(input: usize, output: usize, values: i32): i32 {
  for (let i = 0; i < values; i += VALUES) {
    const most = largestOf32<S>(input);
    if (most >= infinity<S>()) return stop(NON_FINITE, i + firstFrom<S>(input, VALUES, infinity<S>()));
    const second = input + 16 * sizeof<S>();
    // In a block of zeros every value matches; the scale must then be -0 whatever the sign of the first.
    const first = ctz(equals16<S>(input, most) | (equals16<S>(second, most) << 16));
    const value: f32 = most == 0 ? 0 : float<S>(input + <usize>first * sizeof<S>());
    const d = value / -8;
    const half = halfOf(d);
    if (isInfinite(half)) return stop(OVERFLOW, i + first);
    store<u16>(output, half);
    const inverse: f32 = d == 0 ? 0 : 1 / d;
    if (abs(inverse) == Infinity) {
      // The scale is a zero as a half: ggml on x86-64 stores zeros for its levels.
      v128.store(output, i32x4.splat(0), 2);
    } else {
      const lanes = f32x4.splat(inverse);
      const low = levels16<S>(input, lanes);
      const high = levels16<S>(second, lanes);
      v128.store(output, v128.or(low, i16x8.shl(high, 4)), 2);
    }
    input += VALUES * sizeof<S>();
    output += BYTES;
  }
  return -1;
}
