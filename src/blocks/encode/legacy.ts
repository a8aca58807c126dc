import { floatToHalf } from "../floats.js";
import type { Encoder } from "../types.js";
import { affineSearch, searchAffine } from "./affine.js";
import { extremeOf, searchScale } from "./symmetric.js";

const { abs, fround, min, sqrt, trunc } = Math;

/** Values of a block. */
const count = 32;

/** A block as scale · level + offset; the levels lie in an array beside it. */
export interface Fit {
  readonly scale: number;
  readonly offset: number;
}

/**
 * Finds scale, offset and levels of 32 values.
 *
 * @param weights of the values, or undefined for a fit that rounds to the nearest level
 * @param levels receives levels from 0 on
 */
type Fitter = (values: Float32Array, weights: Float32Array | undefined, levels: Uint8Array) => Fit;

/**
 * Rounds values to levels half up.
 *
 * An infinite inverse belongs to a scale that the half rounds to zero: ggml on x86-64 stores zeros.
 */
function roundTo(
  values: Float32Array,
  offset: number,
  scale: number,
  zeroLevel: number,
  top: number,
  levels: Uint8Array,
): void {
  const inverse = scale === 0 ? 0 : fround(1 / scale);
  for (const [j, x] of values.entries()) {
    const level = fround(fround(fround(x - offset) * inverse) + (zeroLevel + 0.5));
    levels[j] = abs(inverse) === Infinity ? 0 : min(top, trunc(level));
  }
}

/** Levels on both sides of zero: the first value of largest magnitude becomes the lowest, whatever its sign. */
export function symmetric(bound: number): Fitter {
  return (values, weights, levels) => {
    if (weights !== undefined) return { scale: searchScale(values, weights, bound, levels), offset: 0 };
    const scale = fround(extremeOf(values) / -bound);
    roundTo(values, 0, scale, bound, 2 * bound - 1, levels);
    return { scale, offset: 0 };
  };
}

/** Levels from the smallest value to the largest. */
export function affine(top: number): Fitter {
  const search = affineSearch(top, { first: -0.9, step: 0.05, steps: 36 });
  return (values, weights, levels) => {
    if (weights !== undefined) {
      const { scale, minimum } = searchAffine(values, weights, search, levels);
      return { scale, offset: -minimum };
    }
    // Comparisons tell apart no zeros: the first one gives the offset its sign.
    let low = Infinity;
    let high = -Infinity;
    for (const x of values) {
      if (x < low) low = x;
      if (x > high) high = x;
    }
    const scale = fround(fround(high - low) / top);
    roundTo(values, low, scale, 0, top, levels);
    return { scale, offset: low };
  };
}

/** Weight of each value of a row: its importance, times its magnitude where that stands out of the row. */
export function rowWeights(values: Float32Array, importance: Float32Array): Float32Array {
  let squares = 0;
  for (const x of values) squares = fround(squares + fround(x * x));
  const mean = fround(squares / values.length);
  return values.map((x, j) => importance[j]! * fround(sqrt(fround(mean + fround(x * x)))));
}

function storeHalf(value: number, out: Uint8Array, at: number): void {
  const half = floatToHalf(value);
  out[at] = half;
  out[at + 1] = half >>> 8;
}

/** What a block of 32 holds besides its scale and low nibbles: a half for an offset, fifth bits of the levels. */
export interface Parts {
  readonly offset: boolean;
  readonly fifth: boolean;
}

/** Bytes of a block. */
export function bytesOf({ offset, fifth }: Parts): number {
  return 18 + (offset ? 2 : 0) + (fifth ? 4 : 0);
}

/**
 * Writes a block of 32: a half for the scale, one for the offset if there is one, the fifth bits of the levels if
 * there are any, then their low nibbles, values 0–15 low and 16–31 high.
 *
 * @param levels from 0 on
 */
export function storeLevels(levels: Uint8Array, fit: Fit, parts: Parts, out: Uint8Array, at: number): void {
  const header = parts.offset ? 4 : 2;
  const nibbles = header + (parts.fifth ? 4 : 0);
  out.fill(0, at, at + nibbles);
  storeHalf(fit.scale, out, at);
  if (parts.offset) storeHalf(fit.offset, out, at + 2);
  if (parts.fifth) {
    for (let j = 0; j < count; j++) out[at + header + (j >> 3)]! |= (levels[j]! >> 4) << (j & 7);
  }
  for (let j = 0; j < 16; j++) out[at + nibbles + j] = (levels[j]! & 15) | ((levels[j + 16]! & 15) << 4);
}

function encoder(fit: Fitter, parts: Parts): Encoder {
  return (values, out, importance) => {
    const weights = importance === undefined ? undefined : rowWeights(values, importance);
    const levels = new Uint8Array(count);
    for (let o = 0, at = 0; o < values.length; o += count, at += bytesOf(parts)) {
      const found = fit(values.subarray(o, o + count), weights?.subarray(o, o + count), levels);
      storeLevels(levels, found, parts, out, at);
    }
  };
}

/** Q4_0: a scale for 32 values on levels −8…7. */
export const encodeQ4_0 = encoder(symmetric(8), { offset: false, fifth: false });

/** Q4_1: a scale and an offset for 32 values on levels 0…15. */
export const encodeQ4_1 = encoder(affine(15), { offset: true, fifth: false });

/** Q5_0: a scale for 32 values on levels −16…15. */
export const encodeQ5_0 = encoder(symmetric(16), { offset: false, fifth: true });

/** Q5_1: a scale and an offset for 32 values on levels 0…31. */
export const encodeQ5_1 = encoder(affine(31), { offset: true, fifth: true });
