// A step and the codes of scales, improved by the error itself.

import { levelsOf as unevenLevelsOf, REACH } from "../codebook/levels";
import { floatOf, isInfinite } from "../half";
import { block, shares, WEIGHTS } from "./symmetric-block";
import { codes, halfStep } from "./symmetric-steps";

/** The best codes seen. */
const chosen: usize = memory.data(4 * 16, 16);

/** Error, Σ weight · value · code · level and Σ weight · (code · level)² of each sub-block, by its share. */
const sums: usize = memory.data(3 * 4 * 16, 16);
const PRODUCT: usize = 4 * 16;
const SQUARE: usize = 2 * 4 * 16;

/** Nearest of the levels -bound…bound - 1, or of the uneven ones for a bound of 0. */
// @ts-ignore: decorator
@inline export function levelsOf(v: v128, bound: f32): v128 {
  if (bound == 0) {
    return unevenLevelsOf(f32x4.pmax(f32x4.pmin(v, f32x4.splat(REACH)), f32x4.splat(-REACH)));
  }
  const level = f32x4.nearest(v);
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(bound - 1)), f32x4.splat(-bound));
}

/** Inverse scales; 0 for a scale of 0. */
// @ts-ignore: decorator
@inline export function inversesOf(scale: v128): v128 {
  return v128.andnot(f32x4.div(f32x4.splat(1), scale), f32x4.eq(scale, i32x4.splat(0)));
}

/** The weighted squared error of one value. */
// @ts-ignore: decorator
@inline function errorOf(x: v128, weight: v128, scale: v128, inverse: v128, bound: f32): v128 {
  const off = f32x4.sub(x, f32x4.mul(scale, levelsOf(f32x4.mul(x, inverse), bound)));
  return f32x4.mul(f32x4.mul(weight, off), off);
}

/** Moves the codes of a group to their best neighbours; returns where one moved. */
// @ts-ignore: decorator
@inline function move(g: usize, step: v128, size: usize, codeBound: f32, bound: f32): v128 {
  const middle = v128.load(codes + 16 * g);
  const below = f32x4.pmax(f32x4.splat(-codeBound), f32x4.sub(middle, f32x4.splat(1)));
  const above = f32x4.pmin(f32x4.splat(codeBound - 1), f32x4.add(middle, f32x4.splat(1)));
  const scaleA = f32x4.mul(step, middle);
  const scaleB = f32x4.mul(step, below);
  const scaleC = f32x4.mul(step, above);
  const inverseA = inversesOf(scaleA);
  const inverseB = inversesOf(scaleB);
  const inverseC = inversesOf(scaleC);
  let errorA = i32x4.splat(0);
  let errorB = i32x4.splat(0);
  let errorC = i32x4.splat(0);
  const from = block + 16 * size * g;
  for (let at = from; at < from + 16 * size; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    errorA = f32x4.add(errorA, errorOf(x, weight, scaleA, inverseA, bound));
    errorB = f32x4.add(errorB, errorOf(x, weight, scaleB, inverseB, bound));
    errorC = f32x4.add(errorC, errorOf(x, weight, scaleC, inverseC, bound));
  }
  const lower = f32x4.lt(errorB, errorA);
  let code = v128.bitselect(below, middle, lower);
  let error = f32x4.pmin(errorA, errorB);
  const higher = f32x4.lt(errorC, error);
  code = v128.bitselect(above, code, higher);
  error = f32x4.pmin(error, errorC);
  v128.store(codes + 16 * g, code);
  v128.store(sums + 16 * g, f32x4.mul(v128.load(shares + 16 * g), error));
  return v128.or(lower, higher);
}

/** Takes the sums to which the step is fitted. */
// @ts-ignore: decorator
@inline function measure(g: usize, step: v128, size: usize, bound: f32): void {
  const code = v128.load(codes + 16 * g);
  const share = v128.load(shares + 16 * g);
  const inverse = inversesOf(f32x4.mul(step, code));
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  const from = block + 16 * size * g;
  for (let at = from; at < from + 16 * size; at += 16) {
    const x = v128.load(at);
    const level = levelsOf(f32x4.mul(x, inverse), bound);
    const weighted = f32x4.mul(v128.load(at, WEIGHTS), level);
    product = f32x4.add(product, f32x4.mul(weighted, x));
    square = f32x4.add(square, f32x4.mul(weighted, level));
  }
  v128.store(sums + 16 * g, f32x4.mul(share, f32x4.mul(code, product)), PRODUCT);
  v128.store(sums + 16 * g, f32x4.mul(share, f32x4.mul(f32x4.mul(code, square), code)), SQUARE);
}

/** Takes the errors of a group with the codes that it has. */
// @ts-ignore: decorator
@inline function stay(g: usize, step: v128, size: usize, bound: f32): void {
  const scale = f32x4.mul(step, v128.load(codes + 16 * g));
  const inverse = inversesOf(scale);
  let error = i32x4.splat(0);
  const from = block + 16 * size * g;
  for (let at = from; at < from + 16 * size; at += 16) {
    error = f32x4.add(error, errorOf(v128.load(at), v128.load(at, WEIGHTS), scale, inverse, bound));
  }
  v128.store(sums + 16 * g, f32x4.mul(v128.load(shares + 16 * g), error));
}

// @ts-ignore: decorator
@inline function total(at: usize, count: usize): f32 {
  let sum: f32 = 0;
  for (let s: usize = 0; s < 4 * count; s += 4) sum += load<f32>(at + s);
  return sum;
}

let best: f32 = f32.POSITIVE_INFINITY;
let bestHalf: i32 = 0;

/** Forgets what `refine` has seen. */
// @ts-ignore: decorator
@inline export function beginRefining(): void {
  best = f32.POSITIVE_INFINITY;
}

/**
 * Improves a step (as a half) and `codes`.
 *
 * @param size values of a sub-block
 * @param groups four sub-blocks each
 * @param codeBound codes are -codeBound…codeBound - 1
 * @param bound levels are -bound…bound - 1, or the uneven ones for 0
 * @param passes times that codes move to a neighbour and the step is fitted to them again
 */
// @ts-ignore: decorator
@inline export function refine(
  start: i32,
  size: usize,
  groups: usize,
  codeBound: f32,
  bound: f32,
  passes: i32,
): void {
  let half = start;
  for (let pass = 0; pass < passes; pass++) {
    const step = f32x4.splat(floatOf(half));
    let moved = i32x4.splat(0);
    for (let g: usize = 0; g < groups; g++) moved = v128.or(moved, move(g, step, size, codeBound, bound));
    const error = total(sums, 4 * groups);
    if (error < best) {
      best = error;
      bestHalf = half;
      memory.copy(chosen, codes, 64);
    }
    if (pass === passes - 1) break;
    for (let g: usize = 0; g < groups; g++) measure(g, step, size, bound);
    const product = total(sums + PRODUCT, 4 * groups);
    const square = total(sums + SQUARE, 4 * groups);
    const next = square > 0 ? halfStep(product / square) : half;
    // Another pass would come to the same.
    if (next === half && !v128.any_true(moved)) break;
    half = next;
  }
}

/** Takes a step (as a half) and `codes` over where they lose less than all that `refine` has seen. */
// @ts-ignore: decorator
@inline export function compare(half: i32, size: usize, groups: usize, bound: f32): void {
  // An infinite step is none.
  if (isInfinite(half)) return;
  const step = f32x4.splat(floatOf(half));
  for (let g: usize = 0; g < groups; g++) stay(g, step, size, bound);
  const error = total(sums, 4 * groups);
  if (error >= best) return;
  best = error;
  bestHalf = half;
  memory.copy(chosen, codes, 64);
}

/** The best step that `refine` has seen, as a half; `codes` are then those that go with it. */
// @ts-ignore: decorator
@inline export function refined(): i32 {
  memory.copy(codes, chosen, 64);
  return bestHalf;
}
