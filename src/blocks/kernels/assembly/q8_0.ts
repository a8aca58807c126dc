// Q8_0: 32 values share a half; the largest magnitude becomes ±127.

import { halfOf, isInfinite } from "./half";
import { firstFrom, floats, infinity, largestOf32, valueOf } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";

const VALUES: i32 = 32;
const BYTES: usize = 34;

/** Levels of four values: value times inverse scale, rounded half away from zero. */
// @ts-ignore: decorator
@inline function levels<S>(at: usize, inverse: v128): v128 {
  const x = f32x4.mul(floats<S>(at), inverse);
  // Adding the float below one half and truncating is roundf for every float32 of this size; one half itself
  // would push 0.49999997 up.
  const below = v128.or(v128.and(x, i32x4.splat(0x80000000)), i32x4.splat(0x3effffff));
  const level = f32x4.trunc(f32x4.add(x, below));
  return i32x4.sub(f32x4.add(level, f32x4.splat(12582912)), i32x4.splat(0x4b400000));
}

// @ts-ignore: decorator
@inline function levels16<S>(at: usize, inverse: v128): v128 {
  return i8x16.narrow_i16x8_s(
    i16x8.narrow_i32x4_s(levels<S>(at, inverse), levels<S>(at + 4 * sizeof<S>(), inverse)),
    i16x8.narrow_i32x4_s(
      levels<S>(at + 8 * sizeof<S>(), inverse),
      levels<S>(at + 12 * sizeof<S>(), inverse),
    ),
  );
}

export function q8_0<S>(input: usize, output: usize, values: i32): i32 {
  for (let i = 0; i < values; i += VALUES) {
    const most = largestOf32<S>(input);
    if (most >= infinity<S>()) return stop(NON_FINITE, i + firstFrom<S>(input, VALUES, infinity<S>()));
    const d = valueOf<S>(most) / 127;
    const half = halfOf(d);
    if (isInfinite(half)) return stop(OVERFLOW, i + firstFrom<S>(input, VALUES, most));
    store<u16>(output, half);
    // A scale whose inverse is infinite is a zero as a half: ggml on x86-64 stores zeros for its levels.
    const inverse: f32 = d == 0 ? 0 : 1 / d;
    const lanes = f32x4.splat(inverse == Infinity ? 0 : inverse);
    v128.store(output, levels16<S>(input, lanes), 2);
    v128.store(output, levels16<S>(input + 16 * sizeof<S>(), lanes), 18);
    input += VALUES * sizeof<S>();
    output += BYTES;
  }
  return -1;
}
