import { iq4Levels } from "../decode/codebook.js";
import { nearestIndex, packCodes, packIndices } from "../encode/codebook.js";
import { nearest } from "../encode/nearest.js";
import { extremeOf, negligible } from "../encode/symmetric.js";
import { halfToFloat } from "../floats.js";
import {
  chooseStep,
  type Fit,
  fitsFrom,
  halfStep,
  type Layout,
  lossOf,
  refine,
  sumsOf,
  type Trial,
  trialOf,
  weigh,
} from "./symmetric-steps.js";

const { abs, fround, max, min } = Math;

/** The level nearest to a value. */
function levelOf(value: number): number {
  return iq4Levels[nearestIndex(value)]!;
}

/**
 * Ends of windows of trials: where they put the value of largest magnitude, below zero and above it. The levels at
 * the ends are looked up to the precision of integers, and a trial within takes one of them for each value: midpoints of one sign are more than
 * a fifth apart, so that hardly a value passes two.
 */
const ends: readonly (readonly number[])[] = [
  [-177, -145, -119, -97.5, -80],
  [157, 128.5, 105.5, 86.5, 71],
];

/** Trials of a window, of which the best is kept as a fit. */
const TRIALS = 8;

/** Layout of IQ4_XS. */
const xs: Layout = {
  size: 32,
  count: 8,
  codes: 32,
  fits: 8,
  first: 0.953125,
  spacing: 0.01171875,
  steps: 32,
  passes: 2,
  levelOf,
};

/** What Σ weight · value · level and Σ weight · level² gain where a value passes the middle of two levels. */
interface Pass {
  readonly x: number;
  readonly middle: number;
  readonly product: number;
  readonly square: number;
}

/** The trials of a window, given the levels at both of its ends. */
function tryWindow(
  values: Float32Array,
  weights: Float32Array,
  near: readonly number[],
  far: readonly number[],
  inverses: readonly number[],
): Trial[] {
  let lowProduct = 0;
  let lowSquare = 0;
  const passes: Pass[] = [];
  for (const [j, x] of values.entries()) {
    const lower = min(near[j]!, far[j]!);
    const upper = max(near[j]!, far[j]!);
    const weight = weights[j]!;
    const weighted = fround(weight * x);
    const product = fround(weighted * lower);
    const square = fround(fround(weight * lower) * lower);
    lowProduct = fround(lowProduct + product);
    lowSquare = fround(lowSquare + square);
    passes.push({
      x,
      middle: (lower + upper) / 2,
      product: fround(fround(weighted * upper) - product),
      square: fround(fround(fround(weight * upper) * upper) - square),
    });
  }
  return inverses.map((inverse) => {
    let product = 0;
    let square = 0;
    for (const pass of passes) {
      if (fround(pass.x * inverse) < pass.middle) continue;
      product = fround(product + pass.product);
      square = fround(square + pass.square);
    }
    return trialOf(fround(lowProduct + product), fround(lowSquare + square));
  });
}

/** The fits of a sub-block: the best trial of each window. */
function fitsOf(values: Float32Array, weights: Float32Array): Fit[] {
  const extreme = extremeOf(values);
  const divisor = abs(extreme) < negligible ? 1 : extreme;
  const inverseFor = (target: number): number => fround(target / divisor);
  const levelsAt = (target: number): number[] => {
    const inverse = inverseFor(target);
    return Array.from(values, (x) => levelOf(nearest(x * inverse)));
  };
  const windows: Trial[][] = [];
  for (const side of ends) {
    for (const [i, end] of side.slice(1).entries()) {
      const start = side[i]!;
      const inverses = Array.from({ length: TRIALS }, (_, t) =>
        inverseFor(start + ((end - start) * t) / TRIALS),
      );
      windows.push(tryWindow(values, weights, levelsAt(start), levelsAt(end), inverses));
    }
  }
  return fitsFrom(windows);
}

/** Times that the scale of a block of IQ4_NL is fitted to the levels nearest to its values. */
const FITTINGS = 3;

/** The best scale for a block of IQ4_NL, as a half: that of the fit that loses least with a half, refined. */
function searchScale(values: Float32Array, weights: Float32Array): number {
  let half = 0;
  let least = Infinity;
  for (const fit of fitsOf(values, weights)) {
    const own = halfStep(fit.scale);
    const loss = lossOf(fit, halfToFloat(own));
    if (loss >= least) continue;
    least = loss;
    half = own;
  }
  let { error: best } = sumsOf(values, weights, 0, levelOf);
  let chosen = 0;
  for (let fitting = 0; fitting < FITTINGS; fitting++) {
    const { error, product, square } = sumsOf(values, weights, halfToFloat(half), levelOf);
    if (error < best) {
      best = error;
      chosen = half;
    }
    if (square > 0) half = halfStep(fround(product / square));
  }
  return chosen;
}

/** IQ4_NL of whole blocks: a scale for every 32 values on the 16 uneven levels. */
export function searchIQ4_NL(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < values.length; o += 32, at += 18) {
    const block = weigh(values.subarray(o, o + 32), importance?.subarray(o, o + 32), 32);
    const half = searchScale(block.values, block.weights);
    out[at] = half;
    out[at + 1] = half >>> 8;
    packIndices(block.values, halfToFloat(half), out.subarray(at + 2, at + 18));
  }
}

/** IQ4_XS of whole blocks: like IQ4_NL, with the scales of 256 values in 6-bit steps of one half. */
export function searchIQ4_XS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const { size, count } = xs;
  const codes = new Int8Array(count);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 136) {
    const block = weigh(values.subarray(o, o + 256), importance?.subarray(o, o + 256), size);
    const part = (all: Float32Array, s: number): Float32Array => all.subarray(size * s, size * s + size);
    const fits = codes.reduce<Fit[][]>(
      (all, _, s) => [...all, fitsOf(part(block.values, s), part(block.weights, s))],
      [],
    );
    const bytes = out.subarray(at, at + 136).fill(0);
    const start = chooseStep(xs, fits, block.shares, codes);
    if (start === 0) continue;
    const half = refine(xs, block, start, codes);
    bytes[0] = half;
    bytes[1] = half >>> 8;
    packCodes(Uint8Array.from(codes, (code) => code + 32), bytes.subarray(2, 8));
    for (const [s, code] of codes.entries()) {
      const scale = fround(halfToFloat(half) * code);
      packIndices(part(block.values, s), scale, bytes.subarray(8 + 16 * s, 24 + 16 * s));
    }
  }
}
