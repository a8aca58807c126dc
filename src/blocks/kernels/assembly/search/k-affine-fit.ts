// Sums and fits of trials of the affine types: see `blocks/search/k-affine-fit.ts`, whose operations these are.

import {
  clamp,
  CURVATURE,
  ERROR,
  INVERSE,
  lanesOf,
  LEVEL,
  MEAN,
  PULL,
  SCALE,
  SHARE,
  SHIFT,
  SQUARE,
  STRIDE,
  VARIANCE,
  zero,
} from "./k-affine-lanes";

/**
 * Trials of two groups: where their levels come from, and the sums of these. The groups go one after the other
 * through a step, so that one need not wait for the other's last operations.
 */
export const trials: usize = memory.data(2 * 96, 16);
export const NEXT_TRIAL: usize = 96;
const TRIED_INVERSE: usize = 0;
const TRIED_REST: usize = 16;
const SUM_L: usize = 32;
const SUM_LL: usize = 48;
const SUM_LX: usize = 64;
/** The level that levels are counted from. */
const ORIGIN: usize = 80;

/** The fit of a trial and its levels of scale and offset, in the fields of `k-affine-lanes.ts`. */
export const fitted: usize = memory.data(16 * 64, 16);

// @ts-ignore: decorator
@inline function levelOf(x: v128, inverse: v128, rest: v128, low: v128, high: v128): v128 {
  const spread = f32x4.add(f32x4.mul(x, inverse), rest);
  return f32x4.nearest(f32x4.pmax(f32x4.pmin(spread, high), low));
}

// Switches that are types: of two functions that differ in a constant only, the compiler makes one, with a branch
// for every value.
type Yes = i32;
type No = u32;

/**
 * Sums of a trial's levels. Equal weights are a power of two each: products with them can wait for the end and
 * keep their bits.
 */
// @ts-ignore: decorator
@inline function sumLevels<Weighted>(trial: usize, from: usize, count: usize, topLevel: f32): void {
  const top = f32x4.splat(topLevel);
  const inverse = v128.load(trial, TRIED_INVERSE);
  const rest = v128.load(trial, TRIED_REST);
  const origin = v128.load(trial, ORIGIN);
  const low = f32x4.neg(origin);
  const high = f32x4.sub(top, origin);
  let sumL = zero();
  let sumLL = zero();
  let sumLX = zero();
  const end = from + count * STRIDE;
  for (let at = from; at < end; at += STRIDE) {
    const x = v128.load(at);
    const level = levelOf(x, inverse, rest, low, high);
    const product = isSigned<Weighted>() ? f32x4.mul(v128.load(at, SHARE), level) : level;
    sumL = f32x4.add(sumL, product);
    sumLL = f32x4.add(sumLL, f32x4.mul(product, level));
    sumLX = f32x4.add(sumLX, f32x4.mul(product, x));
  }
  const share = f32x4.splat(isSigned<Weighted>() ? 1 : 1 / <f32>count);
  v128.store(trial, f32x4.mul(sumL, share), SUM_L);
  v128.store(trial, f32x4.mul(sumLL, share), SUM_LL);
  v128.store(trial, f32x4.mul(sumLX, share), SUM_LX);
}

function sumWeighted(trial: usize, from: usize, count: usize, top: f32): void {
  sumLevels<Yes>(trial, from, count, top);
}

function sumEven(trial: usize, from: usize, count: usize, top: f32): void {
  sumLevels<No>(trial, from, count, top);
}

/** Sums of the trials of the groups from sub-block `s` on. */
// @ts-ignore: decorator
@inline export function sumTrials(s: usize, count: usize, top: f32, weighted: bool): void {
  const a = lanesOf(s, count);
  const b = lanesOf(s + 4, count);
  if (weighted) {
    sumWeighted(trials, a, count, top);
    sumWeighted(trials + NEXT_TRIAL, b, count, top);
  } else {
    sumEven(trials, a, count, top);
    sumEven(trials + NEXT_TRIAL, b, count, top);
  }
}

/** Where the best offset for a trial's levels would be below 0. */
// @ts-ignore: decorator
@inline function heldAt0(scale: v128, level: v128, mean: v128): v128 {
  return f32x4.lt(f32x4.sub(f32x4.mul(scale, level), mean), zero());
}

/** Error of a group's trial; infinite where its levels tell nothing of a scale. */
// @ts-ignore: decorator
@inline export function errorOf(trial: usize, at: usize): v128 {
  const sumL = v128.load(trial, SUM_L);
  const sumLX = v128.load(trial, SUM_LX);
  const mean = v128.load(at, MEAN);
  const curvature = f32x4.sub(v128.load(trial, SUM_LL), f32x4.mul(sumL, sumL));
  const scale = f32x4.div(sumLX, curvature);
  const level = f32x4.add(sumL, v128.load(trial, ORIGIN));
  let error = f32x4.sub(v128.load(at, VARIANCE), f32x4.mul(scale, sumLX));
  const held = heldAt0(scale, level, mean);
  if (v128.any_true(held)) {
    const heldCurvature = f32x4.add(curvature, f32x4.mul(level, level));
    const heldLX = f32x4.add(sumLX, f32x4.mul(level, mean));
    const gained = f32x4.mul(f32x4.div(heldLX, heldCurvature), heldLX);
    error = v128.bitselect(f32x4.sub(v128.load(at, SQUARE), gained), error, held);
  }
  const some = v128.and(f32x4.gt(curvature, zero()), f32x4.gt(sumLX, zero()));
  return v128.bitselect(error, f32x4.splat(Infinity), some);
}

/** Stores the fit of a trial: see `Fit` in the reference. */
export function storeFit(trial: usize, at: usize): void {
  const sumL = v128.load(trial, SUM_L);
  const sumLX = v128.load(trial, SUM_LX);
  const mean = v128.load(at, MEAN);
  const curvature = f32x4.sub(v128.load(trial, SUM_LL), f32x4.mul(sumL, sumL));
  const free = f32x4.div(sumLX, curvature);
  const level = f32x4.add(sumL, v128.load(trial, ORIGIN));
  const held = heldAt0(free, level, mean);
  const heldCurvature = f32x4.add(curvature, f32x4.mul(level, level));
  const heldLX = f32x4.add(sumLX, f32x4.mul(level, mean));
  const scale = v128.bitselect(f32x4.div(heldLX, heldCurvature), free, held);
  const inverse = f32x4.div(f32x4.splat(1), scale);
  v128.store(fitted, scale, SCALE);
  v128.store(fitted, v128.bitselect(heldCurvature, curvature, held), CURVATURE);
  v128.store(fitted, v128.andnot(level, held), LEVEL);
  v128.store(fitted, v128.andnot(mean, held), PULL);
  v128.store(fitted, inverse, INVERSE);
  v128.store(fitted, v128.bitselect(f32x4.mul(mean, inverse), level, held), SHIFT);
}

// @ts-ignore: decorator
@inline export function keep(at: usize, numbers: v128, where: v128, field: usize): void {
  v128.store(at + field, v128.bitselect(numbers, v128.load(at + field), where));
}

/** Takes the stored fit over in some lanes. */
// @ts-ignore: decorator
@inline export function keepFit(at: usize, error: v128, where: v128): void {
  keep(at, error, where, ERROR);
  for (let field = SCALE; field <= SHIFT; field += SHIFT - INVERSE) {
    keep(at, v128.load(fitted + field), where, field);
  }
}

/** Aims a trial; levels are counted from the one nearest to the mean. */
// @ts-ignore: decorator
@inline export function aim(trial: usize, inverse: v128, shift: v128, top: v128): void {
  const origin = f32x4.nearest(clamp(shift, top));
  v128.store(trial, inverse, TRIED_INVERSE);
  v128.store(trial, f32x4.sub(shift, origin), TRIED_REST);
  v128.store(trial, origin, ORIGIN);
}
