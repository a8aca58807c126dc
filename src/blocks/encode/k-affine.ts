import { half } from "../decode/block.js";
import { floatToHalf } from "../floats.js";
import type { Encoder } from "../types.js";
import { affineSearch, type AffineSearch, searchAffine, searchPositive } from "./affine.js";
import { nearest } from "./nearest.js";

const { abs, fround, max, min, sqrt } = Math;

/** What distinguishes the affine types with blocks of 256 values. */
export interface AffineLayout {
  readonly bytes: number;
  /** Values of a sub-block. */
  readonly count: number;
  /** Largest level of a value, and of a sub-block's scale and minimum. */
  readonly top: number;
  readonly scaleTop: number;
  /**
   * What the levels of scales are cut to without and with an importance. Only a negative scale needs that, which
   * takes nearly equal values under an offset of 0: its level wraps to a large byte, and ggml does not cut it
   * everywhere.
   */
  readonly plainLimit: number;
  readonly weightedLimit: number;
  readonly plain: AffineSearch;
  /** Weights of a sub-block when there is no importance. */
  readonly plainWeights: (values: Float32Array) => Float32Array;
  /** With an importance, the mean square of the block counts this many times in the weights. */
  readonly squares: number;
  /** Where the halves of the scales and of the minimums are. */
  readonly halves: number;
  /** Stores the levels of scales and minimums. */
  readonly packScales: (out: Uint8Array, scales: Uint8Array, minimums: Uint8Array) => void;
  /** Levels of scale and minimum of a sub-block, as a reader takes them from what was stored. */
  readonly scaleLevels: (out: Uint8Array, s: number) => readonly [scale: number, minimum: number];
  /** Stores the levels of the values. */
  readonly pack: (out: Uint8Array, levels: Uint8Array) => void;
}

function sumOfSquares(values: Float32Array): number {
  let sum = 0;
  for (const x of values) sum = fround(sum + fround(x * x));
  return sum;
}

function sumOf(values: Float32Array): number {
  let sum = 0;
  for (const x of values) sum = fround(sum + x);
  return sum;
}

/** Levels of scales in even steps up to the largest; returns such a step. */
function spreadScales(scales: Float32Array, top: number, levels: Uint8Array): number {
  const high = scales.reduce((a, b) => max(a, b), 0);
  const inverse = high > 0 ? fround(top / high) : 0;
  for (const [s, scale] of scales.entries()) levels[s] = nearest(inverse * scale);
  return fround(high / top);
}

/** Levels of the values under the stored scales; a sub-block whose scale became 0 keeps those of the search. */
function assignLevels(values: Float32Array, layout: AffineLayout, out: Uint8Array, levels: Uint8Array): void {
  const { count, top, halves } = layout;
  for (let s = 0; s < 256 / count; s++) {
    const [scale, minimum] = layout.scaleLevels(out, s);
    const d = fround(half(out, halves) * scale);
    if (d === 0) continue;
    const dMinimum = fround(half(out, halves + 2) * minimum);
    for (let j = count * s; j < count * s + count; j++) {
      levels[j] = max(0, min(top, nearest(fround(values[j]! + dMinimum) / d)));
    }
  }
}

function encodeBlock(
  layout: AffineLayout,
  values: Float32Array,
  out: Uint8Array,
  importance?: Float32Array,
): void {
  const { count, top, scaleTop } = layout;
  const subBlocks = 256 / count;
  const levels = new Uint8Array(256);
  const scales = new Float32Array(subBlocks);
  const minimums = new Float32Array(subBlocks);
  const sums = new Float32Array(subBlocks);
  const variance = fround(fround(layout.squares * sumOfSquares(values)) / 256);
  const search = importance === undefined ? layout.plain : weightedSearch(top);
  for (let s = 0; s < subBlocks; s++) {
    const part = values.subarray(count * s, count * s + count);
    const weights =
      importance === undefined
        ? layout.plainWeights(part)
        : part.map((x, j) => importance[count * s + j]! * fround(sqrt(fround(variance + fround(x * x)))));
    sums[s] = sumOf(weights);
    const found = searchAffine(part, weights, search, levels.subarray(count * s, count * s + count));
    scales[s] = found.scale;
    minimums[s] = found.minimum;
  }
  const limit = importance === undefined ? layout.plainLimit : layout.weightedLimit;
  const [scaleLevels, minimumLevels] = [scales, minimums].map((numbers, i) => {
    const to = new Uint8Array(subBlocks);
    const step =
      importance === undefined
        ? spreadScales(numbers, scaleTop, to)
        : searchPositive(numbers, sums, scaleTop, to);
    const stored = floatToHalf(step);
    out[layout.halves + 2 * i] = stored;
    out[layout.halves + 2 * i + 1] = stored >>> 8;
    return to.map((level) => min(limit, level));
  });
  layout.packScales(out, scaleLevels!, minimumLevels!);
  assignLevels(values, layout, out, levels);
  layout.pack(out, levels);
}

function encoder(layout: AffineLayout): Encoder {
  return (values, out, importance) => {
    for (let o = 0, at = 0; o < values.length; o += 256, at += layout.bytes) {
      const block = values.subarray(o, o + 256);
      encodeBlock(layout, block, out.subarray(at, at + layout.bytes), importance?.subarray(o, o + 256));
    }
  };
}

function weightedSearch(top: number): AffineSearch {
  return affineSearch(top, { first: -0.9, step: 0.05, steps: 36 });
}

/** Root of the mean square of 32 values plus each magnitude. */
function spreadWeights(values: Float32Array): Float32Array {
  const root = fround(sqrt(fround(sumOfSquares(values) / 32)));
  return values.map((x) => root + abs(x));
}

function packScalesQ2_K(out: Uint8Array, scales: Uint8Array, minimums: Uint8Array): void {
  for (let s = 0; s < 16; s++) out[s] = scales[s]! | (minimums[s]! << 4);
}

function packQ2_K(out: Uint8Array, levels: Uint8Array): void {
  for (let j = 0; j < 64; j++) {
    const l = 128 * (j >> 5) + (j & 31);
    out[16 + j] = levels[l]! | (levels[l + 32]! << 2) | (levels[l + 64]! << 4) | (levels[l + 96]! << 6);
  }
}

/** Eight pairs of six bits: four pairs as they are, and the upper two bits of the other four on top of those. */
function packPairs(out: Uint8Array, scales: Uint8Array, minimums: Uint8Array): void {
  for (let s = 0; s < 4; s++) {
    const scale = scales[s + 4]!;
    const minimum = minimums[s + 4]!;
    out[4 + s] = scales[s]! | ((scale >> 4) << 6);
    out[8 + s] = minimums[s]! | ((minimum >> 4) << 6);
    out[12 + s] = (scale & 15) | ((minimum & 15) << 4);
  }
}

function pairOf(out: Uint8Array, s: number): [number, number] {
  if (s < 4) return [out[4 + s]! & 63, out[8 + s]! & 63];
  const low = out[8 + s]!;
  return [(low & 15) | ((out[s]! >> 6) << 4), (low >> 4) | ((out[4 + s]! >> 6) << 4)];
}

/** Low nibbles in pairs 32 values apart. */
function packNibbles(out: Uint8Array, at: number, levels: Uint8Array): void {
  for (let j = 0; j < 128; j++) {
    const l = 64 * (j >> 5) + (j & 31);
    out[at + j] = (levels[l]! & 15) | ((levels[l + 32]! & 15) << 4);
  }
}

function packQ5_K(out: Uint8Array, levels: Uint8Array): void {
  out.fill(0, 16, 48);
  for (let j = 0; j < 256; j++) out[16 + (j & 31)]! |= (levels[j]! >> 4) << (j >> 5);
  packNibbles(out, 48, levels);
}

/** How Q2_K is laid out. */
export const layoutQ2_K: AffineLayout = {
  bytes: 84,
  count: 16,
  top: 3,
  scaleTop: 15,
  plainLimit: 255,
  weightedLimit: 255,
  plain: affineSearch(3, { first: -0.5, step: 0.1, steps: 15 }, true),
  plainWeights: (values) => values.map((x) => abs(x)),
  squares: 1,
  halves: 80,
  packScales: packScalesQ2_K,
  scaleLevels: (out, s) => [out[s]! & 15, out[s]! >> 4],
  pack: packQ2_K,
};

/** Q2_K of whole blocks: a searched scale and minimum for every 16 values, in 4-bit steps of a half each. */
export const encodeQ2_K = encoder(layoutQ2_K);

/** How Q4_K is laid out. */
export const layoutQ4_K: AffineLayout = {
  bytes: 144,
  count: 32,
  top: 15,
  scaleTop: 63,
  plainLimit: 63,
  weightedLimit: 255,
  plain: affineSearch(15, { first: -1, step: 0.1, steps: 20 }),
  plainWeights: spreadWeights,
  squares: 2,
  halves: 0,
  packScales: packPairs,
  scaleLevels: pairOf,
  pack: (out, levels) => packNibbles(out, 16, levels),
};

/** Q4_K of whole blocks: a searched scale and minimum for every 32 values, in 6-bit steps of a half each. */
export const encodeQ4_K = encoder(layoutQ4_K);

/** How Q5_K is laid out. */
export const layoutQ5_K: AffineLayout = {
  bytes: 176,
  count: 32,
  top: 31,
  scaleTop: 63,
  plainLimit: 63,
  weightedLimit: 63,
  plain: affineSearch(31, { first: -0.5, step: 0.1, steps: 15 }),
  plainWeights: spreadWeights,
  squares: 2,
  halves: 0,
  packScales: packPairs,
  scaleLevels: pairOf,
  pack: packQ5_K,
};

/** Q5_K of whole blocks: as Q4_K, with levels of five bits. */
export const encodeQ5_K = encoder(layoutQ5_K);
