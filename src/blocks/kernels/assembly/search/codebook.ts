// IQ4_NL and IQ4_XS: a scale for every 32 values on the 16 uneven levels, which IQ4_XS keeps in steps of one half
// for 256 values.
//
// Trials go by windows. The levels at both ends of a window are looked up, and a trial within takes one of them for
// each value: midpoints of one sign are more than a fifth apart, so that hardly a value passes two.

import { codes as codesOfXS, pack, packXS } from "../codebook/index";
import { floatOf, halves } from "../half";
import { widenHalves } from "../number";
import { MAGIC } from "../rounding";
import { block, extremesOf, PRODUCTS, turnBlock, WEIGHTS } from "./symmetric-block";
import { inversesOf, levelsOf, refine } from "./symmetric-refine";
import {
  chooseStep,
  clearFits,
  codes,
  FIT,
  fits,
  GROUP,
  halfSteps,
  lossOf,
  offer,
  settleFits,
} from "./symmetric-steps";

const XS_BYTES: usize = 136;
const NL_BYTES: usize = 18;

/** Values of a sub-block, and the vectors of a group of four. */
const SIZE: usize = 32;
const VECTORS: usize = 16 * SIZE;

/** Fits of a sub-block: the best trial of each window. */
const FITS: usize = 8;

/** Times that the scale of a block of IQ4_NL is fitted to the levels nearest to its values. */
const FITTINGS = 3;

/** Levels of the values of a group at the outer end of a window and at the inner one, by turns. */
const here: usize = memory.data(16 * 32, 16);
const there: usize = memory.data(16 * 32, 16);

/** The magnitude of the largest value as a multiple of each value's. */
const ratios: usize = memory.data(16 * 32, 16);

/**
 * Where trials have to put the largest value for a value to take its level at the outer end of a window, and what
 * that adds to Σ weight · value · level and Σ weight · level²: 32 vectors of each.
 */
const passes: usize = memory.data(3 * 16 * 32, 16);
const PRODUCT: usize = VECTORS;
const SQUARE: usize = 2 * VECTORS;

/** The sums when no value passes. */
let innerProduct: v128 = i32x4.splat(0);
let innerSquare: v128 = i32x4.splat(0);

/**
 * The integers from which on a number belongs to the next level, as a tree: entry 2k and 2k + 1 come below and
 * above entry k.
 */
const tree = i8x16(0, -4, -57, 46, -93, -28, 19, 79, -115, -74, -42, -16, 7, 32, 61, 101);
const levels = i8x16(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** One step down the tree. */
// @ts-ignore: decorator
@inline function descend(numbers: v128, place: v128): v128 {
  return i8x16.sub(i8x16.add(place, place), i8x16.ge_s(numbers, i8x16.swizzle(tree, place)));
}

/** The integer nearest to a value times an inverse scale. */
// @ts-ignore: decorator
@inline function integers(at: usize, inverse: v128): v128 {
  const bits = f32x4.add(f32x4.mul(v128.load(at), inverse), f32x4.splat(MAGIC));
  return i32x4.sub(bits, i32x4.splat(0x4b400000));
}

/** Looks up the levels at the end of a window, to the precision of integers. */
function lookUp(from: usize, inverse: v128, to: usize): void {
  for (let j: usize = 0; j < VECTORS; j += 64) {
    const ab = i16x8.narrow_i32x4_s(integers(from + j, inverse), integers(from + j + 16, inverse));
    const cd = i16x8.narrow_i32x4_s(integers(from + j + 32, inverse), integers(from + j + 48, inverse));
    const numbers = i8x16.narrow_i16x8_s(ab, cd);
    let place = i8x16.sub(i8x16.splat(2), i8x16.ge_s(numbers, i8x16.splat(-4)));
    place = descend(numbers, descend(numbers, descend(numbers, place)));
    const found = i8x16.swizzle(levels, i8x16.sub(place, i8x16.splat(16)));
    const low = i16x8.extend_low_i8x16_s(found);
    const high = i16x8.extend_high_i8x16_s(found);
    v128.store(to + j, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)));
    v128.store(to + j, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), 16);
    v128.store(to + j, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), 32);
    v128.store(to + j, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), 48);
  }
}

/** Makes the terms of a window from the levels at its ends. */
// @ts-ignore: decorator
@inline function prepare(from: usize, outer: usize, inner: usize): void {
  let sumProduct = i32x4.splat(0);
  let sumSquare = i32x4.splat(0);
  for (let j: usize = 0; j < VECTORS; j += 16) {
    const a = v128.load(outer + j);
    const b = v128.load(inner + j);
    const weight = v128.load(from + j, WEIGHTS);
    const weighted = v128.load(from + j, PRODUCTS);
    const product = f32x4.mul(weighted, b);
    const square = f32x4.mul(f32x4.mul(weight, b), b);
    sumProduct = f32x4.add(sumProduct, product);
    sumSquare = f32x4.add(sumSquare, square);
    const middle = f32x4.abs(f32x4.mul(f32x4.add(a, b), f32x4.splat(0.5)));
    v128.store(passes + j, f32x4.mul(middle, v128.load(ratios + j)));
    v128.store(passes + j, f32x4.sub(f32x4.mul(weighted, a), product), PRODUCT);
    v128.store(passes + j, f32x4.sub(f32x4.mul(f32x4.mul(weight, a), a), square), SQUARE);
  }
  innerProduct = sumProduct;
  innerSquare = sumSquare;
}

/** Four trials of a window, side by side to keep the adders busy: where they put the largest value. */
// @ts-ignore: decorator
@inline function tryFour(a: v128, b: v128, c: v128, d: v128, fit: usize): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  let productC = i32x4.splat(0);
  let squareC = i32x4.splat(0);
  let productD = i32x4.splat(0);
  let squareD = i32x4.splat(0);
  for (let at = passes; at < passes + VECTORS; at += 16) {
    const place = v128.load(at);
    const product = v128.load(at, PRODUCT);
    const square = v128.load(at, SQUARE);
    const passedA = f32x4.le(place, a);
    const passedB = f32x4.le(place, b);
    const passedC = f32x4.le(place, c);
    const passedD = f32x4.le(place, d);
    productA = f32x4.add(productA, v128.and(product, passedA));
    productB = f32x4.add(productB, v128.and(product, passedB));
    productC = f32x4.add(productC, v128.and(product, passedC));
    productD = f32x4.add(productD, v128.and(product, passedD));
    squareA = f32x4.add(squareA, v128.and(square, passedA));
    squareB = f32x4.add(squareB, v128.and(square, passedB));
    squareC = f32x4.add(squareC, v128.and(square, passedC));
    squareD = f32x4.add(squareD, v128.and(square, passedD));
  }
  offer(
    fit,
    f32x4.add(innerProduct, productA),
    f32x4.add(innerSquare, squareA),
    f32x4.add(innerProduct, productB),
    f32x4.add(innerSquare, squareB),
    f32x4.add(innerProduct, productC),
    f32x4.add(innerSquare, squareC),
    f32x4.add(innerProduct, productD),
    f32x4.add(innerSquare, squareD),
    false,
  );
}

/** Trial `t` of eight between two ends. */
// @ts-ignore: decorator
@inline function between(start: f32, end: f32, t: f32): v128 {
  return f32x4.splat(start + ((end - start) * t) / 8);
}

/**
 * The trials of a window.
 *
 * @param divisor the largest values, negated where trials put them below zero
 * @param start where the first trial puts the magnitude of the largest value
 * @param end where one more would put it, further in
 * @param outer the levels at the start
 * @param inner where to put the levels at the end
 */
function tryWindow(
  from: usize,
  divisor: v128,
  start: f32,
  end: f32,
  outer: usize,
  inner: usize,
  fit: usize,
): void {
  lookUp(from, f32x4.div(f32x4.splat(end), divisor), inner);
  prepare(from, outer, inner);
  for (let t: f32 = 0; t < 8; t += 4) {
    const a = between(start, end, t);
    const b = between(start, end, t + 1);
    const c = between(start, end, t + 2);
    const d = between(start, end, t + 3);
    tryFour(a, b, c, d, fit);
  }
}

/** Makes the fits of a group. */
function tryGroup(g: usize): void {
  const from = block + VECTORS * g;
  const fit = fits + GROUP * g;
  const extreme = extremesOf(from, SIZE);
  const below = f32x4.neg(extreme);
  const size = f32x4.abs(extreme);
  for (let j: usize = 0; j < VECTORS; j += 16) {
    v128.store(ratios + j, f32x4.div(size, f32x4.abs(v128.load(from + j))));
  }
  clearFits(g);
  lookUp(from, f32x4.div(f32x4.splat(177), below), here);
  tryWindow(from, below, 177, 145, here, there, fit);
  tryWindow(from, below, 145, 119, there, here, fit + FIT);
  tryWindow(from, below, 119, 97.5, here, there, fit + 2 * FIT);
  tryWindow(from, below, 97.5, 80, there, here, fit + 3 * FIT);
  lookUp(from, f32x4.div(f32x4.splat(157), extreme), here);
  tryWindow(from, extreme, 157, 128.5, here, there, fit + 4 * FIT);
  tryWindow(from, extreme, 128.5, 105.5, there, here, fit + 5 * FIT);
  tryWindow(from, extreme, 105.5, 86.5, here, there, fit + 6 * FIT);
  tryWindow(from, extreme, 86.5, 71, there, here, fit + 7 * FIT);
  settleFits(g, FITS);
}

/** IQ4_XS: see `searchBlocks`. */
export function searchIQ4_XS(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 256) {
    turnBlock(x, weights, SIZE, 2, false);
    tryGroup(0);
    tryGroup(1);
    const start = chooseStep(2, FITS, 32, 0.953125, 0.01171875, 32);
    if (start === 0) {
      memory.fill(output, 0, XS_BYTES);
    } else {
      const half = refine(start, SIZE, 2, 32, 0, 2);
      for (let s: usize = 0; s < 8; s++) store<i8>(codesOfXS + s, <i32>load<f32>(codes + 4 * s));
      packXS(x, floatOf(half), half, output);
    }
    x += 1024;
    if (weights !== 0) weights += 1024;
    output += XS_BYTES;
  }
}

/** The scales of the fits that lose least with a half, one for each lane. */
// @ts-ignore: decorator
@inline function bestScales(): v128 {
  let least = f32x4.splat(f32.POSITIVE_INFINITY);
  let chosen = i32x4.splat(0);
  for (let at = fits; at < fits + FIT * FITS; at += FIT) {
    const fitted = v128.load(at);
    const scale = widenHalves(halfSteps(fitted));
    const loss = lossOf(fitted, v128.load(at, 16), v128.load(at, 32), scale);
    chosen = v128.bitselect(scale, chosen, f32x4.lt(loss, least));
    least = f32x4.pmin(least, loss);
  }
  return chosen;
}

/** The scales of four blocks, each of which is a lane. */
// @ts-ignore: decorator
@inline function searchScales(): v128 {
  let scale = bestScales();
  let chosen = i32x4.splat(0);
  let best = i32x4.splat(0);
  for (let at = block; at < block + VECTORS; at += 16) {
    best = f32x4.add(best, f32x4.mul(v128.load(at, PRODUCTS), v128.load(at)));
  }
  for (let fitting = 0; fitting < FITTINGS; fitting++) {
    const inverse = inversesOf(scale);
    let error = i32x4.splat(0);
    let product = i32x4.splat(0);
    let square = i32x4.splat(0);
    for (let at = block; at < block + VECTORS; at += 16) {
      const x = v128.load(at);
      const weight = v128.load(at, WEIGHTS);
      const level = levelsOf(f32x4.mul(x, inverse), 0);
      const off = f32x4.sub(x, f32x4.mul(scale, level));
      const weighted = f32x4.mul(weight, level);
      error = f32x4.add(error, f32x4.mul(f32x4.mul(weight, off), off));
      product = f32x4.add(product, f32x4.mul(weighted, x));
      square = f32x4.add(square, f32x4.mul(weighted, level));
    }
    chosen = v128.bitselect(scale, chosen, f32x4.lt(error, best));
    best = f32x4.pmin(best, error);
    const fitted = widenHalves(halfSteps(f32x4.div(product, square)));
    scale = v128.bitselect(fitted, scale, f32x4.gt(square, i32x4.splat(0)));
  }
  return chosen;
}

/** Scales that were found, and their halves. */
const found: usize = memory.data(2 * 16, 16);
/** Importance of the last blocks of IQ4_NL. */
const rest: usize = memory.data(4 * 128, 16);

/**
 * IQ4_NL: see `searchBlocks`. Lanes are blocks; where fewer than four are left, the other lanes hold what does not
 * matter.
 */
export function searchIQ4_NL(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 128) {
    const blocks = <usize>min(4, (values - i) >> 5);
    let own = weights;
    if (weights !== 0) {
      weights += 4 * 128;
      if (blocks < 4) {
        memory.copy(rest, own, 128 * blocks);
        own = rest;
      }
    }
    turnBlock(x, own, SIZE, 1, true);
    tryGroup(0);
    const scales = searchScales();
    v128.store(found, scales);
    v128.store(found, halves(scales), 16);
    for (let b: usize = 0; b < blocks; b++) {
      store<u16>(output, load<i32>(found + 4 * b, 16));
      pack(x, load<f32>(found + 4 * b), output + 2);
      x += 128;
      output += NL_BYTES;
    }
  }
}
