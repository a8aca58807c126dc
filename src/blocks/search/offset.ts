/**
 * Q4_1 and Q5_1: scale and offset of 32 values for the least weighted squared error. Sums are float32 in the order of
 * the values; `fround` stands wherever the kernels round.
 */
import { affine, type Fit, rowWeights, storeLevels } from "../encode/legacy.js";
import { floatToHalf, halfToFloat } from "../floats.js";
import type { Encoder } from "../types.js";
import { blockWeights } from "./importance.js";

const { fround, max, min } = Math;

/** Values of a block. */
const count = 32;

/** Levels that the range of the values is spread over in the first trials: this part of the highest level… */
const firstSpan = 12.5 / 15;
/** …and in each of the others this many times the last, up to the part 20/15. */
const spanRatio = 1.0437;
const spans = 12;
/** Places tried for each span, from the range resting on the lowest level to resting on the highest, and beyond. */
const places = 4;
/** How far beyond. */
const margin = 0.45;
/** Trials around the best: stretched by so many steps of this part (of 15 levels), shifted by steps of levels. */
const stretchStep = 0.01;
const shiftStep = 0.15;
const steps = [-2, -1, 0, 1, 2] as const;
/** How often levels, scale and offset are fitted to each other in turns. */
const rounds = 3;

/** Values less their weighted mean, and what all trials need of them. */
interface Centred {
  readonly values: Float32Array;
  readonly weights: Float32Array;
  readonly products: Float32Array;
  readonly mean: number;
  readonly total: number;
  readonly low: number;
  readonly range: number;
}

/** The levels of values v are inverse · v + shift, rounded. */
interface Spread {
  readonly inverse: number;
  readonly shift: number;
}

/** What a trial's levels lead to: the spread that fits them best, and by how much that lowers the error of the mean. */
interface Outcome extends Spread {
  readonly scale: number;
  readonly gain: number;
}

const nothing: Outcome = { inverse: 0, shift: 0, scale: 0, gain: 0 };

/** Nearest level, ties to even. */
function levelOf(units: number, top: number): number {
  return fround(fround(max(0, min(top, fround(units))) + 12582912) - 12582912);
}

function centre(values: Float32Array, weights: Float32Array): Centred {
  let low = Infinity;
  let high = -Infinity;
  let total = 0;
  let sum = 0;
  for (const [j, x] of values.entries()) {
    const weight = weights[j]!;
    if (weight > 0) {
      low = min(low, x);
      high = max(high, x);
    }
    total = fround(total + weight);
    sum = fround(sum + fround(weight * x));
  }
  const mean = fround(sum / total);
  const centred = values.map((x) => x - mean);
  const products = centred.map((value, j) => weights[j]! * value);
  // The sum makes one zero of two.
  return { values: centred, weights, products, mean, total, low: low + 0, range: fround(high - low) };
}

/** Scale and mean level by least squares, for the levels that a spread leads to. */
function attempt({ values, weights, products, total }: Centred, spread: Spread, top: number): Outcome {
  let sumL = 0;
  let sumLL = 0;
  let product = 0;
  for (const [j, value] of values.entries()) {
    const level = levelOf(fround(value * spread.inverse) + spread.shift, top);
    const weighed = fround(weights[j]! * level);
    sumL = fround(sumL + weighed);
    sumLL = fround(sumLL + fround(weighed * level));
    product = fround(product + fround(products[j]! * level));
  }
  const shift = fround(sumL / total);
  const variance = fround(sumLL - fround(sumL * shift));
  // Below this the variance may be what rounding left of it.
  if (!(variance > fround(sumLL * 2 ** -18)) || !(product > 0)) return nothing;
  const scale = fround(product / variance);
  return { inverse: fround(variance / product), shift, scale, gain: fround(product * scale) };
}

function better(a: Outcome, b: Outcome): Outcome {
  return b.gain > a.gain ? b : a;
}

/** Best of all trials. */
function explore(block: Centred, top: number): Outcome {
  const unit = fround(1 / block.range);
  let best = nothing;
  let span = fround(top * fround(firstSpan));
  for (let t = 0; t < spans; t++) {
    const inverse = fround(span * unit);
    const base = fround(fround(block.mean - block.low) * inverse);
    const room = fround(top - span);
    const first = fround(min(0, room) - fround(margin));
    const width = fround(Math.abs(room) + fround(2 * margin));
    let row = nothing;
    for (let k = 0; k < places; k++) {
      const place = fround(first + fround(width * fround((k + 0.5) / places)));
      row = better(row, attempt(block, { inverse, shift: fround(base + place) }, top));
    }
    best = better(best, better(row, attempt(block, row, top)));
    span = fround(span * fround(spanRatio));
  }
  for (let round = 0; round < rounds; round++) best = better(best, attempt(block, best, top));
  const coarse = best;
  const middle = top / 2;
  for (const stretch of steps) {
    const factor = fround(1 + fround(stretch * fround((stretchStep * 15) / top)));
    const centre = fround(fround(fround(coarse.shift - middle) * factor) + middle);
    for (const shift of steps) {
      const inverse = fround(coarse.inverse * factor);
      best = better(
        best,
        attempt(block, { inverse, shift: fround(centre + fround(shift * fround(shiftStep))) }, top),
      );
    }
  }
  for (let round = 0; round < rounds; round++) best = better(best, attempt(block, best, top));
  return best;
}

/** The half nearest to a number, the largest finite one at most. */
function stored(value: number): number {
  return halfToFloat(floatToHalf(max(-65504, min(65504, value))));
}

/** Level of a value under a stored scale and offset; 0 under a scale of 0. */
function storedLevel(x: number, { scale, offset }: Fit, top: number): number {
  return levelOf(fround(x - offset) * (scale === 0 ? 0 : fround(1 / scale)), top);
}

function errorOf(values: Float32Array, weights: Float32Array, fit: Fit, top: number): number {
  let error = 0;
  for (const [j, x] of values.entries()) {
    const off = fround(x - fround(fround(fit.scale * storedLevel(x, fit, top)) + fit.offset));
    error = fround(error + fround(weights[j]! * fround(off * off)));
  }
  return error;
}

/**
 * Finds scale and offset as halves store them. Trials come first, without regard to halves: the range of the values is
 * spread over fewer and more levels than there are, in several places, and the best of all moved about a little. Then
 * the best is stored, levels and scale fitted to each other in turns, and the least error of what can be stored wins.
 *
 * Two plain scales take part in that, over the least value: ggml's, which spreads the range over all levels, and the
 * one that spreads it over half of them and so, for few values of simple numbers, is one itself. Last, the halves beside
 * the scale are tried: the offset is the coarser of the two, and one of them may suit it better.
 *
 * @param theirs scale and offset that ggml's method finds with an importance; they are compared as well
 */
function searchOffset(values: Float32Array, weights: Float32Array, top: number, theirs?: Fit): Fit {
  const block = centre(values, weights);
  if (!(block.range > 0)) return { scale: 0, offset: stored(block.low) };
  let outcome = explore(block, top);
  const offset = stored(block.low);
  let best: Fit = { scale: 0, offset };
  let error = Infinity;
  const compare = (fit: Fit): Fit => {
    const left = errorOf(values, weights, fit, top);
    if (left < error) {
      error = left;
      best = fit;
    }
    return fit;
  };
  /** A stored scale with the offset that suits it best. */
  const centred = (scale: number): Fit => {
    return { scale, offset: stored(fround(block.mean - fround(scale * outcome.shift))) };
  };
  const refit = ({ scale, offset }: Fit): Outcome => {
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    return attempt(block, { inverse, shift: fround(fround(block.mean - offset) * inverse) }, top);
  };
  compare({ scale: stored(fround(block.range / top)), offset });
  compare({ scale: stored(fround(block.range / ((top + 1) / 2))), offset });
  for (let round = 0; round < rounds; round++) outcome = refit(compare(centred(stored(outcome.scale))));
  outcome = refit(best);
  const half = floatToHalf(best.scale);
  for (const beside of [-2, -1, 1, 2]) {
    compare(centred(halfToFloat(max(0, min(0x7bff, half + beside)))));
  }
  if (theirs !== undefined) compare({ scale: stored(theirs.scale), offset: stored(theirs.offset) });
  return best;
}

function encoder(top: number, bytes: number): Encoder {
  const fitLikeGgml = affine(top);
  return (row, out, importance) => {
    const others = importance === undefined ? undefined : rowWeights(row, importance);
    for (let o = 0, at = 0; o < row.length; o += count, at += bytes) {
      const block = row.subarray(o, o + count);
      const weights = blockWeights(count, importance?.subarray(o, o + count));
      const theirs = others && fitLikeGgml(block, others.subarray(o, o + count), new Uint8Array(count));
      const fit = searchOffset(block, weights, top, theirs);
      const levels = Uint8Array.from(block, (x) => storedLevel(x, fit, top));
      storeLevels(levels, fit, { offset: true, fifth: top > 15 }, out, at);
    }
  };
}

/** Q4_1: levels 0…15. */
export const searchQ4_1 = encoder(15, 20);

/** Q5_1: levels 0…31. */
export const searchQ5_1 = encoder(31, 24);
