import type { PointKind } from "./lattice-kinds.js";

const { abs, fround, max, min, sqrt } = Math;

/** What the search reads of a block of 256 values. */
export interface Block {
  /**
   * Magnitudes, of which one of a group of eight may be negated where signs are kept even; the values themselves
   * where points have the signs.
   */
  readonly sizes: Float32Array;
  readonly weights: Float32Array;
  /** Weight times size. */
  readonly products: Float32Array;
  /** Weights in units of 2^-8 of the largest of their group. */
  readonly shares: Float32Array;
  /** Signs of each eight values, a set bit for a minus. */
  readonly signs: Uint8Array;
  /** First guesses of the scales of the sub-blocks. */
  readonly guesses: Float32Array;
}

/** What all weights have at least, of the largest of the block: values that do not matter still get their places. */
const leastWeight = 2 ** -30;

/** Sum of four lanes: the first and third, and the second and fourth. */
export function sumOf(lanes: Float32Array): number {
  return fround(fround(lanes[0]! + lanes[2]!) + fround(lanes[1]! + lanes[3]!));
}

/** Weights, brought by a power of two to a largest between 1 and 2. */
function weigh(importance: Float32Array | undefined): Float32Array {
  if (importance === undefined) return new Float32Array(256).fill(1);
  const largest = new Float32Array([max(0, ...importance)]);
  const exponent = new Uint32Array(largest.buffer)[0]! >>> 23;
  const scale = 2 ** (127 - max(1, min(253, exponent)));
  return importance.map((weight) => max(leastWeight, fround(weight * scale)));
}

/** Largest magnitude of sizes, which may have signs. */
export function largestOf(sizes: Float32Array): number {
  return sizes.reduce((most, size) => max(most, abs(size)), 0);
}

/** Guesses the scale of a sub-block from the weighted root mean square and the largest of its values. */
function guess(kind: PointKind, sizes: Float32Array, weights: Float32Array): number {
  const energy = new Float32Array(4);
  const weight = new Float32Array(4);
  for (const [j, size] of sizes.entries()) {
    energy[j & 3]! += fround(fround(weights[j]! * size) * size);
    weight[j & 3]! += weights[j]!;
  }
  const mean = fround(sqrt(fround(sumOf(energy) / sumOf(weight))));
  return fround(fround(kind.ofMean * mean) + fround(kind.ofLargest * largestOf(sizes)));
}

/**
 * What is lost by the wrong sign of a value, which has to be one step on the wrong side at least: its weight times
 * (size + step)², less the error with the right sign where even one step is too far.
 */
function lossOfSign(size: number, weight: number, step: number): number {
  const wrong = fround(size + step);
  const right = max(0, fround(step - size));
  return fround(weight * fround(fround(wrong * wrong) - fround(right * right)));
}

/** Turns the sign around that matters least of each eight with an odd number of minus signs, given a step. */
function evenOut(sizes: Float32Array, weights: Float32Array, steps: Float32Array, signs: Uint8Array): void {
  const groups = 32 / steps.length;
  for (let group = 0; group < 32; group++) {
    let minus = 0;
    for (let bits = signs[group]!; bits !== 0; bits &= bits - 1) minus++;
    if (minus % 2 === 0) continue;
    const own = sizes.subarray(8 * group, 8 * group + 8);
    const step = steps[Math.floor(group / groups)]!;
    const losses = own.map((size, k) => lossOfSign(size, weights[8 * group + k]!, step));
    const k = losses.indexOf(min(...losses));
    signs[group]! ^= 1 << k;
    own[k]! *= -1;
  }
}

/** Reads a block: see `Block`. */
export function readBlock(kind: PointKind, values: Float32Array, importance?: Float32Array): Block {
  const weights = weigh(importance);
  const sizes = kind.signs === "points" ? values.slice() : values.map(abs);
  const part = (all: Float32Array, s: number): Float32Array =>
    all.subarray(kind.size * s, kind.size * (s + 1));
  const guesses = Float32Array.from({ length: 256 / kind.size }, (_, s) =>
    guess(kind, part(sizes, s), part(weights, s)),
  );
  const signs = new Uint8Array(32);
  for (const [j, value] of values.entries()) if (value < 0) signs[j >> 3]! |= 1 << (j & 7);
  if (kind.signs === "even") evenOut(sizes, weights, guesses, signs);
  const products = weights.map((weight, j) => weight * sizes[j]!);
  const shares = new Float32Array(256);
  for (let j = 0; j < 256; j += kind.width) {
    const own = weights.subarray(j, j + kind.width);
    const factor = fround(256 / max(...own));
    shares.set(
      own.map((weight) => weight * factor),
      j,
    );
  }
  return { sizes, weights, products, shares, signs, guesses };
}
