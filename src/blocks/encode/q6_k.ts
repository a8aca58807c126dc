import { floatToHalf, halfToFloat } from "../floats.js";

const { abs, fround, max, min } = Math;

/** Blocks and sub-blocks whose magnitudes stay below this are stored as zero. */
const negligible = fround(1e-15);

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const magic = 12582912;

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** ggml's nearest integer: exact up to 2^22, a fixed bit pattern of the argument beyond (0 for NaN). */
function nearest(value: number): number {
  float[0] = fround(value) + magic;
  return (bits[0]! & 0x7fffff) - 0x400000;
}

function clamp(level: number): number {
  return max(-32, min(31, level));
}

/** Inverse scales that the search tries, times the value of largest magnitude, the plain one first. */
const trials: readonly number[] = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(
  (step) => -fround(32 + fround(fround(0.1) * step)),
);

/**
 * Scale of 16 values on levels −32…31 that minimises the squared error weighted by x², as far as the trials
 * find it. Sums are float32 in the order of the values. The levels (plus 32) go to `levels`.
 */
function searchScale(values: Float32Array, o: number, levels: Uint8Array, l: number): number {
  let largest = 0;
  for (let j = o; j < o + 16; j++) {
    if (abs(values[j]!) > abs(largest)) largest = values[j]!;
  }
  if (abs(largest) < negligible) {
    levels.fill(0, l, l + 16);
    return 0;
  }
  let scale = 0;
  let best = 0;
  for (const [t, trial] of trials.entries()) {
    const inverse = fround(trial / largest);
    let product = 0;
    let square = 0;
    for (let j = o; j < o + 16; j++) {
      const x = values[j]!;
      const level = clamp(nearest(inverse * x));
      const weight = fround(x * x);
      product = fround(product + fround(fround(weight * x) * level));
      square = fround(square + fround(fround(weight * level) * level));
    }
    const better = t === 0 || (square > 0 && fround(product * product) > fround(best * square));
    if (!better) continue;
    scale = square === 0 ? 0 : fround(product / square);
    best = fround(scale * product);
    for (let j = 0; j < 16; j++) levels[l + j] = clamp(nearest(inverse * values[o + j]!)) + 32;
  }
  return scale;
}

/** Q6_K of whole blocks: a searched scale for every 16 values, in 8-bit steps of one half for all 256. */
export function encodeQ6_K(values: Float32Array, out: Uint8Array): void {
  const levels = new Uint8Array(256);
  const scales = new Float32Array(16);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 210) {
    let largest = 0;
    for (let s = 0; s < 16; s++) {
      scales[s] = searchScale(values, o + 16 * s, levels, 16 * s);
      if (abs(scales[s]!) > abs(largest)) largest = scales[s]!;
    }
    out.fill(0, at, at + 210);
    if (abs(largest) < negligible) continue;
    const inverse = fround(-128 / largest);
    const half = floatToHalf(1 / inverse);
    out[at + 208] = half;
    out[at + 209] = half >>> 8;
    for (let s = 0; s < 16; s++) {
      const code = min(127, nearest(inverse * scales[s]!));
      out[at + 192 + s] = code;
      const d = fround(halfToFloat(half) * code);
      if (d === 0) continue;
      for (let j = 16 * s; j < 16 * s + 16; j++) levels[j] = clamp(nearest(values[o + j]! / d)) + 32;
    }
    for (let e = 0; e < 256; e++) {
      const h = e >> 7;
      const group = (e >> 5) & 3;
      const l = e & 31;
      out[at + 64 * h + l + 32 * (group & 1)]! |= (levels[e]! & 15) << (4 * (group >> 1));
      out[at + 128 + 32 * h + l]! |= (levels[e]! >> 4) << (2 * group);
    }
  }
}
