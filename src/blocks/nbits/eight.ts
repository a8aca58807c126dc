/**
 * Codes of 8 bits: the scale for the least weighted squared error, with or without a zero point. As for Q8_0 (see
 * `search/q8_0.ts`) that error is a jagged function of the scale, and many scales are tried by whole numbers alone:
 * values become 16-bit integers whose product with the number of a trial, cut off to 16 bits, is how far they are from
 * a level. A zero point, which is whole, does not change that. Float32 sums run in the order of the values; `fround`
 * stands wherever the kernels round.
 */
import { errorOf, negligible, storedScale, sumsOf } from "../search/scale.js";
import { levelsFrom, rangeOf } from "./points.js";
import { type Fit, middleOf, type NBitsType, topOf } from "./types.js";

const { floor, fround, max } = Math;

/** How much less each trial's number is than the last one's: it is twice the level of the largest magnitude. */
const by = 2;
const trials = 24;

/** Values and weights of a block as integers: the largest ones, and how many bits of a distance the sums take. */
const largestValue = 32767;
const largestWeight = 1023;
const bits = 6;

/** Nearest integer, ties to even, within 2^22. */
function nearest(value: number): number {
  return fround(fround(value + 12582912) - 12582912);
}

/** How far a value is from the nearest level in a trial, in units of 2^-bits. */
function distanceOf(value: number, trial: number): number {
  return ((Math.imul(value, trial) + (1 << (15 - bits))) << 16) >> (32 - bits);
}

/** The best of the trials, which begin with `from`. */
function bestTrial(
  values: Float32Array,
  weights: Float32Array | undefined,
  most: number,
  from: number,
): number {
  const unit = fround(largestValue / most);
  const whole = Array.from(values, (x, j) => ((weights?.[j] ?? 1) > 0 ? nearest(fround(x * unit)) : 0));
  const shares = weights && Array.from(weights, (weight) => nearest(fround(weight * largestWeight)));
  let best = from;
  let least = Infinity;
  for (let t = 0; t < trials; t++) {
    const trial = from - by * t;
    let sum = 0;
    for (const [j, value] of whole.entries()) sum += (shares?.[j] ?? 1) * distanceOf(value, trial) ** 2;
    const loss = fround(fround(sum) / fround(trial * trial));
    if (loss >= least) continue;
    least = loss;
    best = trial;
  }
  return best;
}

/**
 * The scale and zero point of a block that lose the least, among those tried.
 *
 * @param weighted whether there is an importance; `weights` are 1 where not
 */
export function searchEight(
  type: NBitsType,
  values: Float32Array,
  weights: Float32Array,
  weighted: boolean,
  plain: Fit,
): Fit {
  const top = topOf(type);
  const { low, high } = rangeOf(values, weights);
  const most = max(-low, high);
  if (most <= negligible) return { scale: 0, zero: type.zeroPoints ? 0 : middleOf(type) };
  // Without zero points the largest magnitude is tried on the lowest level first, which is one beyond the highest.
  const from = type.zeroPoints ? floor(fround(fround(2 * top * most) / fround(high - low))) : top + 1;
  const trial = bestTrial(values, weighted ? weights : undefined, most, from);
  const size = fround(trial / fround(2 * most));
  const inverse = !type.zeroPoints && high >= -low ? -size : size;
  const centred = nearest(fround(fround(top - fround(fround(low + high) * inverse)) * 0.5));
  const zero = type.zeroPoints ? max(0, Math.min(top, centred)) : middleOf(type);
  const levels = levelsFrom(zero, top);
  const { product, square } = sumsOf(levels, values, weights, inverse);
  const scale = square > 0 ? storedScale(fround(product / square)) : 0;
  const error = errorOf(levels, values, weights, scale);
  const plainError = errorOf(levelsFrom(plain.zero, top), values, weights, plain.scale);
  return error < plainError ? { scale, zero } : plain;
}
