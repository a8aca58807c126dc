import { digitOf } from "./numbers.js";

const { fround, max, sqrt } = Math;

/** What the search reads of a block of 256 values. */
export interface Split {
  /** Magnitudes. Where signs are kept even, one of a group of eight may be negated. */
  readonly sizes: Float32Array;
  readonly weights: Float32Array;
  /** Roots of the weights. */
  readonly roots: Float32Array;
  /** Signs of each eight values, a set bit for a minus. */
  readonly signs: Uint8Array;
}

/** Sum of the squares of a block, in the order of the values. */
function squares(values: Float32Array, o: number): number {
  let sum = 0;
  for (let j = o; j < o + 256; j++) sum = fround(sum + fround(values[j]! * values[j]!));
  return sum;
}

/**
 * Weights of a block: the importance times √(σ² + x²).
 *
 * @param times σ² is this many times the mean square of the block
 * @param plain the weight of a value without an importance; by default as with an importance of 1
 */
export function weigh(
  values: Float32Array,
  o: number,
  importance: Float32Array | undefined,
  times: number,
  plain?: (variance: number, square: number) => number,
): Float32Array {
  const variance = fround(fround(times * squares(values, o)) / 256);
  return Float32Array.from({ length: 256 }, (_, j) => {
    const square = fround(values[o + j]! * values[o + j]!);
    if (importance === undefined && plain !== undefined) return plain(variance, square);
    return (importance?.[o + j] ?? 1) * fround(sqrt(fround(variance + square)));
  });
}

/** Index of the value, of eight, that matters least. */
function leastOf(values: Float32Array, o: number, weights: Float32Array, j: number): number {
  let least = Infinity;
  let at = 0;
  for (let k = 0; k < 8; k++) {
    const error = fround(fround(weights[j + k]! * values[o + j + k]!) * values[o + j + k]!);
    if (error < least) {
      least = error;
      at = k;
    }
  }
  return at;
}

/**
 * Takes the signs off a block.
 *
 * @param even whether each eight values must have an even number of minus signs: where it is odd, the value that
 *   matters least gets the other sign
 */
export function split(values: Float32Array, o: number, weights: Float32Array, even: boolean): Split {
  const sizes = new Float32Array(256);
  const signs = new Uint8Array(32);
  for (let group = 0; group < 32; group++) {
    let minus = 0;
    for (let j = 8 * group; j < 8 * group + 8; j++) {
      sizes[j] = Math.abs(values[o + j]!);
      if (values[o + j]! >= 0) continue;
      signs[group]! |= 1 << (j & 7);
      minus++;
    }
    if (!even || minus % 2 === 0) continue;
    const k = leastOf(values, o, weights, 8 * group);
    sizes[8 * group + k]! *= -1;
    signs[group]! ^= 1 << k;
  }
  return { sizes, weights, roots: weights.map((weight) => sqrt(weight)), signs };
}

/** The largest of the sizes of a sub-block. */
export function largest(sizes: Float32Array, start: number, size: number): number {
  return sizes.subarray(start, start + size).reduce((a, b) => max(a, b));
}

/** Four-bit codes of the scales of the sub-blocks, 2·code + 1 steps of a 31st of the largest. */
export function scaleCodes(scales: readonly number[], largestScale: number): number[] {
  const inverse = fround(1 / fround(largestScale / 31));
  return scales.map((scale) => digitOf(scale, inverse, 15));
}
