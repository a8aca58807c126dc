// Scales and zero points of four blocks: see `searchPoint` in `src/blocks/nbits/points.ts`, which says the same for
// one block.

import { inverseOf, stored } from "../search/halves";
import { turned } from "../search/lanes";
import { NEGLIGIBLE } from "../search/scale";
import { bestScale, bestZero, clamp, compare, comparePlain, fitTo, productAt, weigh, weightAt } from "./fit";
import { findRange, high, largest, low } from "./range";

/** The best trial: inverse scale, zero point, its best scale, and by how much that lowers the error of zeros. */
let inverse: v128 = i32x4.splat(0);
let zero: v128 = i32x4.splat(0);
let fit: v128 = i32x4.splat(0);
let gain: v128 = i32x4.splat(0);

/** Blocks for which the outer two of four zero points are tried. */
let outer: v128 = i32x4.splat(0);

const LOPSIDED: f32 = 2;
const REACH: f32 = 1.1;
const BACK: f32 = <f32>(1 / 1.1);

/** Takes a trial over where it is better than what the search has. */
// @ts-ignore: decorator
@inline function settle(tried: v128, point: v128, product: v128, square: v128, among: v128): void {
  const scale = f32x4.div(product, square);
  const gained = f32x4.mul(product, scale);
  const better = v128.and(f32x4.gt(gained, gain), among);
  inverse = v128.bitselect(tried, inverse, better);
  zero = v128.bitselect(point, zero, better);
  fit = v128.bitselect(scale, fit, better);
  gain = v128.bitselect(gained, gain, better);
}

/** Four zero points from the one before `point` on; the values are divided once for all of them. */
function attemptAround(tried: v128, point: v128, top: f32, values: usize, weighted: bool): void {
  const one = f32x4.splat(1);
  const before = f32x4.sub(point, one);
  const a = f32x4.pmax(f32x4.pmin(before, f32x4.splat(top - 3)), i32x4.splat(0));
  const b = f32x4.add(a, one);
  const c = f32x4.add(b, one);
  const d = f32x4.add(c, one);
  const lowestA = f32x4.neg(a);
  const lowestB = f32x4.neg(b);
  const lowestC = f32x4.neg(c);
  const lowestD = f32x4.neg(d);
  const most = f32x4.splat(top);
  const highestA = f32x4.sub(most, a);
  const highestB = f32x4.sub(most, b);
  const highestC = f32x4.sub(most, c);
  const highestD = f32x4.sub(most, d);
  let productA = i32x4.splat(0);
  let productB = productA;
  let productC = productA;
  let productD = productA;
  let squareA = productA;
  let squareB = productA;
  let squareC = productA;
  let squareD = productA;
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const level = f32x4.nearest(f32x4.mul(v128.load(at), tried));
    const weight = weightAt(at, weighted);
    const product = productAt(at, weighted);
    const levelA = clamp(level, lowestA, highestA);
    const levelB = clamp(level, lowestB, highestB);
    const levelC = clamp(level, lowestC, highestC);
    const levelD = clamp(level, lowestD, highestD);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    productC = f32x4.add(productC, f32x4.mul(product, levelC));
    productD = f32x4.add(productD, f32x4.mul(product, levelD));
    squareA = f32x4.add(squareA, f32x4.mul(weigh(weight, levelA, weighted), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(weigh(weight, levelB, weighted), levelB));
    squareC = f32x4.add(squareC, f32x4.mul(weigh(weight, levelC, weighted), levelC));
    squareD = f32x4.add(squareD, f32x4.mul(weigh(weight, levelD, weighted), levelD));
  }
  settle(tried, a, productA, squareA, outer);
  settle(tried, b, productB, squareB, i32x4.splat(-1));
  settle(tried, c, productC, squareC, i32x4.splat(-1));
  settle(tried, d, productD, squareD, outer);
}

/** The zero points 1 and 2 of codes of 2 bits. */
function attemptInner(tried: v128, values: usize, weighted: bool): void {
  const low = f32x4.splat(-2);
  const high = f32x4.splat(2);
  const one = f32x4.splat(1);
  const minus = f32x4.splat(-1);
  let productA = i32x4.splat(0);
  let productB = productA;
  let squareA = productA;
  let squareB = productA;
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const level = f32x4.nearest(f32x4.mul(v128.load(at), tried));
    const weight = weightAt(at, weighted);
    const product = productAt(at, weighted);
    const levelA = clamp(level, minus, high);
    const levelB = clamp(level, low, one);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(weigh(weight, levelA, weighted), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(weigh(weight, levelB, weighted), levelB));
  }
  const all = i32x4.splat(-1);
  settle(tried, one, productA, squareA, all);
  settle(tried, high, productB, squareB, all);
}

/** Two scales with one zero point. */
// @ts-ignore: decorator
@inline function attemptTwo(a: v128, b: v128, point: v128, top: f32, values: usize, weighted: bool): void {
  const lowest = f32x4.neg(point);
  const highest = f32x4.sub(f32x4.splat(top), point);
  let productA = i32x4.splat(0);
  let productB = productA;
  let squareA = productA;
  let squareB = productA;
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    const weight = weightAt(at, weighted);
    const product = productAt(at, weighted);
    const levelA = clamp(f32x4.nearest(f32x4.mul(x, a)), lowest, highest);
    const levelB = clamp(f32x4.nearest(f32x4.mul(x, b)), lowest, highest);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(weigh(weight, levelA, weighted), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(weigh(weight, levelB, weighted), levelB));
  }
  const all = i32x4.splat(-1);
  settle(a, point, productA, squareA, all);
  settle(b, point, productB, squareB, all);
}

/**
 * Leaves scales and zero points in `bestScale` and `bestZero`; see `PointSearch` for the numbers.
 */
// @ts-ignore: decorator
@inline function search(
  values: usize,
  weighted: bool,
  top: f32,
  first: f32,
  near: i32,
  nearRatio: f32,
  far: i32,
  farRatio: f32,
  fine: i32,
  fineStep: f32,
  rounds: i32,
): v128 {
  if (weighted) findRange(values, true);
  const nothing = f32x4.le(largest(), f32x4.splat(NEGLIGIBLE));
  const range = v128.bitselect(f32x4.splat(1), f32x4.sub(high, low), nothing);
  const unit = f32x4.div(f32x4.splat(1), range);
  const middle = f32x4.add(low, high);
  inverse = i32x4.splat(0);
  zero = inverse;
  fit = inverse;
  gain = inverse;
  const below = f32x4.neg(low);
  const less = f32x4.mul(f32x4.pmin(below, high), f32x4.splat(LOPSIDED));
  outer = top > 3 ? i32x4.splat(-1) : f32x4.lt(less, f32x4.pmax(below, high));
  const many = top > 3 || v128.any_true(outer);
  let span = first;
  for (let t = 0; t <= near + far; t++) {
    const tried = f32x4.mul(f32x4.splat(span), unit);
    const room = f32x4.sub(f32x4.splat(top), f32x4.mul(middle, tried));
    const centred = f32x4.floor(f32x4.mul(room, f32x4.splat(0.5)));
    if (many) attemptAround(tried, centred, top, values, weighted);
    else attemptInner(tried, values, weighted);
    span *= t < near ? nearRatio : farRatio;
  }
  if (top > 3) {
    attemptAround(inverse, zero, top, values, weighted);
    const found = inverse;
    const point = zero;
    attemptAround(f32x4.mul(found, f32x4.splat(REACH)), point, top, values, weighted);
    attemptAround(f32x4.mul(found, f32x4.splat(BACK)), point, top, values, weighted);
  }
  const coarse = inverse;
  const point = zero;
  for (let k = 1; k <= fine; k++) {
    const step = fineStep * <f32>k;
    const a = f32x4.mul(coarse, f32x4.splat(<f32>1 - step));
    const b = f32x4.mul(coarse, f32x4.splat(<f32>1 + step));
    attemptTwo(a, b, point, top, values, weighted);
  }
  comparePlain(top, values, weighted);
  for (let round = 0; round < rounds; round++) {
    const scale = stored(fit);
    compare(scale, zero, top, values, weighted);
    if (round < rounds - 1) fit = fitTo(inverseOf(scale), zero, top, values, weighted);
  }
  return nothing;
}

/** Finds scales and zero points (`bestScale`, `bestZero`); returns the blocks that are next to nothing. */
// @ts-ignore: decorator
@inline export function searchPoints(bits: i32, values: usize, weighted: bool): v128 {
  if (bits == 4) return search(values, weighted, 15, 12, 19, 1.03, 4, 1.15, 3, 0.006, 3);
  return search(values, weighted, 3, 2, 9, 1.25, 0, 1, 1, 0.06, 2);
}
