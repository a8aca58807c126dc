// Q3_K and Q6_K: a scale for every 16 values, in steps of one half for 256.

import { floatOf } from "../half";
import { codes as bytesOf3, levels as levelsOf3, packCodes, packLevels } from "../k/q3_k";
import { encodeSymmetric } from "../k/symmetric";
import { levels as levelsOf6, pack, q6_k, weightedQ6_K } from "../q6_k";
import { MAGIC } from "../rounding";
import { block, extremesOf, PRODUCTS, turnBlock, WEIGHTS } from "./symmetric-block";
import { beginRefining, compare, refine, refined } from "./symmetric-refine";
import { chooseStep, clearFits, codes, FIT, fits, GROUP, offer, settleFits } from "./symmetric-steps";

const VALUES: i32 = 256;
const Q3_BYTES: usize = 110;
const Q6_BYTES: usize = 210;

// @ts-ignore: decorator
@inline function within(level: v128, low: f32, high: f32): v128 {
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(high)), f32x4.splat(low));
}

/**
 * Sums of four trials: Σ weight · value · level and Σ weight · level² of each, on levels -bound…bound - 1, then the
 * same on levels -bound + 1…bound.
 */
const sums: usize = memory.data(16 * 16, 16);

/** How far the sums of the second kind are. */
const MIRRORED: usize = 8 * 16;

/**
 * Takes the sums of two inverse scales, those of the second kind if `both`. Side by side they keep the adders busy:
 * within one sum, every addition waits for the one before it.
 */
// @ts-ignore: decorator
@inline function sumTwo(from: usize, a: v128, b: v128, bound: f32, both: bool, to: usize): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  let productC = i32x4.splat(0);
  let squareC = i32x4.splat(0);
  let productD = i32x4.splat(0);
  let squareD = i32x4.splat(0);
  for (let at = from; at < from + 16 * 16; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    const weighted = v128.load(at, PRODUCTS);
    const first = f32x4.nearest(f32x4.mul(x, a));
    const second = f32x4.nearest(f32x4.mul(x, b));
    const levelA = within(first, -bound, bound - 1);
    const levelB = within(second, -bound, bound - 1);
    productA = f32x4.add(productA, f32x4.mul(weighted, levelA));
    productB = f32x4.add(productB, f32x4.mul(weighted, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(f32x4.mul(weight, levelA), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(f32x4.mul(weight, levelB), levelB));
    if (both) {
      const levelC = within(first, 1 - bound, bound);
      const levelD = within(second, 1 - bound, bound);
      productC = f32x4.add(productC, f32x4.mul(weighted, levelC));
      productD = f32x4.add(productD, f32x4.mul(weighted, levelD));
      squareC = f32x4.add(squareC, f32x4.mul(f32x4.mul(weight, levelC), levelC));
      squareD = f32x4.add(squareD, f32x4.mul(f32x4.mul(weight, levelD), levelD));
    }
  }
  v128.store(to, productA);
  v128.store(to, squareA, 16);
  v128.store(to, productB, 32);
  v128.store(to, squareB, 48);
  if (both) {
    v128.store(to, productC, MIRRORED);
    v128.store(to, squareC, MIRRORED + 16);
    v128.store(to, productD, MIRRORED + 32);
    v128.store(to, squareD, MIRRORED + 48);
  }
}

/** Offers the four trials whose sums are at `at` as a fit. */
// @ts-ignore: decorator
@inline function offerSums(fit: usize, at: usize, mirrored: bool): void {
  offer(
    fit,
    v128.load(at),
    v128.load(at, 16),
    v128.load(at, 32),
    v128.load(at, 48),
    v128.load(at, 64),
    v128.load(at, 80),
    v128.load(at, 96),
    v128.load(at, 112),
    mirrored,
  );
}

/** The inverse scale of trial `t`. */
// @ts-ignore: decorator
@inline function trial(t: i32, first: f32, by: f32, extreme: v128): v128 {
  return f32x4.div(f32x4.splat(-(first + by * <f32>t)), extreme);
}

/**
 * Makes the fits of a group: the best of every four trials, by how much of the error its own best scale takes away.
 *
 * @param first below zero, where the first trial puts the value of largest magnitude
 * @param by how far from there the next ones put it
 */
// @ts-ignore: decorator
@inline function tryGroup(g: usize, first: f32, by: f32, trials: i32, bound: f32, both: bool): void {
  const from = block + 16 * 16 * g;
  const extreme = extremesOf(from, 16);
  const found = <usize>(trials >> 2);
  let fit = fits + GROUP * g;
  clearFits(g);
  for (let t = 0; t < trials; t += 4) {
    sumTwo(from, trial(t, first, by, extreme), trial(t + 1, first, by, extreme), bound, both, sums);
    sumTwo(from, trial(t + 2, first, by, extreme), trial(t + 3, first, by, extreme), bound, both, sums + 64);
    offerSums(fit, sums, false);
    if (both) offerSums(fit + FIT * found, sums + MIRRORED, true);
    fit += FIT;
  }
  settleFits(g, both ? 2 * found : found);
}

/** Levels of four values plus the bound, as 32-bit integers. */
// @ts-ignore: decorator
@inline function whole(values: usize, inverse: v128, bound: f32): v128 {
  const value = within(f32x4.mul(v128.load(values), inverse), -bound, bound - 1);
  return i32x4.sub(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(0x4b400000 - <i32>bound));
}

/** Writes the levels of a block, plus the bound, for a step and the codes of its scales. */
// @ts-ignore: decorator
@inline function writeLevels(x: usize, step: f32, bound: f32, to: usize): void {
  for (let s: usize = 0; s < 16; s++) {
    const scale = step * load<f32>(codes + 4 * s);
    const inverse = f32x4.splat(scale == 0 ? 0 : 1 / scale);
    const from = x + 64 * s;
    const low = i16x8.narrow_i32x4_s(whole(from, inverse, bound), whole(from + 16, inverse, bound));
    const high = i16x8.narrow_i32x4_s(whole(from + 32, inverse, bound), whole(from + 48, inverse, bound));
    v128.store(to + 16 * s, i8x16.narrow_i16x8_u(low, high));
  }
}

/** Stores the codes plus a bound as bytes. */
// @ts-ignore: decorator
@inline function writeCodes(bound: i32, to: usize): void {
  for (let s: usize = 0; s < 16; s++) store<u8>(to + s, <i32>load<f32>(codes + 4 * s) + bound);
}

/** What ggml's method makes of the values, or of a block of them. */
const blocks: usize = memory.data(4096 / 256 * 110, 16);

/** Takes the scales of a block of Q3_K that ggml's method made where they lose less. */
// @ts-ignore: decorator
@inline function compareStored(from: usize): void {
  for (let s: usize = 0; s < 16; s++) {
    const low = (<i32>load<u8>(from + (s & 7), 96) >> (4 * <i32>(s >> 3))) & 15;
    const high = (<i32>load<u8>(from + (s & 3), 104) >> (2 * <i32>(s >> 2))) & 3;
    store<f32>(codes + 4 * s, <f32>((low | (high << 4)) - 32));
  }
  compare(load<u16>(from, 108), 16, 4, 4);
}

/** Q3_K: see `searchBlocks`. */
export function searchQ3_K(x: usize, weights: usize, output: usize, values: i32): void {
  encodeSymmetric(11, x, weights, blocks, values);
  let stored = blocks;
  for (let i = 0; i < values; i += VALUES) {
    turnBlock(x, weights, 16, 4, false);
    for (let g: usize = 0; g < 4; g++) tryGroup(g, 8.125, -0.375, 16, 4, true);
    const start = chooseStep(4, 8, 32, 0.953125, 0.015625, 24);
    if (start === 0) {
      memory.fill(output, 0, Q3_BYTES);
    } else {
      beginRefining();
      refine(start, 16, 4, 32, 4, 3);
      compareStored(stored);
      const half = refined();
      store<u16>(output, half, 108);
      writeCodes(32, bytesOf3);
      writeLevels(x, floatOf(half), 4, levelsOf3);
      packCodes(output);
      packLevels(output);
    }
    x += 4 * VALUES;
    if (weights !== 0) weights += 4 * VALUES;
    output += Q3_BYTES;
    stored += Q3_BYTES;
  }
}

/** Takes the scales over that ggml's method finds for a block of Q6_K where they lose less. */
function compareGgmls(x: usize, weights: usize): void {
  if (weights === 0) q6_k<f32>(x, blocks, VALUES);
  else weightedQ6_K(x, weights, blocks, VALUES);
  for (let s: usize = 0; s < 16; s++) store<f32>(codes + 4 * s, <f32>load<i8>(blocks + s, 192));
  compare(load<u16>(blocks, 208), 16, 4, 32);
}

/** Q6_K: see `searchBlocks`. */
export function searchQ6_K(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += VALUES) {
    turnBlock(x, weights, 16, 4, false);
    for (let g: usize = 0; g < 4; g++) tryGroup(g, 33.3125, -0.4375, 20, 32, false);
    const start = chooseStep(4, 5, 128, 0.984375, 0.00390625, 32);
    if (start === 0) {
      memory.fill(output, 0, Q6_BYTES);
    } else {
      beginRefining();
      refine(start, 16, 4, 128, 32, 3);
      compareGgmls(x, weights);
      const half = refined();
      store<u16>(output, half, 208);
      writeCodes(0, output + 192);
      writeLevels(x, floatOf(half), 32, levelsOf6);
      pack(output);
    }
    x += 4 * VALUES;
    if (weights !== 0) weights += 4 * VALUES;
    output += Q6_BYTES;
  }
}
