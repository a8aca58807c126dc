// Trials of scales for 32 values on the 16 uneven levels.
//
// They go by windows. The levels at both ends of a window are looked up, and a trial within takes one of them for
// each value: midpoints of one sign are more than a fifth apart, so that hardly a value passes two.

import { MAGIC } from "../rounding";
import { block, extremesOf, PRODUCTS, WEIGHTS } from "./symmetric-block";
import { clearFits, FIT, fits, GROUP, offer, settleFits } from "./symmetric-steps";

/** Values of a sub-block, and the vectors of a group of four. */
export const SIZE: usize = 32;
export const VECTORS: usize = 16 * SIZE;

/** Fits of a sub-block: the best trial of each window. */
export const FITS: usize = 8;

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

/** Trial `t` of some between two ends. */
// @ts-ignore: decorator
@inline function between(start: f32, end: f32, t: f32, trials: f32): v128 {
  return f32x4.splat(start + ((end - start) * t) / trials);
}

/**
 * The trials of a window.
 *
 * @param divisor the largest values, negated where trials put them below zero
 * @param start where the first trial puts the magnitude of the largest value
 * @param end where one more would put it, further in
 * @param trials 4 or 8
 * @param outer the levels at the start
 * @param inner where to put the levels at the end
 */
function tryWindow(
  from: usize,
  divisor: v128,
  start: f32,
  end: f32,
  trials: f32,
  outer: usize,
  inner: usize,
  fit: usize,
): void {
  lookUp(from, f32x4.div(f32x4.splat(end), divisor), inner);
  prepare(from, outer, inner);
  for (let t: f32 = 0; t < trials; t += 4) {
    const a = between(start, end, t, trials);
    const b = between(start, end, t + 1, trials);
    const c = between(start, end, t + 2, trials);
    const d = between(start, end, t + 3, trials);
    tryFour(a, b, c, d, fit);
  }
}

/** Makes the fits of a group of sub-blocks. */
export function tryGroup(g: usize): void {
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
  tryWindow(from, below, 177, 145, 4, here, there, fit);
  tryWindow(from, below, 145, 119, 8, there, here, fit + FIT);
  tryWindow(from, below, 119, 97.5, 4, here, there, fit + 2 * FIT);
  tryWindow(from, below, 97.5, 80, 4, there, here, fit + 3 * FIT);
  lookUp(from, f32x4.div(f32x4.splat(157), extreme), here);
  tryWindow(from, extreme, 157, 128.5, 4, here, there, fit + 4 * FIT);
  tryWindow(from, extreme, 128.5, 105.5, 8, there, here, fit + 5 * FIT);
  tryWindow(from, extreme, 105.5, 86.5, 4, here, there, fit + 6 * FIT);
  tryWindow(from, extreme, 86.5, 71, 4, there, here, fit + 7 * FIT);
  settleFits(g, FITS);
}
