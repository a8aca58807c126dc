// Types with one scale a block and levels around 0.

import { halfOf } from "../half";
import { bytesOf, MAGIC_BITS, packFifths, packNibbles } from "../legacy/pack";
import { joinFours, storeTQ1_0, storeTQ2_0 } from "../legacy/ternary";
import { MAGIC } from "../rounding";
import { scalesOf } from "../legacy/scale";
import { lane0, lane1, lane2, lane3, turnBlocks } from "./lanes";
import { searchScale } from "./scale";

const Q4_0 = 2;
const Q5_0 = 6;
const TQ1_0 = 34;
const TQ2_0 = 35;
const Q2_0 = 42;

/** Levels of four values, as integers beyond `above`. */
// @ts-ignore: decorator
@inline function levels4(x: usize, inverse: v128, lowest: i32, highest: i32, above: i32): v128 {
  const units = f32x4.mul(v128.load(x), inverse);
  const within = f32x4.pmax(f32x4.pmin(units, f32x4.splat(<f32>highest)), f32x4.splat(<f32>lowest));
  return i32x4.sub(f32x4.add(within, f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS + above));
}

// @ts-ignore: decorator
@inline export function levels16(x: usize, inverse: v128, lowest: i32, highest: i32, above: i32): v128 {
  return bytesOf(
    levels4(x, inverse, lowest, highest, above),
    levels4(x + 16, inverse, lowest, highest, above),
    levels4(x + 32, inverse, lowest, highest, above),
    levels4(x + 48, inverse, lowest, highest, above),
  );
}

// @ts-ignore: decorator
@inline function fours(x: usize, inverse: v128): v128 {
  return joinFours(
    levels4(x, inverse, -1, 2, -1),
    levels4(x + 16, inverse, -1, 2, -1),
    levels4(x + 32, inverse, -1, 2, -1),
    levels4(x + 48, inverse, -1, 2, -1),
  );
}

/** Writes a block with its scale as the half stores it. */
// @ts-ignore: decorator
@inline function storeBlock(type: i32, x: usize, d: f32, output: usize): void {
  if (type == TQ1_0) return storeTQ1_0(x, d, output, true);
  if (type == TQ2_0) return storeTQ2_0(x, d, output, true);
  store<u16>(output, halfOf(d));
  const inverse = f32x4.splat(d == 0 ? 0 : 1 / d);
  if (type == Q4_0) {
    packNibbles(levels16(x, inverse, -8, 7, -8), levels16(x + 64, inverse, -8, 7, -8), output + 2);
  } else if (type == Q5_0) {
    packFifths(levels16(x, inverse, -16, 15, -16), levels16(x + 64, inverse, -16, 15, -16), output + 2);
  } else {
    const low = i16x8.narrow_i32x4_s(fours(x, inverse), fours(x + 64, inverse));
    const high = i16x8.narrow_i32x4_s(fours(x + 128, inverse), fours(x + 192, inverse));
    v128.store(output, i8x16.narrow_i16x8_u(low, high), 2);
  }
}

/** The scales that ggml's method finds where it heeds the importance. */
// @ts-ignore: decorator
@inline function ggmlsScales(type: i32, x: usize, blocks: i32, importance: usize, mean: f32): v128 {
  if (type == Q4_0) return scalesOf(x, blocks, importance, mean, 8);
  if (type == Q5_0) return scalesOf(x, blocks, importance, mean, 16);
  return i32x4.splat(0);
}

// @ts-ignore: decorator
@inline function find(type: i32, weighted: bool, theirs: v128): v128 {
  if (type == Q4_0) return searchScale(32, weighted, -8, 7, 6, 19, 1.03, 4, 1.15, 3, 0.006, 3, weighted, theirs);
  if (type == Q5_0) return searchScale(32, weighted, -16, 15, 12, 19, 1.03, 4, 1.15, 4, 0.006, 3, weighted, theirs);
  if (type == Q2_0) return searchScale(64, weighted, -1, 2, 1, 7, 1.32, 0, 1, 1, 0.06, 2, false, theirs);
  return searchScale(256, weighted, -1, 1, 0.7, 7, 1.35, 0, 1, 1, 0.06, 2, false, theirs);
}

// @ts-ignore: decorator
@inline function encodeBlocks(
  type: i32,
  x: usize,
  importance: usize,
  output: usize,
  values: i32,
  own: i32,
  bytes: usize,
  weighted: bool,
  mean: f32,
): void {
  for (let blocks = values / own; blocks > 0; blocks -= 4) {
    turnBlocks(x, own, blocks, importance, weighted);
    const theirs = weighted ? ggmlsScales(type, x, blocks, importance, mean) : i32x4.splat(0);
    const d = find(type, weighted, theirs);
    storeBlock(type, lane0, f32x4.extract_lane(d, 0), output);
    if (blocks > 1) storeBlock(type, lane1, f32x4.extract_lane(d, 1), output + bytes);
    if (blocks > 2) storeBlock(type, lane2, f32x4.extract_lane(d, 2), output + 2 * bytes);
    if (blocks > 3) storeBlock(type, lane3, f32x4.extract_lane(d, 3), output + 3 * bytes);
    x += 16 * <usize>own;
    output += 4 * bytes;
  }
}

// @ts-ignore: decorator
@inline function encode(
  type: i32,
  x: usize,
  weights: usize,
  output: usize,
  values: i32,
  own: i32,
  bytes: usize,
  mean: f32,
): void {
  if (weights === 0) encodeBlocks(type, x, 0, output, values, own, bytes, false, 0);
  else encodeBlocks(type, x, weights - x, output, values, own, bytes, true, mean);
}

/** See `searchBlocks`; `meanSquare` is of the row. */
export function searchQ4_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(Q4_0, x, weights, output, values, 32, 18, meanSquare);
}

/** See `searchBlocks`; `meanSquare` is of the row. */
export function searchQ5_0(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(Q5_0, x, weights, output, values, 32, 22, meanSquare);
}

export function searchTQ1_0(x: usize, weights: usize, output: usize, values: i32): void {
  encode(TQ1_0, x, weights, output, values, 256, 54, 0);
}

export function searchTQ2_0(x: usize, weights: usize, output: usize, values: i32): void {
  encode(TQ2_0, x, weights, output, values, 256, 66, 0);
}

export function searchQ2_0(x: usize, weights: usize, output: usize, values: i32): void {
  encode(Q2_0, x, weights, output, values, 64, 18, 0);
}
