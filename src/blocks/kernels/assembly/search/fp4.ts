// MXFP4 and NVFP4: see `src/blocks/search/fp4.ts`, which says the same for one block.

import { exponentOf, storeMxfp4, storeNvfp4, toUe4m3 } from "../legacy/fp4";
import { lane0, lane1, lane2, lane3, turnBlocks, turned, WEIGHTS } from "./lanes";

/** The best code so far, and its error. */
let best: v128 = i32x4.splat(0);
let error: v128 = i32x4.splat(0);

/** Largest magnitudes: of all values, and of those that have a weight. */
let size: v128 = i32x4.splat(0);
let weighedSize: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function measure(values: usize, weighted: bool): void {
  size = i32x4.splat(0);
  weighedSize = size;
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const magnitude = f32x4.abs(v128.load(at));
    size = f32x4.pmax(size, magnitude);
    if (!weighted) continue;
    const counts = f32x4.gt(v128.load(at, WEIGHTS), i32x4.splat(0));
    weighedSize = f32x4.pmax(weighedSize, v128.and(magnitude, counts));
  }
  if (!weighted) weighedSize = size;
}

/**
 * Doubled E2M1 numbers nearest to magnitudes in units of the scale. From 2 on they have one binary digit behind the
 * first, so adding 2^22 times their power of two rounds them in place; below they are whole numbers like from 2 on.
 */
// @ts-ignore: decorator
@inline function nearestLevel(units: v128): v128 {
  const within = f32x4.pmin(units, f32x4.splat(12));
  const power = v128.and(f32x4.pmax(within, f32x4.splat(2)), i32x4.splat(0x7f800000));
  const large = i32x4.add(power, i32x4.splat(22 << 23));
  return f32x4.sub(f32x4.add(within, large), large);
}

/** Takes codes over where their scales leave less error. */
// @ts-ignore: decorator
@inline function attempt(codes: v128, d: v128, values: usize, weighted: bool): void {
  const inverse = v128.andnot(f32x4.div(f32x4.splat(1), d), f32x4.eq(d, i32x4.splat(0)));
  let left = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = f32x4.abs(v128.load(at));
    const off = f32x4.sub(x, f32x4.mul(d, nearestLevel(f32x4.mul(x, inverse))));
    const square = f32x4.mul(off, off);
    left = f32x4.add(left, weighted ? f32x4.mul(v128.load(at, WEIGHTS), square) : square);
  }
  const better = f32x4.lt(left, error);
  best = v128.bitselect(codes, best, better);
  error = v128.bitselect(left, error, better);
}

/** MXFP4 exponents of four numbers. */
// @ts-ignore: decorator
@inline function exponentsOf(sizes: v128): v128 {
  return i32x4.replace_lane(
    i32x4.replace_lane(
      i32x4.replace_lane(
        i32x4.splat(exponentOf(f32x4.extract_lane(sizes, 0))),
        1,
        exponentOf(f32x4.extract_lane(sizes, 1)),
      ),
      2,
      exponentOf(f32x4.extract_lane(sizes, 2)),
    ),
    3,
    exponentOf(f32x4.extract_lane(sizes, 3)),
  );
}

/** 2^-60: magnitudes below have errors that are too small for a float32. */
const TINY: f32 = reinterpret<f32>(67 << 23);

// @ts-ignore: decorator
@inline function attemptExponents(exponents: v128, weighted: bool): void {
  const power = i32x4.sub(i32x4.max_s(exponents, i32x4.splat(2)), i32x4.splat(1));
  attempt(exponents, i32x4.shl(power, 23), 32, weighted);
}

// @ts-ignore: decorator
@inline function mxfp4(x: usize, importance: usize, output: usize, values: i32, weighted: bool): void {
  for (let blocks = values / 32; blocks > 0; blocks -= 4) {
    turnBlocks(x, 32, blocks, importance, weighted);
    measure(32, weighted);
    error = f32x4.splat(Infinity);
    attemptExponents(exponentsOf(size), weighted);
    const near = exponentsOf(f32x4.pmax(f32x4.splat(TINY), weighedSize));
    attemptExponents(near, weighted);
    attemptExponents(i32x4.sub(near, i32x4.splat(1)), weighted);
    attemptExponents(i32x4.add(near, i32x4.splat(1)), weighted);
    attemptExponents(i32x4.sub(near, i32x4.splat(2)), weighted);
    storeMxfp4(lane0, i32x4.extract_lane(best, 0), output);
    if (blocks > 1) storeMxfp4(lane1, i32x4.extract_lane(best, 1), output + 17);
    if (blocks > 2) storeMxfp4(lane2, i32x4.extract_lane(best, 2), output + 34);
    if (blocks > 3) storeMxfp4(lane3, i32x4.extract_lane(best, 3), output + 51);
    x += 4 * 4 * 32;
    output += 4 * 17;
  }
}

export function searchMXFP4(x: usize, weights: usize, output: usize, values: i32): void {
  if (weights === 0) mxfp4(x, 0, output, values, false);
  else mxfp4(x, weights - x, output, values, true);
}

/** Codes below and above the one that puts the largest magnitude at 6. */
const BELOW: i32 = 6;
const ABOVE: i32 = 7;

/** d of UE4M3 codes, which is half of what they say. */
// @ts-ignore: decorator
@inline function attemptCodes(codes: v128, weighted: bool): void {
  const normal = i32x4.add(i32x4.shl(codes, 20), i32x4.splat(119 << 23));
  const subnormal = f32x4.mul(f32x4.convert_i32x4_s(codes), f32x4.splat(1.0 / 1024));
  attempt(codes, v128.bitselect(subnormal, normal, i32x4.lt_s(codes, i32x4.splat(8))), 16, weighted);
}

/** The four groups of a block are the lanes. */
// @ts-ignore: decorator
@inline function nvfp4(x: usize, importance: usize, output: usize, values: i32, weighted: bool): void {
  for (let i = 0; i < values; i += 64) {
    turnBlocks(x, 16, 4, importance, weighted);
    measure(16, weighted);
    error = f32x4.splat(Infinity);
    attemptCodes(toUe4m3(f32x4.div(size, f32x4.splat(6))), weighted);
    const near = toUe4m3(f32x4.div(weighedSize, f32x4.splat(6)));
    for (let beside = -BELOW; beside <= ABOVE; beside++) {
      const code = i32x4.add(near, i32x4.splat(beside));
      attemptCodes(i32x4.max_s(i32x4.min_s(code, i32x4.splat(126)), i32x4.splat(0)), weighted);
    }
    storeNvfp4(x, best, output);
    x += 4 * 64;
    output += 36;
  }
}

export function searchNVFP4(x: usize, weights: usize, output: usize, values: i32): void {
  if (weights === 0) nvfp4(x, 0, output, values, false);
  else nvfp4(x, weights - x, output, values, true);
}
