// The scale of 32 values on uneven levels with the least weighted squared error, by trials.
//
// Lanes are sub-blocks, and values are walked in order, so that sums have the bits of ggml's scalar code. The
// trials put the extreme value on -120 to -134. Midpoints of one sign are more than a fifth apart, so on the way
// from the first trial to the last no value passes more than one midpoint: it has one of two levels. Their terms
// of the sums are made once, and a trial selects.

import { NEGLIGIBLE } from "../extreme";
import { turnRows } from "../turn";
import { levelsOf } from "./levels";

/** For four sub-blocks, transposed: value j of each and its weight, 32 vectors of each. */
const turned: usize = memory.data(2 * 32 * 16, 16);
const WEIGHTS: usize = 32 * 16;

/**
 * Of value j: itself, the midpoint it may pass, its term of Σ weight·level·value for the lower level and how the
 * bits for the upper one differ, and the same for Σ weight·level².
 */
const terms: usize = memory.data(32 * 6 * 16, 16);
const TERM: usize = 6 * 16;

let bestScale: v128 = i32x4.splat(0);
let best: v128 = i32x4.splat(0);

/** Sums of the first trial, which puts the extreme value on 127. */
let firstProduct: v128 = i32x4.splat(0);
let firstSquare: v128 = i32x4.splat(0);

/** Makes the terms of the sums. */
// @ts-ignore: decorator
@inline function prepare(extreme: v128): void {
  const inverse = f32x4.div(f32x4.splat(1), f32x4.div(extreme, f32x4.splat(127)));
  const near = f32x4.div(f32x4.splat(-120), extreme);
  const far = f32x4.div(f32x4.splat(-134), extreme);
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  let to = terms;
  for (let at = turned; at < turned + 32 * 16; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    const level = levelsOf(f32x4.mul(inverse, x));
    const weighted = f32x4.mul(weight, level);
    product = f32x4.add(product, f32x4.mul(weighted, x));
    square = f32x4.add(square, f32x4.mul(weighted, level));
    const a = levelsOf(f32x4.mul(near, x));
    const b = levelsOf(f32x4.mul(far, x));
    const lower = f32x4.pmin(a, b);
    const upper = f32x4.pmax(a, b);
    const weightedLower = f32x4.mul(weight, lower);
    const weightedUpper = f32x4.mul(weight, upper);
    const productLower = f32x4.mul(weightedLower, x);
    const squareLower = f32x4.mul(weightedLower, lower);
    v128.store(to, x);
    v128.store(to, f32x4.mul(f32x4.add(lower, upper), f32x4.splat(0.5)), 16);
    v128.store(to, productLower, 32);
    v128.store(to, v128.xor(productLower, f32x4.mul(weightedUpper, x)), 48);
    v128.store(to, squareLower, 64);
    v128.store(to, v128.xor(squareLower, f32x4.mul(weightedUpper, upper)), 80);
    to += TERM;
  }
  firstProduct = product;
  firstSquare = square;
}

/** Takes a trial over where it is better than what the search has. */
// @ts-ignore: decorator
@inline function settle(product: v128, square: v128): void {
  const scale = f32x4.div(product, square);
  const better = v128.and(
    f32x4.gt(square, i32x4.splat(0)),
    f32x4.gt(f32x4.mul(product, product), f32x4.mul(best, square)),
  );
  bestScale = v128.bitselect(scale, bestScale, better);
  best = v128.bitselect(f32x4.mul(scale, product), best, better);
}

/** Three trials, which put the extreme value on `level`, `level` + 1 and `level` + 2. */
// @ts-ignore: decorator
@inline function attempt(level: i32, extreme: v128): void {
  const a = f32x4.div(f32x4.splat(<f32>level), extreme);
  const b = f32x4.div(f32x4.splat(<f32>(level + 1)), extreme);
  const c = f32x4.div(f32x4.splat(<f32>(level + 2)), extreme);
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  let productC = i32x4.splat(0);
  let squareC = i32x4.splat(0);
  for (let at = terms; at < terms + 32 * TERM; at += TERM) {
    const x = v128.load(at);
    const midpoint = v128.load(at, 16);
    const upperA = f32x4.ge(f32x4.mul(a, x), midpoint);
    const upperB = f32x4.ge(f32x4.mul(b, x), midpoint);
    const upperC = f32x4.ge(f32x4.mul(c, x), midpoint);
    const product = v128.load(at, 32);
    const productStep = v128.load(at, 48);
    productA = f32x4.add(productA, v128.xor(product, v128.and(productStep, upperA)));
    productB = f32x4.add(productB, v128.xor(product, v128.and(productStep, upperB)));
    productC = f32x4.add(productC, v128.xor(product, v128.and(productStep, upperC)));
    const square = v128.load(at, 64);
    const squareStep = v128.load(at, 80);
    squareA = f32x4.add(squareA, v128.xor(square, v128.and(squareStep, upperA)));
    squareB = f32x4.add(squareB, v128.xor(square, v128.and(squareStep, upperB)));
    squareC = f32x4.add(squareC, v128.xor(square, v128.and(squareStep, upperC)));
  }
  settle(productA, squareA);
  settle(productB, squareB);
  settle(productC, squareC);
}

/** Puts the weights of the turned values beside them. */
// @ts-ignore: decorator
@inline function weigh(weights: usize, spreads: usize): void {
  if (weights === 0) {
    for (let at = turned; at < turned + 32 * 16; at += 16) {
      const x = v128.load(at);
      v128.store(at, f32x4.mul(x, x), WEIGHTS);
    }
    return;
  }
  turnRows(weights, 128, 32, turned + WEIGHTS);
  const spread = v128.load(spreads);
  for (let at = turned; at < turned + 32 * 16; at += 16) {
    const x = v128.load(at);
    const root = f32x4.sqrt(f32x4.add(spread, f32x4.mul(x, x)));
    v128.store(at, f32x4.mul(v128.load(at, WEIGHTS), root), WEIGHTS);
  }
}

/**
 * Searches the scales of four sub-blocks, one after the other in memory.
 *
 * @param weights importance of the values, or 0
 * @param spreads what smooths the magnitudes for the weights, one for each sub-block; only with an importance
 * @param scales where the scales go
 */
export function searchFour(x: usize, weights: usize, spreads: usize, scales: usize): void {
  turnRows(x, 128, 32, turned);
  weigh(weights, spreads);
  let extreme = i32x4.splat(0);
  let size = i32x4.splat(0);
  for (let at = turned; at < turned + 32 * 16; at += 16) {
    const x = v128.load(at);
    const magnitude = f32x4.abs(x);
    extreme = v128.bitselect(x, extreme, f32x4.gt(magnitude, size));
    size = f32x4.pmax(size, magnitude);
  }
  const nothing = f32x4.lt(size, f32x4.splat(NEGLIGIBLE));
  extreme = v128.bitselect(f32x4.splat(1), extreme, nothing);
  prepare(extreme);
  const scale = f32x4.div(firstProduct, firstSquare);
  bestScale = v128.and(scale, f32x4.gt(firstSquare, i32x4.splat(0)));
  best = f32x4.mul(bestScale, firstProduct);
  for (let level = -134; level < -119; level += 3) attempt(level, extreme);
  v128.store(scales, v128.andnot(bestScale, nothing));
}
