/**
 * Scale and zero point of a block for the least weighted squared error. A whole zero point only says where the levels
 * end: under one scale a few zero points are tried at once. Sums are float32 in the order of the values; `fround`
 * stands wherever the kernels round.
 */
import { errorOf, inverseOf, type Levels, negligible, storedScale, sumsOf } from "../search/scale.js";
import type { Fit } from "./types.js";

const { floor, fround, max, min } = Math;

/** How the scales are tried; `first` is how many steps the range of the values spans in the first trial. */
export interface PointSearch {
  readonly top: number;
  readonly first: number;
  /** More trials: `near` with a span `nearRatio` times the last, then `far` with `farRatio`. */
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

/** Zero points that are tried under one scale: from the one before some point to the second after it. */
const all = [0, 1, 2, 3] as const;
/** Those of 2 bits that leave levels on both sides of 0, for blocks that reach so far on both… */
const inner = [1, 2] as const;
/** …that one side is less than this many times the other. */
const lopsided = 2;
/** Where there are more zero points, the best trial's neighbours are tried as well, this much of its scale away. */
const reach = 1.1;

/** Range of the values that have a weight, and of 0. */
export function rangeOf(values: Float32Array, weights: Float32Array): { low: number; high: number } {
  let low = 0;
  let high = 0;
  for (const [j, x] of values.entries()) {
    if (!(weights[j]! > 0)) continue;
    low = min(low, x);
    high = max(high, x);
  }
  return { low, high };
}

/** The levels that a zero point leaves on either side of 0. */
export function levelsFrom(zero: number, top: number): Levels {
  return { lowest: -zero, highest: top - zero };
}

/**
 * The scale and zero point of a block that lose the least, among those tried.
 *
 * @param weights of the values, the largest 1
 * @param plain the scale and zero point to begin with
 */
export function searchPoint(
  search: PointSearch,
  values: Float32Array,
  weights: Float32Array,
  plain: Fit,
): Fit {
  const { top } = search;
  const { low, high } = rangeOf(values, weights);
  if (max(-low, high) <= negligible) return { scale: 0, zero: 0 };
  const unit = fround(1 / fround(high - low));
  const middle = fround(low + high);
  let inverse = 0;
  let zero = 0;
  let fit = 0;
  let gain = 0;
  const attempt = (tried: number, point: number): void => {
    const { product, square } = sumsOf(levelsFrom(point, top), values, weights, tried);
    const scale = fround(product / square);
    const gained = fround(product * scale);
    if (!(gained > gain)) return;
    inverse = tried;
    zero = point;
    fit = scale;
    gain = gained;
  };
  const sided = fround(fround(lopsided) * min(-low, high)) < max(-low, high);
  const points = top < all.length && !sided ? inner : all;
  const attemptAround = (tried: number, point: number): void => {
    const first = max(0, min(top - 3, point - 1));
    for (const step of points) attempt(tried, first + step);
  };
  let span = fround(search.first);
  for (let t = 0; t <= search.near + search.far; t++) {
    const tried = fround(span * unit);
    // The middle of the range near the middle of the codes.
    attemptAround(tried, floor(fround(fround(top - fround(middle * tried)) * 0.5)));
    span = fround(span * fround(t < search.near ? search.nearRatio : search.farRatio));
  }
  if (top >= all.length) {
    attemptAround(inverse, zero);
    const [found, point] = [inverse, zero];
    attemptAround(fround(found * fround(reach)), point);
    attemptAround(fround(found * fround(1 / reach)), point);
  }
  const coarse = inverse;
  const point = zero;
  for (let k = 1; k <= search.fine; k++) {
    const step = fround(fround(search.fineStep) * k);
    attempt(fround(coarse * fround(1 - step)), point);
    attempt(fround(coarse * fround(1 + step)), point);
  }
  let best = plain;
  let error = errorOf(levelsFrom(plain.zero, top), values, weights, plain.scale);
  const compare = (scale: number, point: number): void => {
    const left = errorOf(levelsFrom(point, top), values, weights, scale);
    if (!(left < error)) return;
    error = left;
    best = { scale, zero: point };
  };
  for (let round = 0; round < search.rounds; round++) {
    const scale = storedScale(fit);
    compare(scale, zero);
    const { product, square } = sumsOf(levelsFrom(zero, top), values, weights, inverseOf(scale));
    fit = square > 0 ? fround(product / square) : 0;
  }
  return best;
}
