// What the encoders of block types share: they read float32 in the first-level cache, whatever the source.

import { encodeCodebook } from "./codebook/index";
import { encodeAffine } from "./k/affine";
import { encodeSymmetric } from "./k/symmetric";
import { encodeLattice } from "./lattice/index";
import { encodeTernaryLattice } from "./lattice/ternary";
import { encodeLegacy } from "./legacy/index";
import { firstFrom, float, floats, infinity, largest, magnitude, magnitudes } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";
import { searchBlocks } from "./search/index";

/** Values that are widened at a time: whole blocks of every type, 16 KiB as float32. */
export const CHUNK: i32 = 4096;

export const chunk: usize = memory.data(4 * 4096, 16);

/**
 * Magnitudes from here on are refused: 65520, the least float32 that no half holds. No model has such weights,
 * and below it none of the sums overflows that the searches take.
 */
export const LIMIT: i32 = 0x477ff000;
const NVFP4: i32 = 40;
/** Above 2688: the scales of NVFP4 end at 448 and its levels at 6. */
const NVFP4_LIMIT: i32 = 0x45280001;

/** The last of the types whose weights depend on how large a value is within its row. */
const Q5_1: i32 = 7;

/** Mean square of a row, summed in float32 in the order of the values as ggml does. */
export function meanSquare<S>(input: usize, row: i32): f32 {
  let sum: f32 = 0;
  for (let i = 0; i < row; i++) {
    const x = float<S>(input + <usize>i * sizeof<S>());
    sum += x * x;
  }
  return sum / <f32>row;
}

/**
 * Widens `count` values, a multiple of 8, to float32 values from `to` on; returns the bits of the largest magnitude,
 * at least infinity for a NaN.
 */
// @ts-ignore: decorator
@inline export function widen<S>(input: usize, count: i32, to: usize): i32 {
  let most = i32x4.splat(0);
  let more = i32x4.splat(0);
  for (let end = to + 4 * <usize>count; to < end; to += 32) {
    v128.store(to, floats<S>(input));
    v128.store(to, floats<S>(input + 4 * sizeof<S>()), 16);
    most = i32x4.max_s(most, magnitudes<f32>(to));
    more = i32x4.max_s(more, magnitudes<f32>(to + 16));
    input += 8 * sizeof<S>();
  }
  return largest<f32>(i32x4.max_s(most, more));
}

/**
 * Encodes whole blocks of float32 values that are finite and within the range of a half.
 *
 * @param x float32 values, aligned to 16 bytes; at most `CHUNK`
 * @param weights importance of these values, or 0
 * @param meanSquare of the whole row, for the types up to `Q5_1` when there are weights
 */
// @ts-ignore: decorator
@inline function encodeBlocks(
  target: i32,
  x: usize,
  weights: usize,
  output: usize,
  values: i32,
  meanSquare: f32,
): void {
  switch (target) {
    case 10:
    case 12:
    case 13:
      return encodeAffine(target, x, weights, output, values);
    case 11:
    case 14:
      return encodeSymmetric(target, x, weights, output, values);
    case 20:
    case 23:
      return encodeCodebook(target, x, weights, output, values);
    case 16:
    case 17:
    case 18:
    case 21:
    case 22:
      return encodeLattice(target, x, weights, output, values);
    case 19:
    case 29:
      return encodeTernaryLattice(target, x, weights, output, values);
  }
  encodeLegacy(target, x, weights, output, values, meanSquare);
}

/**
 * Converts whole rows block by block; without weights all values are one row. See `convert`.
 *
 * @param blockValues values in a block of the target
 * @param blockBytes bytes of a block of the target
 * @param search whether to search in place of ggml's method
 */
export function rows<S>(
  target: i32,
  input: usize,
  output: usize,
  values: i32,
  weights: usize,
  row: i32,
  blockValues: i32,
  blockBytes: i32,
  search: bool,
): i32 {
  const limit = target === NVFP4 ? NVFP4_LIMIT : LIMIT;
  const length = weights === 0 ? values : row;
  for (let start = 0; start < values; start += length) {
    const weighed = weights !== 0 && target <= Q5_1;
    const mean: f32 = weighed ? meanSquare<S>(input, length) : 0;
    for (let i = 0; i < length; i += CHUNK) {
      const count = min(CHUNK, length - i);
      if (widen<S>(input, count, chunk) >= limit) {
        const bad = firstFrom<f32>(chunk, count, limit);
        const finite = magnitude<S>(input + <usize>bad * sizeof<S>()) < infinity<S>();
        return stop(finite ? OVERFLOW : NON_FINITE, start + i + bad);
      }
      const own = weights === 0 ? <usize>0 : weights + <usize>i * 4;
      if (search) searchBlocks(target, chunk, own, output, count, mean);
      else encodeBlocks(target, chunk, own, output, count, mean);
      input += <usize>count * sizeof<S>();
      output += <usize>((count / blockValues) * blockBytes);
    }
  }
  return -1;
}
