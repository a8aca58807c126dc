// Q4_0 and Q5_0 with an importance: of 19 scales the one that leaves the smallest weighted squared error.

import { halves } from "../half";
import { search16, search8, turned, WEIGHTS } from "../k/search";
import { MAGIC } from "../rounding";
import { bytesOf, MAGIC_BITS, packFifths, packNibbles } from "./pack";
import { turnFour } from "./weighted";

/** Of four blocks: their scales, later as halves, and the inverse scales of their levels. */
const scales: usize = memory.data(4 * 4, 16);
const inverses: usize = memory.data(4 * 4, 16);

/** Nearest integers of four numbers plus `bound`, at least 0 and at most 2·bound - 1. */
// @ts-ignore: decorator
@inline function levels4(x: v128, inverse: v128, bound: i32): v128 {
  const rounded = f32x4.add(f32x4.mul(x, inverse), f32x4.splat(MAGIC));
  const level = i32x4.sub(rounded, i32x4.splat(MAGIC_BITS - bound));
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(2 * bound - 1)), i32x4.splat(0));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, inverse: v128, bound: i32): v128 {
  return bytesOf(
    levels4(v128.load(x), inverse, bound),
    levels4(v128.load(x, 16), inverse, bound),
    levels4(v128.load(x, 32), inverse, bound),
    levels4(v128.load(x, 48), inverse, bound),
  );
}

/** Stores the block whose numbers lie `lane` bytes behind those of the first. */
// @ts-ignore: decorator
@inline function storeBlock(x: usize, lane: usize, bound: i32, output: usize): void {
  store<u16>(output, load<u16>(scales + lane));
  const inverse = v128.load32_splat(inverses + lane);
  // Without an inverse scale the levels are zeros as stored: the lowest level, under a scale of 0.
  const keep = f32x4.ne(inverse, i32x4.splat(0));
  const low = v128.and(levels16(x, inverse, bound), keep);
  const high = v128.and(levels16(x + 64, inverse, bound), keep);
  if (bound == 16) packFifths(low, high, output + 2);
  else packNibbles(low, high, output + 2);
}

/**
 * The scales of the first four of some blocks, not yet as halves; fewer repeat the last.
 *
 * @param importance how far behind a value its importance lies
 * @param mean mean square of the row
 */
// @ts-ignore: decorator
@inline export function scalesOf(x: usize, blocks: i32, importance: usize, mean: f32, bound: i32): v128 {
  turnFour(x, 0, blocks, importance, mean, turned, turned + WEIGHTS, 16);
  if (bound == 16) search16(scales, inverses);
  else search8(scales, inverses);
  return v128.load(scales);
}

// @ts-ignore: decorator
@inline function encode(x: usize, weights: usize, output: usize, values: i32, mean: f32, bound: i32): void {
  const bytes: usize = bound == 16 ? 22 : 18;
  const importance = weights - x;
  for (let blocks = values / 32; blocks > 0; blocks -= 4) {
    v128.store(scales, halves(scalesOf(x, blocks, importance, mean, bound)));
    for (let k = 0; k < min(4, blocks); k++) {
      storeBlock(x, 4 * <usize>k, bound, output);
      x += 128;
      output += bytes;
    }
  }
}

/** See `encodeBlocks`; `meanSquare` is of the row. */
export function weightedQ4_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 8);
}

export function weightedQ5_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 16);
}
