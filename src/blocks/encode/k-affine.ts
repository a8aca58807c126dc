import { floatToHalf, halfToFloat } from "../floats.js";
import type { Encoder } from "../types.js";
import { affineSearch, type AffineSearch, nearest, searchAffine, searchPositive } from "./affine.js";

const { abs, fround, max, min, sqrt } = Math;

/** What distinguishes the affine types with blocks of 256 values. */
interface Layout {
  readonly bytes: number;
  /** Values of a sub-block. */
  readonly count: number;
  /** Largest level of a value, and of a sub-block's scale and minimum. */
  readonly top: number;
  readonly scaleTop: number;
  readonly plain: AffineSearch;
  /** Weights of a sub-block when there is no importance. */
  readonly plainWeights: (values: Float32Array) => Float32Array;
  /** With an importance, the mean square of the block counts this many times in the weights. */
  readonly squares: number;
  /** Stores the scales, their levels and the levels of the values. */
  readonly pack: (out: Uint8Array, scales: BlockScales, levels: Uint8Array) => void;
}

/** Scales and minimums of a block: their levels, and the halves that these multiply. */
interface BlockScales {
  readonly scaleLevels: Uint8Array;
  readonly minimumLevels: Uint8Array;
  readonly d: number;
  readonly dMinimum: number;
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

/** Levels of scales in even steps up to the largest, and the half of such a step. */
function spreadScales(scales: Float32Array, top: number, levels: Uint8Array): number {
  const high = scales.reduce((a, b) => max(a, b), 0);
  const inverse = high > 0 ? fround(top / high) : 0;
  for (const [s, scale] of scales.entries()) levels[s] = min(top, nearest(inverse * scale) & 255);
  return floatToHalf(high / top);
}

/** Levels of the values under the stored scales; a sub-block whose scale became 0 keeps those of the search. */
function assignLevels(
  values: Float32Array,
  { count, top }: Layout,
  scales: BlockScales,
  levels: Uint8Array,
): void {
  for (let s = 0; s < 256 / count; s++) {
    const d = fround(halfToFloat(scales.d) * scales.scaleLevels[s]!);
    if (d === 0) continue;
    const minimum = fround(halfToFloat(scales.dMinimum) * scales.minimumLevels[s]!);
    for (let j = count * s; j < count * s + count; j++) {
      levels[j] = max(0, min(top, nearest(fround(values[j]! + minimum) / d)));
    }
  }
}

function encodeBlock(layout: Layout, values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
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
  const scaleLevels = new Uint8Array(subBlocks);
  const minimumLevels = new Uint8Array(subBlocks);
  const choose = (numbers: Float32Array, to: Uint8Array): number =>
    importance === undefined
      ? spreadScales(numbers, scaleTop, to)
      : floatToHalf(searchPositive(numbers, sums, scaleTop, to));
  const d = choose(scales, scaleLevels);
  const dMinimum = choose(minimums, minimumLevels);
  const blockScales = { scaleLevels, minimumLevels, d, dMinimum };
  assignLevels(values, layout, blockScales, levels);
  layout.pack(out, blockScales, levels);
}

function encoder(layout: Layout): Encoder {
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

function putHalves(out: Uint8Array, at: number, { d, dMinimum }: BlockScales): void {
  out.set([d & 255, d >>> 8, dMinimum & 255, dMinimum >>> 8], at);
}

function packQ2_K(out: Uint8Array, scales: BlockScales, levels: Uint8Array): void {
  for (let s = 0; s < 16; s++) out[s] = scales.scaleLevels[s]! | (scales.minimumLevels[s]! << 4);
  for (let j = 0; j < 64; j++) {
    const l = 128 * (j >> 5) + (j & 31);
    out[16 + j] = levels[l]! | (levels[l + 32]! << 2) | (levels[l + 64]! << 4) | (levels[l + 96]! << 6);
  }
  putHalves(out, 80, scales);
}

/** The eight pairs of six bits: four pairs as they are, the upper two bits of the others on top of those. */
function packPairs(out: Uint8Array, at: number, { scaleLevels, minimumLevels }: BlockScales): void {
  for (let s = 0; s < 4; s++) {
    const scale = scaleLevels[s + 4]!;
    const minimum = minimumLevels[s + 4]!;
    out[at + s] = scaleLevels[s]! | ((scale >> 4) << 6);
    out[at + s + 4] = minimumLevels[s]! | ((minimum >> 4) << 6);
    out[at + s + 8] = (scale & 15) | ((minimum & 15) << 4);
  }
}

function packQ4_K(out: Uint8Array, scales: BlockScales, levels: Uint8Array): void {
  putHalves(out, 0, scales);
  packPairs(out, 4, scales);
  for (let j = 0; j < 128; j++) {
    const l = 64 * (j >> 5) + (j & 31);
    out[16 + j] = levels[l]! | (levels[l + 32]! << 4);
  }
}

function packQ5_K(out: Uint8Array, scales: BlockScales, levels: Uint8Array): void {
  putHalves(out, 0, scales);
  packPairs(out, 4, scales);
  out.fill(0, 16, 48);
  for (let j = 0; j < 256; j++) out[16 + (j & 31)]! |= (levels[j]! >> 4) << (j >> 5);
  for (let j = 0; j < 128; j++) {
    const l = 64 * (j >> 5) + (j & 31);
    out[48 + j] = (levels[l]! & 15) | ((levels[l + 32]! & 15) << 4);
  }
}

/** Q2_K of whole blocks: a searched scale and minimum for every 16 values, in 4-bit steps of a half each. */
export const encodeQ2_K = encoder({
  bytes: 84,
  count: 16,
  top: 3,
  scaleTop: 15,
  plain: affineSearch(3, { first: -0.5, step: 0.1, steps: 15 }, true),
  plainWeights: (values) => values.map((x) => abs(x)),
  squares: 1,
  pack: packQ2_K,
});

/** Q4_K of whole blocks: a searched scale and minimum for every 32 values, in 6-bit steps of a half each. */
export const encodeQ4_K = encoder({
  bytes: 144,
  count: 32,
  top: 15,
  scaleTop: 63,
  plain: affineSearch(15, { first: -1, step: 0.1, steps: 20 }),
  plainWeights: spreadWeights,
  squares: 2,
  pack: packQ4_K,
});

/** Q5_K of whole blocks: as Q4_K, with levels of five bits. */
export const encodeQ5_K = encoder({
  bytes: 176,
  count: 32,
  top: 31,
  scaleTop: 63,
  plain: affineSearch(31, { first: -0.5, step: 0.1, steps: 15 }),
  plainWeights: spreadWeights,
  squares: 2,
  pack: packQ5_K,
});
