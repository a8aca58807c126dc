// Q2_K, Q4_K and Q5_K: a searched scale and minimum for every sub-block, stored as levels of two halves that all
// 256 values share.

import { halves } from "../half";
import { float } from "../number";
import {
  BLOCK_STEP,
  FIELD_STEP,
  fields,
  FROMS,
  INVERSES,
  MEAN_SQUARES,
  MINIMUM_HALVES,
  MINIMUM_LEVELS,
  MINIMUMS,
  nearestOf,
  SCALE_HALVES,
  SCALE_LEVELS,
  SCALES,
  SUMS,
} from "./affine-fields";
import { placeByImportance, placeByMagnitude, placeBySpread, SET, sets } from "./affine-lanes";
import { packLevels, packPairs, packScales, pairOf, scalesOf } from "./affine-pack";
import { searchScales, spreadScales } from "./affine-scales";
import { finish, search } from "./affine-search";

const Q2_K: i32 = 10;
const Q4_K: i32 = 12;
const Q5_K: i32 = 13;

const VALUES: i32 = 256;

/** Levels of a block. */
const levels: usize = memory.data(256, 16);

/**
 * Mean squares of up to 16 blocks, each summed in the order of the values. Four at a time: within one, every
 * addition waits for the one before it.
 */
function meanSquares(x: usize, blocks: usize): void {
  for (let b: usize = 0; b < blocks; b += 4) {
    const last = blocks - 1;
    const p = x + 1024 * b;
    const q = x + 1024 * min(b + 1, last);
    const r = x + 1024 * min(b + 2, last);
    const s = x + 1024 * min(b + 3, last);
    let sum = i32x4.splat(0);
    for (let j: usize = 0; j < 1024; j += 4) {
      let value = v128.load32_zero(p + j);
      value = v128.load_lane<f32>(q + j, value, 1);
      value = v128.load_lane<f32>(r + j, value, 2);
      value = v128.load_lane<f32>(s + j, value, 3);
      sum = f32x4.add(sum, f32x4.mul(value, value));
    }
    v128.store(fields + BLOCK_STEP * b, f32x4.mul(sum, f32x4.splat(1 / <f32>256)), MEAN_SQUARES);
  }
}

/** Values of a sub-block. */
// @ts-ignore: decorator
@inline function countOf(target: i32): i32 {
  return target == Q2_K ? 16 : 32;
}

/** Largest level of a value. */
// @ts-ignore: decorator
@inline function topOf(target: i32): f32 {
  return target == Q2_K ? 3 : target == Q4_K ? 15 : 31;
}

/** Places eight sub-blocks into a set. */
// @ts-ignore: decorator
@inline function place(target: i32, set: usize, x: usize, weights: usize, meanSquare: f32): void {
  if (weights != 0) {
    placeByImportance(set, x, weights, countOf(target), target == Q2_K ? meanSquare : 2 * meanSquare);
  } else if (target == Q2_K) {
    placeByMagnitude(set, x);
  } else {
    placeBySpread(set, x);
  }
}

/** Searches what is placed with the trials of a type. */
// @ts-ignore: decorator
@inline function searchSets(target: i32, weighted: bool, both: bool): void {
  const count = countOf(target);
  const top = topOf(target);
  if (weighted) search(both, count, top, -0.9, 0.05, 36, false);
  else if (target == Q4_K) search(both, count, top, -1, 0.1, 20, false);
  else search(both, count, top, -0.5, 0.1, 15, target == Q2_K);
}

/** Finds scale and minimum of every sub-block. */
// @ts-ignore: decorator
@inline function searchBlocks(target: i32, x: usize, weights: usize, blocks: usize): void {
  // A set is a half of a block or a whole one.
  const perBlock: usize = target == Q2_K ? 2 : 1;
  const bytes: usize = 1024 / perBlock;
  const all = blocks * perBlock;
  for (let first: usize = 0; first < all; first += 2) {
    const count = min(2, all - first);
    for (let i = first; i < first + count; i++) {
      const importance = weights == 0 ? <usize>0 : weights + bytes * i;
      const meanSquare = load<f32>(fields + BLOCK_STEP * (i / perBlock), MEAN_SQUARES);
      place(target, sets + SET * (i - first), x + bytes * i, importance, meanSquare);
    }
    searchSets(target, weights != 0, count == 2);
    for (let i = first; i < first + count; i++) {
      const to = fields + BLOCK_STEP * (i / perBlock) + 8 * FIELD_STEP * (i % perBlock);
      finish(sets + SET * (i - first), to);
    }
  }
}

/** Levels and halves of a block's scales, then of its minimums, for four blocks. */
// @ts-ignore: decorator
@inline function chooseScales(target: i32, weighted: bool, at: usize): void {
  const count = VALUES / countOf(target);
  const top: f32 = target == Q2_K ? 15 : 63;
  let scale: v128, minimum: v128;
  if (weighted) {
    scale = searchScales(at + SCALES, at + SUMS, count, top, at + SCALE_LEVELS);
    minimum = searchScales(at + MINIMUMS, at + SUMS, count, top, at + MINIMUM_LEVELS);
  } else {
    scale = spreadScales(at + SCALES, count, top, at + SCALE_LEVELS);
    minimum = spreadScales(at + MINIMUMS, count, top, at + MINIMUM_LEVELS);
  }
  v128.store(at, halves(scale), SCALE_HALVES);
  v128.store(at, halves(minimum), MINIMUM_HALVES);
}

/** Levels of 16 values, at least 0 and at most `top`. */
// @ts-ignore: decorator
@inline function store16(to: usize, a: v128, b: v128, c: v128, d: v128, top: i32): void {
  const low = i16x8.narrow_i32x4_s(clamp(a, top), clamp(b, top));
  const high = i16x8.narrow_i32x4_s(clamp(c, top), clamp(d, top));
  v128.store(to, i8x16.narrow_i16x8_u(low, high));
}

// @ts-ignore: decorator
@inline function clamp(level: v128, top: i32): v128 {
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(top)), i32x4.splat(0));
}

// @ts-ignore: decorator
@inline function divided(at: usize, minimum: v128, d: v128): v128 {
  return nearestOf(f32x4.div(f32x4.add(v128.load(at), minimum), d));
}

// @ts-ignore: decorator
@inline function spread(at: usize, from: v128, inverse: v128): v128 {
  return nearestOf(f32x4.mul(inverse, f32x4.sub(v128.load(at), from)));
}

/** Levels of a sub-block: by the stored scale, or where that became 0 as the search left them. */
// @ts-ignore: decorator
@inline function assign(at: usize, count: usize, top: i32, d: f32, minimum: f32, found: usize, to: usize): void {
  if (d != 0) {
    const by = f32x4.splat(d);
    const plus = f32x4.splat(minimum);
    for (const end = at + 4 * count; at < end; at += 64) {
      const a = divided(at, plus, by);
      const b = divided(at + 16, plus, by);
      store16(to, a, b, divided(at + 32, plus, by), divided(at + 48, plus, by), top);
      to += 16;
    }
  } else {
    const inverse = v128.load32_splat(found + INVERSES);
    const from = v128.load32_splat(found + FROMS);
    for (const end = at + 4 * count; at < end; at += 64) {
      const a = spread(at, from, inverse);
      const b = spread(at + 16, from, inverse);
      store16(to, a, b, spread(at + 32, from, inverse), spread(at + 48, from, inverse), top);
      to += 16;
    }
  }
}

/** Stores a block whose scales and minimums have their levels. */
// @ts-ignore: decorator
@inline function storeBlock(target: i32, x: usize, weighted: bool, found: usize, output: usize): void {
  const count = <usize>countOf(target);
  const at = target == Q2_K ? output + 80 : output;
  store<u16>(at, load<u16>(found, SCALE_HALVES));
  store<u16>(at, load<u16>(found, MINIMUM_HALVES), 2);
  const d = float<i16>(at);
  const dMinimum = float<i16>(at + 2);
  if (target == Q2_K) packScales(found, output);
  else packPairs(found, target == Q5_K || !weighted ? 63 : 255, output + 4);
  for (let s: usize = 0; s < 256 / count; s++) {
    const pair = target == Q2_K ? scalesOf(output, s) : pairOf(output + 4, s);
    const scale = d * <f32>(pair & 255);
    const minimum = dMinimum * <f32>(pair >> 8);
    const first = count * s;
    assign(x + 4 * first, count, <i32>topOf(target), scale, minimum, found + FIELD_STEP * s, levels + first);
  }
  packLevels(target, levels, output);
}

/** Encodes up to 16 blocks: as many as the fields hold and as a chunk of `rows.ts` has. */
// @ts-ignore: decorator
@inline function encode(target: i32, x: usize, weights: usize, output: usize, blocks: usize): void {
  if (weights != 0) meanSquares(x, blocks);
  searchBlocks(target, x, weights, blocks);
  for (let b: usize = 0; b < blocks; b += 4) chooseScales(target, weights != 0, fields + BLOCK_STEP * b);
  const bytes: usize = target == Q2_K ? 84 : target == Q4_K ? 144 : 176;
  for (let b: usize = 0; b < blocks; b++) {
    storeBlock(target, x + 1024 * b, weights != 0, fields + BLOCK_STEP * b, output + bytes * b);
  }
}

/** Encodes Q2_K (10), Q4_K (12) and Q5_K (13): see `encodeBlocks`. */
export function encodeAffine(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  const blocks = <usize>(values / VALUES);
  if (target == Q2_K) encode(Q2_K, x, weights, output, blocks);
  else if (target == Q4_K) encode(Q4_K, x, weights, output, blocks);
  else encode(Q5_K, x, weights, output, blocks);
}
