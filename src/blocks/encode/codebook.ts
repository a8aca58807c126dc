import { iq4Levels } from "../decode/codebook.js";
import { floatToHalf } from "../floats.js";
import { extremeOf, levelOf, negligible } from "./symmetric.js";

const { abs, fround, sqrt } = Math;

/** Half way between neighbouring levels. */
const midpoints: readonly number[] = iq4Levels.slice(1).map((level, i) => (iq4Levels[i]! + level) / 2);

/**
 * Index of the level nearest to a value; a value half way between two belongs to the upper one. ggml compares
 * float32 differences to both neighbours, which are exact wherever the comparison is close.
 */
export function nearestIndex(value: number): number {
  const above = midpoints.findIndex((midpoint) => value < midpoint);
  return above < 0 ? midpoints.length : above;
}

/** Weights of values: x², or the importance times the magnitude smoothed by a mean square. */
function weightsOf(values: Float32Array, spread: number, importance: Float32Array | undefined): Float32Array {
  if (importance === undefined) return values.map((x) => x * x);
  return values.map((x, j) => importance[j]! * fround(sqrt(fround(spread + fround(x * x)))));
}

/** Twice the mean square of values, summed in their order. */
function spreadOf(values: Float32Array): number {
  let sum = 0;
  for (const x of values) sum = fround(sum + fround(x * x));
  return fround(sum * (2 / values.length));
}

/**
 * The scale of 32 values on the levels that leaves the smallest weighted squared error, as far as the trials
 * find it: first one that puts the extreme value on 127, then those that put it on −134…−120.
 */
function searchScale(values: Float32Array, weights: Float32Array): number {
  const extreme = extremeOf(values);
  if (abs(extreme) < negligible) return 0;
  const inverses = [fround(1 / fround(extreme / 127))];
  for (let trial = -7; trial <= 7; trial++) inverses.push(fround((trial - 127) / extreme));
  let scale = 0;
  let best = 0;
  for (const [t, inverse] of inverses.entries()) {
    let product = 0;
    let square = 0;
    for (const [j, x] of values.entries()) {
      const level = iq4Levels[nearestIndex(fround(inverse * x))]!;
      const weighted = fround(weights[j]! * level);
      product = fround(product + fround(weighted * x));
      square = fround(square + fround(weighted * level));
    }
    const better = t === 0 || (square > 0 && fround(product * product) > fround(best * square));
    if (!better) continue;
    scale = square > 0 ? fround(product / square) : 0;
    best = fround(scale * product);
  }
  return scale;
}

/** Packs the indices of 32 values for a scale: value j with value j + 16. */
export function packIndices(values: Float32Array, scale: number, out: Uint8Array): void {
  const inverse = scale === 0 ? 0 : fround(1 / scale);
  for (let j = 0; j < 16; j++) {
    const low = nearestIndex(fround(inverse * values[j]!));
    out[j] = low | (nearestIndex(fround(inverse * values[j + 16]!)) << 4);
  }
}

/** The scale that ggml's method finds for a block of IQ4_NL. */
export function scaleOfNL(block: Float32Array, importance: Float32Array | undefined): number {
  return searchScale(block, weightsOf(block, spreadOf(block), importance));
}

/** IQ4_NL of whole blocks: a searched scale for every 32 values on the 16 uneven levels. */
export function encodeIQ4_NL(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < values.length; o += 32, at += 18) {
    const block = values.subarray(o, o + 32);
    const scale = scaleOfNL(block, importance?.subarray(o, o + 32));
    const half = floatToHalf(scale);
    out[at] = half;
    out[at + 1] = half >>> 8;
    packIndices(block, scale, out.subarray(at + 2, at + 18));
  }
}

/** Packs 8 codes 0…63: their nibbles, then the two high bits of each. */
export function packCodes(codes: Uint8Array, out: Uint8Array): void {
  for (const [s, code] of codes.entries()) {
    out[2 + (s >> 1)]! |= (code & 15) << (4 * (s & 1));
    out[s >> 2]! |= (code >> 4) << (2 * (s & 3));
  }
}

/** The step that ggml's method finds for a block of IQ4_XS; the codes of its scales, plus 32, go to `codes`. */
export function stepOfXS(
  block: Float32Array,
  importance: Float32Array | undefined,
  codes: Uint8Array,
): number {
  const weights = weightsOf(block, spreadOf(block), importance);
  const scales = new Float32Array(8);
  for (let s = 0; s < 8; s++) {
    scales[s] = searchScale(block.subarray(32 * s, 32 * s + 32), weights.subarray(32 * s, 32 * s + 32));
  }
  const step = fround(-extremeOf(scales) / 32);
  const inverse = step === 0 ? 0 : fround(1 / step);
  for (const [s, scale] of scales.entries()) codes[s] = levelOf(inverse * scale, 32) + 32;
  return step;
}

/** IQ4_XS of whole blocks: like IQ4_NL, with the scales of 256 values in 6-bit steps of one half. */
export function encodeIQ4_XS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const codes = new Uint8Array(8);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 136) {
    const block = values.subarray(o, o + 256);
    const step = stepOfXS(block, importance?.subarray(o, o + 256), codes);
    const half = floatToHalf(step);
    out.fill(0, at, at + 8);
    out[at] = half;
    out[at + 1] = half >>> 8;
    packCodes(codes, out.subarray(at + 2, at + 8));
    for (const [s, code] of codes.entries()) {
      // The step itself, not its half: ggml assigns the levels before it rounds.
      const scale = fround(step * (code - 32));
      packIndices(
        block.subarray(32 * s, 32 * s + 32),
        scale,
        out.subarray(at + 8 + 16 * s, at + 24 + 16 * s),
      );
    }
  }
}
