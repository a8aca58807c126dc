// Blocks of codes of a few bits: see `src/blocks/nbits/encode.ts`.

import { halfOf } from "../half";
import { lane0, lane1, lane2, lane3, turnBlocks } from "../search/lanes";
import { searchScale } from "../search/scale";
import { searchEight } from "./eight";
import { exactScale, exactZero, findExact } from "./exact";
import { bestScale, bestZero } from "./fit";
import { packBlock } from "./pack";
import { searchPoints } from "./points";
import { findPlain, findRange, plainScale, plainZero } from "./range";

/** Where the next block's codes, scale and zero point (a byte) go. */
let codesAt: usize = 0;
let scalesAt: usize = 0;
let pointsAt: usize = 0;

/** What is found for the four blocks. */
let scale: v128 = i32x4.splat(0);
let zero: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function storeBlock(bits: i32, x: usize, block: usize, d: f32, point: f32): void {
  packBlock(bits, x, block, d, point, codesAt);
  // The sum makes one zero of two.
  store<u16>(scalesAt, halfOf(d + 0));
  store<u8>(pointsAt, <i32>point);
  codesAt += (block * <usize>bits) / 8;
  scalesAt += 2;
  pointsAt += 1;
}

// @ts-ignore: decorator
@inline function search(bits: i32, points: bool, block: usize, weighted: bool): void {
  const top: f32 = <f32>((1 << bits) - 1);
  const exact = findExact(block, points, top);
  if (i32x4.all_true(exact)) {
    scale = exactScale;
    zero = exactZero;
    return;
  }
  if (bits == 8 || points) {
    const nothing = bits == 8 ? searchEight(block, points, weighted) : searchPoints(bits, block, weighted);
    scale = v128.andnot(bestScale, nothing);
    zero = points ? v128.andnot(bestZero, nothing) : plainZero;
  } else {
    if (bits == 2) scale = searchScale(block, weighted, -2, 1, 1, 7, 1.32, 0, 1, 1, 0.06, 2, weighted, plainScale);
    else if (weighted) scale = searchScale(block, true, -8, 7, 5.025, 25, 1.03, 8, 1.15, 6, 0.006, 3, true, plainScale);
    else scale = searchScale(block, false, -8, 7, 6, 19, 1.03, 4, 1.15, 3, 0.006, 3, false, plainScale);
    zero = plainZero;
  }
  scale = v128.bitselect(exactScale, scale, exact);
  zero = v128.bitselect(exactZero, zero, exact);
}

// @ts-ignore: decorator
@inline function encode(
  bits: i32,
  points: bool,
  searched: bool,
  weighted: bool,
  x: usize,
  apart: usize,
  blocks: i32,
  block: usize,
): void {
  for (let left = blocks; left > 0; left -= 4) {
    turnBlocks(x, block, left, apart, weighted);
    findRange(block, false);
    findPlain(block, points, <f32>((1 << bits) - 1));
    scale = plainScale;
    zero = plainZero;
    if (searched) search(bits, points, block, weighted);
    const d = scale;
    const z = zero;
    storeBlock(bits, lane0, block, f32x4.extract_lane(d, 0), f32x4.extract_lane(z, 0));
    if (left > 1) storeBlock(bits, lane1, block, f32x4.extract_lane(d, 1), f32x4.extract_lane(z, 1));
    if (left > 2) storeBlock(bits, lane2, block, f32x4.extract_lane(d, 2), f32x4.extract_lane(z, 2));
    if (left > 3) storeBlock(bits, lane3, block, f32x4.extract_lane(d, 3), f32x4.extract_lane(z, 3));
    x += 16 * block;
  }
}

// @ts-ignore: decorator
@inline function encodeBits(
  bits: i32,
  points: bool,
  searched: bool,
  x: usize,
  weights: usize,
  blocks: i32,
  block: usize,
): void {
  if (!searched) encode(bits, points, false, false, x, 0, blocks, block);
  else if (weights === 0) encode(bits, points, true, false, x, 0, blocks, block);
  else encode(bits, points, true, true, x, weights - x, blocks, block);
}

function encode2(points: bool, searched: bool, x: usize, weights: usize, blocks: i32, block: usize): void {
  if (points) encodeBits(2, true, searched, x, weights, blocks, block);
  else encodeBits(2, false, searched, x, weights, blocks, block);
}

function encode4(points: bool, searched: bool, x: usize, weights: usize, blocks: i32, block: usize): void {
  if (points) encodeBits(4, true, searched, x, weights, blocks, block);
  else encodeBits(4, false, searched, x, weights, blocks, block);
}

function encode8(points: bool, searched: bool, x: usize, weights: usize, blocks: i32, block: usize): void {
  if (points) encodeBits(8, true, searched, x, weights, blocks, block);
  else encodeBits(8, false, searched, x, weights, blocks, block);
}

/**
 * Encodes whole blocks of float32 values that are finite and within the range of a half.
 *
 * @param x values, aligned to 16 bytes
 * @param weights importance of these values, or 0 for weights of 1
 * @param codes where `block` · `bits` / 8 bytes for each block go
 * @param scales where a half for each block goes
 * @param zeros where a byte for each block goes, with or without `points`
 */
export function encodeBlocks(
  bits: i32,
  block: usize,
  points: bool,
  searched: bool,
  x: usize,
  weights: usize,
  blocks: i32,
  codes: usize,
  scales: usize,
  zeros: usize,
): void {
  codesAt = codes;
  scalesAt = scales;
  pointsAt = zeros;
  switch (bits) {
    case 2:
      return encode2(points, searched, x, weights, blocks, block);
    case 4:
      return encode4(points, searched, x, weights, blocks, block);
    case 8:
      return encode8(points, searched, x, weights, blocks, block);
  }
  unreachable();
}
