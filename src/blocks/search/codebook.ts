import { iq4Levels } from "../decode/codebook.js";
import { nearestIndex, packCodes, packIndices, scaleOfNL, stepOfXS } from "../encode/codebook.js";
import { nearest } from "../encode/nearest.js";
import { extremeOf, negligible } from "../encode/symmetric.js";
import { floatToHalf, halfToFloat } from "../floats.js";
import { better, isUnbounded, refine, sumsOf } from "./symmetric-refine.js";
import {
  type Block,
  chooseStep,
  type Fit,
  fitsFrom,
  halfStep,
  type Layout,
  lossOf,
  type Trial,
  trialOf,
  weigh,
} from "./symmetric-steps.js";

const { abs, fround } = Math;

/** The level nearest to a value. */
function levelOf(value: number): number {
  return iq4Levels[nearestIndex(value)]!;
}

/**
 * Ends of windows of trials, from the outer one inwards: where they put the magnitude of the largest value, below
 * zero and above it. The levels at the ends are looked up to the precision of integers, and a trial within takes one
 * of them for each value: midpoints of one sign are more than a fifth apart, so that hardly a value passes two.
 */
const sides: readonly { readonly sign: number; readonly ends: readonly number[] }[] = [
  { sign: -1, ends: [177, 145, 119, 97.5, 80] },
  { sign: 1, ends: [157, 128.5, 105.5, 86.5, 71] },
];

/** Trials of each window of a side, of which the best is kept as a fit: most where most of the best scales are. */
const trials = [4, 8, 4, 4];

/** Layout of IQ4_XS. */
const xs: Layout = {
  size: 32,
  count: 8,
  codes: 32,
  first: 0.953125,
  spacing: 0.015625,
  steps: 24,
  passes: 2,
  levelOf,
};

/** A value that takes its level at the outer end of a window. */
interface Pass {
  /** Where a trial has to put the largest value for that. */
  readonly place: number;
  /** What it adds to Σ weight · value · level and to Σ weight · level². */
  readonly product: number;
  readonly square: number;
}

/** The trials of a window from one end towards another, given the levels at both. */
function tryWindow(
  ratios: Float32Array,
  values: Float32Array,
  weights: Float32Array,
  count: number,
  ends: readonly [number, number],
  outer: readonly number[],
  inner: readonly number[],
): Trial[] {
  let innerProduct = 0;
  let innerSquare = 0;
  const passes: Pass[] = [];
  for (const [j, x] of values.entries()) {
    const a = outer[j]!;
    const b = inner[j]!;
    const weight = weights[j]!;
    const weighted = fround(weight * x);
    const product = fround(weighted * b);
    const square = fround(fround(weight * b) * b);
    innerProduct = fround(innerProduct + product);
    innerSquare = fround(innerSquare + square);
    passes.push({
      place: fround((abs(a + b) / 2) * ratios[j]!),
      product: fround(fround(weighted * a) - product),
      square: fround(fround(fround(weight * a) * a) - square),
    });
  }
  return Array.from({ length: count }, (_, t) => {
    const target = ends[0] + ((ends[1] - ends[0]) * t) / count;
    let product = 0;
    let square = 0;
    for (const pass of passes) {
      if (pass.place > target) continue;
      product = fround(product + pass.product);
      square = fround(square + pass.square);
    }
    return trialOf(fround(innerProduct + product), fround(innerSquare + square));
  });
}

/** The fits of a sub-block: the best trial of each window. */
function fitsOf(values: Float32Array, weights: Float32Array): Fit[] {
  const extreme = extremeOf(values);
  const divisor = abs(extreme) < negligible ? 1 : extreme;
  const ratios = values.map((x) => abs(divisor) / abs(x));
  const windows: Trial[][] = [];
  for (const { sign, ends } of sides) {
    const levelsAt = (target: number): number[] => {
      const inverse = fround(target / (sign * divisor));
      return Array.from(values, (x) => levelOf(nearest(x * inverse)));
    };
    for (const [i, end] of ends.slice(1).entries()) {
      const start = ends[i]!;
      windows.push(
        tryWindow(ratios, values, weights, trials[i]!, [start, end], levelsAt(start), levelsAt(end)),
      );
    }
  }
  return fitsFrom(windows);
}

/** Times that the scale of a block of IQ4_NL is fitted to the levels nearest to its values. */
const FITTINGS = 3;

/**
 * The best scale for a block of IQ4_NL, as a half: that of the fit that loses least with a half, refined, or the one
 * that ggml's method finds.
 */
function searchScale({ values, weights }: Block, theirs: number): number {
  let half = 0;
  let least = Infinity;
  for (const fit of fitsOf(values, weights)) {
    const own = halfStep(fit.scale);
    const loss = lossOf(fit, halfToFloat(own));
    if (loss >= least) continue;
    least = loss;
    half = own;
  }
  let chosen = theirs;
  let { error: best } = sumsOf(values, weights, halfToFloat(theirs), levelOf);
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
    const own = importance?.subarray(o, o + 32);
    const block = weigh(values.subarray(o, o + 32), own, 32);
    const theirs = floatToHalf(scaleOfNL(block.values, own));
    const half = searchScale(block, isUnbounded(theirs) ? 0 : theirs);
    out[at] = half;
    out[at + 1] = half >>> 8;
    packIndices(block.values, halfToFloat(half), out.subarray(at + 2, at + 18));
  }
}

/**
 * IQ4_XS of whole blocks: like IQ4_NL, with the scales of 256 values in 6-bit steps of one half. The scales are
 * ggml's where those lose less.
 */
export function searchIQ4_XS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const { size, count } = xs;
  const part = (all: Float32Array, s: number): Float32Array => all.subarray(size * s, size * s + size);
  const theirs = new Uint8Array(count);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 136) {
    const own = importance?.subarray(o, o + 256);
    const block = weigh(values.subarray(o, o + 256), own, size);
    const fits = Array.from({ length: count }, (_, s) =>
      fitsOf(part(block.values, s), part(block.weights, s)),
    );
    const bytes = out.subarray(at, at + 136).fill(0);
    const codes = new Int8Array(count);
    const start = chooseStep(xs, fits, block.shares, codes);
    if (start === 0) continue;
    const half = floatToHalf(stepOfXS(block.values, own, theirs));
    const choice = better(xs, block, refine(xs, block, start, codes), half, theirs);
    bytes[0] = choice.half;
    bytes[1] = choice.half >>> 8;
    packCodes(
      Uint8Array.from(choice.codes, (code) => code + 32),
      bytes.subarray(2, 8),
    );
    for (const [s, code] of choice.codes.entries()) {
      const scale = fround(halfToFloat(choice.half) * code);
      packIndices(part(block.values, s), scale, bytes.subarray(8 + 16 * s, 24 + 16 * s));
    }
  }
}
