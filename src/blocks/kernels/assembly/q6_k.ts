// Q6_K: 16 sub-blocks of 16 values; a searched scale for each, in 8-bit steps of one half for all 256.

import { extremeOf16, NEGLIGIBLE } from "./extreme";
import { floatOf, halfOf, isInfinite } from "./half";
import { divided, multiplied } from "./k/levels";
import { search32, turned, WEIGHTS } from "./k/search";
import { firstFrom, floats, infinity, larger, largest, magnitudes } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";
import { nearestInteger } from "./rounding";
import { turnRows } from "./turn";

const VALUES: i32 = 256;
const BYTES: usize = 210;

/** The block as float32. */
const block: usize = memory.data(4 * 256, 16);
/** The scale of each sub-block, and the inverse scale that the search ended at (0: all levels are zero). */
const scales: usize = memory.data(4 * 16, 16);
const inverses: usize = memory.data(4 * 16, 16);
/** Levels of the block, 0…63. */
export const levels: usize = memory.data(256, 16);

/** Finds the scales of a block whose errors weigh by `weights`, or by x² for 0. */
// @ts-ignore: decorator
@inline function searchBlock(x: usize, weights: usize): void {
  for (let s: usize = 0; s < 16; s += 4) {
    turnRows(x + 64 * s, 64, 16, turned);
    if (weights !== 0) {
      turnRows(weights + 64 * s, 64, 16, turned + WEIGHTS);
    } else {
      for (let at = turned; at < turned + 16 * 16; at += 16) {
        const value = v128.load(at);
        v128.store(at, f32x4.mul(value, value), WEIGHTS);
      }
    }
    search32(scales + 4 * s, inverses + 4 * s);
  }
}

// @ts-ignore: decorator
@inline function lowBits(at: usize): v128 {
  return v128.and(v128.load(levels + at), i8x16.splat(15));
}

// @ts-ignore: decorator
@inline function highBits(at: usize): v128 {
  return i8x16.shr_u(v128.load(levels + at), 4);
}

/** Packs the levels: low nibbles in pairs 64 values apart, then the high two bits of values 32 apart. */
// @ts-ignore: decorator
@inline export function pack(output: usize): void {
  for (let h: usize = 0; h < 2; h++) {
    for (let l: usize = 0; l < 32; l += 16) {
      const at: usize = 128 * h + l;
      const ql = output + 64 * h + l;
      v128.store(ql, v128.or(lowBits(at), i8x16.shl(lowBits(at + 64), 4)));
      v128.store(ql, v128.or(lowBits(at + 32), i8x16.shl(lowBits(at + 96), 4)), 32);
      const first = v128.or(highBits(at), i8x16.shl(highBits(at + 32), 2));
      const second = v128.or(i8x16.shl(highBits(at + 64), 4), i8x16.shl(highBits(at + 96), 6));
      v128.store(output + 128 + 32 * h + l, v128.or(first, second));
    }
  }
}

/** Writes a block with the scales that were searched; `inverse` is −128 divided by the largest. */
// @ts-ignore: decorator
@inline function write(x: usize, inverse: f32, half: i32, output: usize): void {
  store<u16>(output, half, 208);
  const d = floatOf(half);
  for (let s: usize = 0; s < 16; s++) {
    const code = min(127, nearestInteger(inverse * load<f32>(scales + 4 * s)));
    store<i8>(output + s, code, 192);
    const scale = d * <f32>code;
    const from = x + 64 * s;
    // Where the half or the code is zero, levels stay as the search left them.
    const bytes =
      scale != 0 ? divided(from, scale, 32) : multiplied(from, load<f32>(inverses + 4 * s), 32);
    v128.store(levels + 16 * s, bytes);
  }
  pack(output);
}

/** Reads a block as float32; returns the bits of its largest magnitude in the source type. */
// @ts-ignore: decorator
@inline function read<S>(input: usize): i32 {
  let most = i32x4.splat(0);
  for (let i: usize = 0; i < 256 * sizeof<S>(); i += 16) most = larger<S>(most, magnitudes<S>(input + i));
  for (let i: usize = 0; i < 256; i += 4) v128.store(block + 4 * i, floats<S>(input + i * sizeof<S>()));
  return largest<S>(most);
}

/** Whether the scale of a sub-block is NaN. */
function lostScale(): bool {
  for (let s: usize = 0; s < 16; s++) {
    const scale = load<f32>(scales + 4 * s);
    if (scale != scale) return true;
  }
  return false;
}

export function q6_k<S>(input: usize, output: usize, values: i32): i32 {
  for (let i = 0; i < values; i += VALUES) {
    const most = read<S>(input);
    if (most >= infinity<S>()) return stop(NON_FINITE, i + firstFrom<S>(input, VALUES, infinity<S>()));
    searchBlock(block, 0);
    const extreme = extremeOf16(scales);
    // Where the sums of squares overflow, the scale is NaN, and ggml would store zeros.
    const lost = lostScale();
    if (abs(extreme) < NEGLIGIBLE && !lost) {
      memory.fill(output, 0, BYTES);
    } else {
      const inverse: f32 = -128 / extreme;
      const half = halfOf(1 / inverse);
      if (lost || isInfinite(half)) return stop(OVERFLOW, i + firstFrom<S>(input, VALUES, most));
      write(block, inverse, half, output);
    }
    input += VALUES * sizeof<S>();
    output += BYTES;
  }
  return -1;
}

/** Q6_K of float32 values whose errors weigh by `weights`: see `encodeBlocks`. */
export function weightedQ6_K(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += VALUES) {
    searchBlock(x, weights);
    const extreme = extremeOf16(scales);
    if (abs(extreme) < NEGLIGIBLE) {
      memory.fill(output, 0, BYTES);
    } else {
      const inverse: f32 = -128 / extreme;
      write(x, inverse, halfOf(1 / inverse), output);
    }
    x += 4 * VALUES;
    weights += 4 * VALUES;
    output += BYTES;
  }
}
