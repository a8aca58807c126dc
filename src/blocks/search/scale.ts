/**
 * The scale of a block whose values are whole multiples of it, for the least weighted squared error. Sums are
 * float32 in the order of the values; `fround` stands wherever the kernels round.
 */
import { floatToHalf, halfToFloat } from "../floats.js";

const { abs, fround, max, min } = Math;

/** Whole multiples of the scale that a value may take. */
export interface Levels {
  readonly lowest: number;
  readonly highest: number;
}

/** Levels of a type, and which scales are tried. */
export interface ScaleSearch extends Levels {
  /**
   * Inverse scales of the first trials: one that puts the value of largest magnitude on `first`, then `near` more
   * trials, each `nearRatio` times the last, then `far` with `farRatio`. Types whose levels are not symmetric try
   * each with both signs.
   */
  readonly first: number;
  readonly near: number;
  readonly nearRatio: number;
  readonly far: number;
  readonly farRatio: number;
  /** Trials on either side of the best of those, and how far they lie apart, in parts of it. */
  readonly fine: number;
  readonly fineStep: number;
  /** How often the scale of the best trial is stored and fitted anew to the levels that it then leads to. */
  readonly rounds: number;
}

/** Largest magnitude that is nearest to 0 under every scale but 0 that a half can hold. */
export const negligible = 2 ** -25;

/** Rounds to the nearest integer, ties to even, within 2^22. */
function nearest(value: number): number {
  return fround(fround(value + 12582912) - 12582912);
}

/** Nearest level of a value in units of the scale. */
export function levelOf(units: number, { lowest, highest }: Levels): number {
  return nearest(max(lowest, min(highest, fround(units))));
}

/** The half nearest to a scale, the largest finite one at most. */
export function storedScale(scale: number): number {
  return halfToFloat(floatToHalf(max(-65504, min(65504, scale))));
}

/** Inverse of a stored scale; 0, which makes every level 0, for 0. */
export function inverseOf(scale: number): number {
  return scale === 0 ? 0 : fround(1 / scale);
}

/** Σ weight · value · level and Σ weight · level² under an inverse scale. */
export function sumsOf(levels: Levels, values: Float32Array, weights: Float32Array, inverse: number) {
  let product = 0;
  let square = 0;
  for (const [j, x] of values.entries()) {
    const level = levelOf(x * inverse, levels);
    product = fround(product + fround(fround(weights[j]! * x) * level));
    square = fround(square + fround(fround(weights[j]! * level) * level));
  }
  return { product, square };
}

/** Weighted squared error of a stored scale. */
export function errorOf(levels: Levels, values: Float32Array, weights: Float32Array, scale: number): number {
  const inverse = inverseOf(scale);
  let error = 0;
  for (const [j, x] of values.entries()) {
    const off = fround(x - fround(scale * levelOf(x * inverse, levels)));
    error = fround(error + fround(weights[j]! * fround(off * off)));
  }
  return error;
}

/** The first value of largest magnitude among those that have a weight. */
function extremeOf(values: Float32Array, weights: Float32Array): number {
  let extreme = 0;
  for (const [j, x] of values.entries()) if (weights[j]! > 0 && abs(x) > abs(extreme)) extreme = x;
  return extreme;
}

/**
 * Finds the scale, as the half stores it. Trials come first: levels by rounding, whose best scale and gain follow
 * in closed form. The best one's scale is then stored, levels and scale fitted to each other in turns, and the least
 * error of what can be stored wins.
 *
 * Two plain scales take part in that: ggml's, which puts the extreme value on the lowest level, and where there are
 * many levels the one that puts it on half as many. A half holds that one where it holds the value, so a block of
 * values of one magnitude, and next to none, loses nothing.
 *
 * @param other one more scale to compare
 */
export function searchScale(
  search: ScaleSearch,
  values: Float32Array,
  weights: Float32Array,
  other?: number,
): number {
  const extreme = extremeOf(values, weights);
  if (abs(extreme) <= negligible) return 0;
  const symmetric = search.lowest === -search.highest;
  let inverse = 0;
  let fit = 0;
  let gain = 0;
  const attempt = (tried: number): void => {
    const { product, square } = sumsOf(search, values, weights, tried);
    const scale = fround(product / square);
    const gained = fround(product * scale);
    if (!(gained > gain)) return;
    inverse = tried;
    fit = scale;
    gain = gained;
  };
  const unit = fround(1 / abs(extreme));
  let factor = fround(search.first);
  for (let t = 0; t <= search.near + search.far; t++) {
    attempt(fround(factor * unit));
    if (!symmetric) attempt(-fround(factor * unit));
    factor = fround(factor * fround(t < search.near ? search.nearRatio : search.farRatio));
  }
  const coarse = inverse;
  for (let k = 1; k <= search.fine; k++) {
    const step = fround(fround(search.fineStep) * k);
    attempt(fround(coarse * fround(1 - step)));
    attempt(fround(coarse * fround(1 + step)));
  }
  const plain = symmetric ? abs(extreme) / search.highest : extreme / search.lowest;
  let best = storedScale(fround(plain));
  let error = errorOf(search, values, weights, best);
  const compare = (scale: number): void => {
    const left = errorOf(search, values, weights, scale);
    if (!(left < error)) return;
    error = left;
    best = scale;
  };
  if (!symmetric && search.highest > 2) compare(storedScale(abs(extreme) / ((search.highest + 1) / 2)));
  for (let round = 0; round < search.rounds; round++) {
    const scale = storedScale(fit);
    compare(scale);
    const { product, square } = sumsOf(search, values, weights, inverseOf(scale));
    fit = square > 0 ? fround(product / square) : 0;
  }
  if (other !== undefined) compare(storedScale(other));
  return best;
}
