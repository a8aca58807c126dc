/**
 * MXFP4 and NVFP4: of the scales near the one that fits the largest magnitude, the one with the least weighted squared
 * error. Sums are float32 in the order of the values; `fround` stands wherever the kernels round.
 */
import { ue4m3 } from "../decode/codebook.js";
import { exponentOf, largestOf, storeCodes, toUe4m3 } from "../encode/fp4.js";
import { blockWeights } from "./importance.js";

const { abs, fround, max, min } = Math;

/** Doubled E2M1 number nearest to a magnitude in units of the scale; of two the even one. */
function nearestLevel(units: number): number {
  const within = min(12, units);
  const step = within < 4 ? 1 : within < 8 ? 2 : 4;
  return step * fround(fround(within / step + 12582912) - 12582912);
}

function errorOf(values: Float32Array, weights: Float32Array, d: number): number {
  const inverse = d === 0 ? 0 : fround(1 / d);
  let error = 0;
  for (const [j, x] of values.entries()) {
    const off = fround(abs(x) - fround(d * nearestLevel(fround(abs(x) * inverse))));
    error = fround(error + fround(weights[j]! * fround(off * off)));
  }
  return error;
}

/** The first of the codes whose scale leaves the least error. */
function bestCode(
  values: Float32Array,
  weights: Float32Array,
  codes: readonly number[],
  scaleOf: (code: number) => number,
): number {
  let best = 0;
  let least = Infinity;
  for (const code of codes) {
    const error = errorOf(values, weights, scaleOf(code));
    if (!(error < least)) continue;
    least = error;
    best = code;
  }
  return best;
}

/** Largest magnitude of values that have a weight. */
function largestWeighed(values: Float32Array, weights: Float32Array): number {
  return largestOf(values.filter((_, j) => weights[j]! > 0));
}

/** Exponents beside the one that puts the largest magnitude between 4 and 8. */
const exponents: readonly number[] = [0, -1, 1, -2];

/** Magnitudes below this all have the exponents of this one: their errors are too small for a float32. */
const tiny = 2 ** -60;

/** MXFP4 of whole blocks: 32 values share a power of two. ggml's is the first that is tried. */
export function searchMXFP4(row: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < row.length; o += 32, at += 17) {
    const block = row.subarray(o, o + 32);
    const weights = blockWeights(32, importance?.subarray(o, o + 32));
    const near = exponentOf(max(tiny, largestWeighed(block, weights)));
    const tried = [exponentOf(largestOf(block)), ...exponents.map((beside) => near + beside)];
    // The inverse of a scale of exponent 0 or 1 has no float32, and the errors of such blocks have none either.
    const exponent = bestCode(block, weights, tried, (code) => 2 ** (max(2, code) - 128));
    out[at] = exponent;
    storeCodes(block, 2 ** (exponent - 128), out, at + 1);
  }
}

/** How far around the code that puts the largest magnitude at 6 the codes are tried: from 3/5 to nearly twice. */
const below = 6;
const above = 7;

/** NVFP4 of whole blocks: a UE4M3 scale for every 16 of 64 values. ggml's is the first that is tried. */
export function searchNVFP4(row: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0; o < row.length; o += 16) {
    const group = row.subarray(o, o + 16);
    const weights = blockWeights(16, importance?.subarray(o, o + 16));
    const near = toUe4m3(fround(largestWeighed(group, weights) / 6));
    const tried = [toUe4m3(fround(largestOf(group) / 6))];
    for (let beside = -below; beside <= above; beside++) tried.push(max(0, min(126, near + beside)));
    const code = bestCode(group, weights, tried, (tried) => ue4m3(tried) / 2);
    const at = 36 * Math.floor(o / 64);
    const s = (o / 16) % 4;
    out[at + s] = code;
    storeCodes(group, ue4m3(code) / 2, out, at + 4 + 8 * s);
  }
}
