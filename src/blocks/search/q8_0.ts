/**
 * Q8_0: the scale of 32 values for the least weighted squared error.
 *
 * With so many levels that error is a jagged function of the scale: a change by half a percent rounds many values
 * to other levels, and nothing says in advance which scale is lucky. So many are tried, each by whole numbers alone:
 * values become 16-bit integers whose product with the number of a trial, cut off to 16 bits, is how far they are
 * from a level. The scale of the best trial is then fitted to its levels.
 *
 * Sums of float32 run in four lanes, value j in lane j mod 4; `fround` stands wherever the kernel rounds.
 */
import { floatToHalf } from "../floats.js";
import { blockWeights } from "./importance.js";
import { sumOf } from "./lattice-block.js";
import { inverseOf, levelOf, negligible, storedScale } from "./scale.js";

const { abs, fround, max } = Math;

/** Values of a block. */
const count = 32;
const levels = { lowest: -127, highest: 127 };

/** Trials put the largest magnitude on level `from` / 2, and each other one `by` / 2 levels lower. */
const from = 254;
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
  return ((value * trial + (1 << (15 - bits))) << 16) >> (32 - bits);
}

/** The best of the trials; of equal ones the first of the first lane, as four of them are lanes of the kernel. */
function bestTrial(values: Float32Array, weights: Float32Array, largest: number): number {
  const unit = fround(largestValue / largest);
  const whole = Array.from(values, (x, j) => (weights[j]! > 0 ? nearest(fround(x * unit)) : 0));
  const shares = Array.from(weights, (weight) => nearest(fround(weight * largestWeight)));
  let best = from;
  let least = Infinity;
  for (let lane = 0; lane < 4; lane++) {
    for (let t = lane; t < trials; t += 4) {
      const trial = from - by * t;
      let sum = 0;
      for (const [j, value] of whole.entries()) sum += shares[j]! * distanceOf(value, trial) ** 2;
      const loss = fround(fround(sum) * fround(1 / (trial * trial)));
      if (loss >= least) continue;
      least = loss;
      best = trial;
    }
  }
  return best;
}

/** The scale that suits the levels under an inverse scale best. */
function fitScale(values: Float32Array, weights: Float32Array, inverse: number): number {
  const product = new Float32Array(4);
  const square = new Float32Array(4);
  for (const [j, x] of values.entries()) {
    const level = levelOf(x * inverse, levels);
    const weighted = fround(weights[j]! * level);
    product[j & 3]! += fround(weighted * x);
    square[j & 3]! += fround(weighted * level);
  }
  return fround(sumOf(product) / sumOf(square));
}

function errorOf(values: Float32Array, weights: Float32Array, scale: number): number {
  const inverse = inverseOf(scale);
  const error = new Float32Array(4);
  for (const [j, x] of values.entries()) {
    const off = fround(x - fround(scale * levelOf(x * inverse, levels)));
    error[j & 3]! += fround(weights[j]! * fround(off * off));
  }
  return sumOf(error);
}

/** The scale as the half stores it: that of the best trial, or ggml's where that loses less. */
function searchScale(values: Float32Array, weights: Float32Array): number {
  const largest = max(...values.map((x, j) => (weights[j]! > 0 ? abs(x) : 0)));
  if (largest <= negligible) return 0;
  const inverse = fround(bestTrial(values, weights, largest) / fround(2 * largest));
  const scale = storedScale(fitScale(values, weights, inverse));
  const plain = storedScale(fround(largest / levels.highest));
  return errorOf(values, weights, scale) < errorOf(values, weights, plain) ? scale : plain;
}

/** Q8_0: levels −127…127 for 32 values; some kernels of runtimes cannot bear −128. */
export function searchQ8_0(row: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < row.length; o += count, at += 2 + count) {
    const values = row.subarray(o, o + count);
    const d = searchScale(values, blockWeights(count, importance?.subarray(o, o + count)));
    const half = floatToHalf(d);
    out[at] = half;
    out[at + 1] = half >>> 8;
    for (const [j, x] of values.entries()) out[at + 2 + j] = levelOf(x * inverseOf(d), levels);
  }
}
