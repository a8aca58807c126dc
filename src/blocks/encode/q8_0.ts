import { floatToHalf } from "../floats.js";

const { abs, fround, sign, trunc } = Math;

/** Rounds half away from zero, as C's roundf: a level has too few bits for the sum to be inexact. */
function round(value: number): number {
  return trunc(value + 0.5 * sign(value));
}

/** Q8_0 of whole blocks: the largest magnitude becomes ±127. */
export function encodeQ8_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 32, at += 34) {
    let largest = 0;
    for (let j = o; j < o + 32; j++) largest = Math.max(largest, abs(values[j]!));
    const d = fround(largest / 127);
    const inverse = d === 0 ? 0 : fround(1 / d);
    const half = floatToHalf(d);
    out[at] = half;
    out[at + 1] = half >>> 8;
    for (let j = 0; j < 32; j++) {
      // An infinite inverse belongs to a scale that the half rounds to zero: ggml on x86-64 stores zeros.
      out[at + 2 + j] = inverse === Infinity ? 0 : round(fround(values[o + j]! * inverse));
    }
  }
}
