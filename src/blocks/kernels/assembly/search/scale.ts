// The scale of four blocks whose values are whole multiples of it: see `searchScale` in `src/blocks/search/scale.ts`,
// which says the same for one block.

import { inverseOf, stored } from "./halves";
import { PRODUCTS, turned, WEIGHTS } from "./lanes";

/** Largest magnitude that is nearest to 0 under every scale but 0 that a half can hold: 2^-25. */
export const NEGLIGIBLE: f32 = reinterpret<f32>(102 << 23);

/** The best trial: inverse scale, its best scale, and by how much that lowers the error of zeros. */
let inverse: v128 = i32x4.splat(0);
let fit: v128 = i32x4.splat(0);
let gain: v128 = i32x4.splat(0);

/** The best scale that can be stored, and its error. */
let best: v128 = i32x4.splat(0);
let error: v128 = i32x4.splat(0);

/** Value of largest magnitude, the first among those that have a weight. */
let extreme: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function weightAt(at: usize, weighted: bool): v128 {
  return weighted ? v128.load(at, WEIGHTS) : f32x4.splat(1);
}

// @ts-ignore: decorator
@inline function productAt(at: usize, weighted: bool): v128 {
  return weighted ? v128.load(at, PRODUCTS) : v128.load(at);
}

// @ts-ignore: decorator
@inline function weigh(weight: v128, level: v128, weighted: bool): v128 {
  return weighted ? f32x4.mul(weight, level) : level;
}

// @ts-ignore: decorator
@inline function clamp(level: v128, lowest: f32, highest: f32): v128 {
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(highest)), f32x4.splat(lowest));
}

/** Takes a trial over where it is better than what the search has. */
function settle(tried: v128, product: v128, square: v128): void {
  const scale = f32x4.div(product, square);
  const gained = f32x4.mul(product, scale);
  const better = f32x4.gt(gained, gain);
  inverse = v128.bitselect(tried, inverse, better);
  fit = v128.bitselect(scale, fit, better);
  gain = v128.bitselect(gained, gain, better);
}

/**
 * Two trials at a time, which keeps the adders busy. With `opposite` the second is the first with the other sign: it
 * has the same levels before they are clamped, with the other sign.
 */
// @ts-ignore: decorator
@inline function attempt(
  a: v128,
  b: v128,
  values: usize,
  lowest: f32,
  highest: f32,
  opposite: bool,
  weighted: bool,
): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    const weight = weightAt(at, weighted);
    const product = productAt(at, weighted);
    const level = f32x4.nearest(f32x4.mul(x, a));
    const levelA = clamp(level, lowest, highest);
    const levelB = opposite
      ? clamp(level, -highest, -lowest)
      : clamp(f32x4.nearest(f32x4.mul(x, b)), lowest, highest);
    productA = f32x4.add(productA, f32x4.mul(product, levelA));
    productB = f32x4.add(productB, f32x4.mul(product, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(weigh(weight, levelA, weighted), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(weigh(weight, levelB, weighted), levelB));
  }
  settle(a, productA, squareA);
  settle(b, opposite ? f32x4.neg(productB) : productB, squareB);
}

/** Takes a stored scale over where its error is the least so far; `refit` fits a scale to its levels. */
// @ts-ignore: decorator
@inline function measure(
  scale: v128,
  values: usize,
  lowest: f32,
  highest: f32,
  refit: bool,
  weighted: bool,
): void {
  const by = inverseOf(scale);
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  let left = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    const level = clamp(f32x4.nearest(f32x4.mul(x, by)), lowest, highest);
    const off = f32x4.sub(x, f32x4.mul(scale, level));
    left = f32x4.add(left, weigh(weightAt(at, weighted), f32x4.mul(off, off), weighted));
    if (!refit) continue;
    product = f32x4.add(product, f32x4.mul(productAt(at, weighted), level));
    square = f32x4.add(square, f32x4.mul(weigh(weightAt(at, weighted), level, weighted), level));
  }
  const better = f32x4.lt(left, error);
  best = v128.bitselect(scale, best, better);
  error = v128.bitselect(left, error, better);
  if (!refit) return;
  fit = v128.and(f32x4.div(product, square), f32x4.gt(square, i32x4.splat(0)));
}

// @ts-ignore: decorator
@inline function findExtreme(values: usize, weighted: bool): void {
  let size = i32x4.splat(0);
  extreme = size;
  for (let at = turned; at < turned + 16 * values; at += 16) {
    const x = v128.load(at);
    let more = f32x4.gt(f32x4.abs(x), size);
    if (weighted) more = v128.and(more, f32x4.gt(v128.load(at, WEIGHTS), i32x4.splat(0)));
    extreme = v128.bitselect(x, extreme, more);
    size = f32x4.abs(extreme);
  }
}

/**
 * Finds the scales of the blocks at `turned` as halves store them.
 *
 * @param first level of the largest magnitude in the first trial
 * @param near more trials, each `nearRatio` times the last; then `far` with `farRatio`
 * @param fine trials on either side of the best of those, `fineStep` parts of it apart
 * @param rounds how often the scale is stored and fitted anew
 * @param more whether there are other scales to compare, which are `others`
 */
// @ts-ignore: decorator
@inline export function searchScale(
  values: usize,
  weighted: bool,
  lowest: f32,
  highest: f32,
  first: f32,
  near: i32,
  nearRatio: f32,
  far: i32,
  farRatio: f32,
  fine: i32,
  fineStep: f32,
  rounds: i32,
  more: bool,
  others: v128,
): v128 {
  const symmetric = lowest == -highest;
  findExtreme(values, weighted);
  const one = f32x4.splat(1);
  const nothing = f32x4.le(f32x4.abs(extreme), f32x4.splat(NEGLIGIBLE));
  extreme = v128.bitselect(one, extreme, nothing);
  const unit = f32x4.div(one, f32x4.abs(extreme));
  inverse = i32x4.splat(0);
  fit = inverse;
  gain = inverse;
  let factor = first;
  for (let t = 0; t <= near + far; t++) {
    const a = f32x4.mul(f32x4.splat(factor), unit);
    factor *= t < near ? nearRatio : farRatio;
    if (symmetric) {
      // An even number of trials.
      const b = f32x4.mul(f32x4.splat(factor), unit);
      t++;
      factor *= t < near ? nearRatio : farRatio;
      attempt(a, b, values, lowest, highest, false, weighted);
    } else {
      attempt(a, f32x4.neg(a), values, lowest, highest, true, weighted);
    }
  }
  const coarse = inverse;
  for (let k = 1; k <= fine; k++) {
    const step = fineStep * <f32>k;
    const a = f32x4.mul(coarse, f32x4.splat(<f32>1 - step));
    const b = f32x4.mul(coarse, f32x4.splat(<f32>1 + step));
    attempt(a, b, values, lowest, highest, false, weighted);
  }
  const plain = symmetric
    ? f32x4.div(f32x4.abs(extreme), f32x4.splat(highest))
    : f32x4.div(extreme, f32x4.splat(lowest));
  error = f32x4.splat(Infinity);
  measure(stored(plain), values, lowest, highest, false, weighted);
  if (!symmetric && highest > 2) {
    const half = f32x4.div(f32x4.abs(extreme), f32x4.splat((highest + 1) / 2));
    measure(stored(half), values, lowest, highest, false, weighted);
  }
  for (let round = 1; round < rounds; round++) measure(stored(fit), values, lowest, highest, true, weighted);
  measure(stored(fit), values, lowest, highest, false, weighted);
  if (more) measure(stored(others), values, lowest, highest, false, weighted);
  return v128.andnot(best, nothing);
}
