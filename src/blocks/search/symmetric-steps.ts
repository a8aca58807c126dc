import { floatToHalf, halfToFloat } from "../floats.js";
import { nearest } from "../encode/nearest.js";

const { abs, fround, max, min } = Math;

/**
 * A type whose sub-blocks have a scale and no offset, kept as a code in steps of one half for the whole block.
 * All sums are float32, in the order of the values, of the sub-blocks and of the fits.
 */
export interface Layout {
  /** Values of a sub-block, and sub-blocks of a block. */
  readonly size: number;
  readonly count: number;
  /** Codes of scales are −codes…codes − 1. */
  readonly codes: number;
  /** Steps are tried from the one that makes the largest scale −codes, times `first`, `first` + `spacing` … */
  readonly first: number;
  readonly spacing: number;
  readonly steps: number;
  /** Times that codes move to a neighbour and the step is fitted to them again. */
  readonly passes: number;
  /** The level nearest to a value. */
  readonly levelOf: (value: number) => number;
}

/** A block in work. */
export interface Block {
  readonly values: Float32Array;
  /** Weights, at most 1 in each sub-block. */
  readonly weights: Float32Array;
  /** What the weights of each sub-block were divided by, as a part of the largest of the block. */
  readonly shares: Float32Array;
}

/**
 * What levels of a sub-block come to: the error is least at `scale`, `excess` more there than that of the best fit,
 * and grows by `square` · (difference)² away from it.
 */
export interface Fit {
  readonly scale: number;
  readonly square: number;
  readonly excess: number;
}

/** Levels of a sub-block with the scale that suits them best, and how much of the error they then take away. */
export interface Trial {
  readonly scale: number;
  readonly square: number;
  readonly gain: number;
}

/** A trial from Σ weight · value · level and Σ weight · level². */
export function trialOf(product: number, square: number): Trial {
  const scale = square > 0 ? fround(product / square) : 0;
  return { scale, square, gain: fround(scale * product) };
}

/** The part of a gain that is no rounding: fits that do not differ by more count as equal, and the first is best. */
const certain = fround(1 - 2 ** -20);

/** The best trial of each group as a fit. */
export function fitsFrom(groups: readonly Trial[][]): Fit[] {
  const nothing: Trial = { scale: 0, square: 0, gain: 0 };
  const found = groups.map((trials) => trials.reduce((a, b) => (b.gain > a.gain ? b : a), nothing));
  const best = fround(max(...found.map(({ gain }) => gain)) * certain);
  return found.map(({ scale, square, gain }) => ({ scale, square, excess: max(0, fround(best - gain)) }));
}

/** The largest of some numbers that are not negative. */
function largest(numbers: Float32Array): number {
  return numbers.reduce((most, number) => max(most, number), 0);
}

/** Splits the weights of a block; those of a block or a sub-block without importance count as 1. */
export function weigh(values: Float32Array, importance: Float32Array | undefined, size: number): Block {
  const count = values.length / size;
  const weights = new Float32Array(values.length).fill(1);
  const shares = new Float32Array(count).fill(1);
  const whole = importance === undefined ? 0 : largest(importance);
  if (importance === undefined || whole === 0) return { values, weights, shares };
  for (let s = 0; s < count; s++) {
    const own = importance.subarray(size * s, size * s + size);
    const most = largest(own);
    shares[s] = most / whole;
    if (most === 0) continue;
    for (const [j, weight] of own.entries()) weights[size * s + j] = weight / most;
  }
  return { values, weights, shares };
}

/** The half nearest to a step, or the least one in place of zero. */
export function halfStep(step: number): number {
  const half = floatToHalf(step);
  return (half & 0x7fff) === 0 ? half | 1 : half;
}

/** The code that brings a multiple of the step nearest to a scale. */
function codeOf(scale: number, inverse: number, codes: number): number {
  return nearest(max(-codes, min(codes - 1, fround(scale * inverse))));
}

/** How much more a fit loses with another scale. */
export function lossOf({ scale, square, excess }: Fit, other: number): number {
  const off = fround(scale - other);
  return fround(excess + fround(fround(square * off) * off));
}

/** The scale of largest magnitude among the best fits of the sub-blocks that matter. */
function extremeScale(fits: readonly Fit[][], shares: Float32Array): number {
  let extreme = 0;
  for (const [s, own] of fits.entries()) {
    const scale = own.find(({ excess }) => excess === 0)!.scale;
    if (shares[s]! > 0 && abs(scale) > abs(extreme)) extreme = scale;
  }
  return extreme;
}

/** What a step comes to when every sub-block takes the fit and the code that lose least with it. */
interface Outcome {
  half: number;
  loss: number;
  /** The step that would be best for these fits and codes. */
  fitted: number;
}

function outcomeOf(
  { codes: bound }: Layout,
  fits: readonly Fit[][],
  shares: Float32Array,
  half: number,
  codes?: Int8Array,
): Outcome {
  const step = halfToFloat(half);
  const inverse = fround(1 / step);
  let loss = 0;
  let product = 0;
  let square = 0;
  for (const [s, own] of fits.entries()) {
    let least = Infinity;
    let ownProduct = 0;
    let ownSquare = 0;
    for (const fit of own) {
      const code = codeOf(fit.scale, inverse, bound);
      const lost = lossOf(fit, fround(step * code));
      if (lost >= least) continue;
      least = lost;
      const weight = fround(code * fit.square);
      ownProduct = fround(weight * fit.scale);
      ownSquare = fround(weight * code);
      if (codes !== undefined) codes[s] = code;
    }
    const share = shares[s]!;
    loss = fround(loss + fround(share * least));
    product = fround(product + fround(share * ownProduct));
    square = fround(square + fround(share * ownSquare));
  }
  return { half, loss, fitted: square > 0 ? fround(product / square) : step };
}

/** Steps that are tried at a time; the best of each turn is fitted. */
const LANES = 4;

/** Times that a step is fitted to the codes that it leads to. */
const FITTINGS = 2;

/**
 * The step (as a half) with which the fits of all sub-blocks together lose least, and the codes of the scales.
 *
 * @returns 0 where nothing is gained by any scale
 */
export function chooseStep(
  layout: Layout,
  fits: readonly Fit[][],
  shares: Float32Array,
  codes: Int8Array,
): number {
  const start = fround(extremeScale(fits, shares) / -layout.codes);
  if (start === 0) return 0;
  let best: Outcome = { half: 0, loss: Infinity, fitted: 0 };
  for (let lane = 0; lane < LANES; lane++) {
    let own: Outcome = { half: 0, loss: Infinity, fitted: 0 };
    for (let i = lane; i < layout.steps; i += LANES) {
      const factor = fround(fround(layout.first) + fround(fround(layout.spacing) * i));
      const outcome = outcomeOf(layout, fits, shares, halfStep(fround(start * factor)));
      if (outcome.loss < own.loss) own = outcome;
    }
    let next = own;
    for (let fitting = 0; fitting < FITTINGS; fitting++) {
      next = outcomeOf(layout, fits, shares, halfStep(next.fitted));
      if (next.loss < own.loss) own = next;
    }
    if (own.loss < best.loss) best = own;
  }
  outcomeOf(layout, fits, shares, best.half, codes);
  return best.half;
}
