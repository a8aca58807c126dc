import { e2m1Levels, ue4m3 } from "../decode/codebook.js";

const { abs, floor, fround, log2, max, min, trunc } = Math;

/** Index of the doubled E2M1 number that lies nearest to a value in units of `d`, the first of two. */
function nearestCode(value: number, d: number): number {
  let code = 0;
  let least = abs(value);
  for (const [index, level] of e2m1Levels.entries()) {
    const error = abs(fround(fround(level * d) - value));
    if (error < least) {
      code = index;
      least = error;
    }
  }
  return code;
}

/** Writes `values` as nibbles: the first half of them low, the second half high. */
export function storeCodes(values: Float32Array, d: number, out: Uint8Array, at: number): void {
  const half = values.length / 2;
  for (let j = 0; j < half; j++) {
    out[at + j] = nearestCode(values[j]!, d) | (nearestCode(values[j + half]!, d) << 4);
  }
}

export function largestOf(values: Float32Array): number {
  return values.reduce((largest, x) => max(largest, abs(x)), 0);
}

/**
 * MXFP4's exponent that puts a largest magnitude between 4 and 8.
 *
 * The logarithm is a float32, as in ggml: just below a power of two it is already rounded up. The exponent is a
 * byte, and so wraps for magnitudes below 2^-125, where every code then is zero.
 */
export function exponentOf(largest: number): number {
  return largest === 0 ? 0 : (floor(fround(log2(largest))) + 125) & 255;
}

/** MXFP4 of whole blocks: 32 values share a power of two. */
export function encodeMXFP4(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 32, at += 17) {
    const block = values.subarray(o, o + 32);
    const exponent = exponentOf(largestOf(block));
    out[at] = exponent;
    storeCodes(block, 2 ** (exponent - 128), out, at + 1);
  }
}

/**
 * UE4M3 code of a number that is not negative: halves round up, from the exponent of 256 on every number becomes
 * the largest, 448, and no subnormal rounds up to a normal number.
 */
export function toUe4m3(value: number): number {
  const bits = new Int32Array(Float32Array.of(min(value, 448)).buffer)[0]!;
  if (bits >> 23 < 121) return min(7, trunc(fround(fround(value * 512) + 0.5)));
  const code = ((bits + 0x80000) >> 20) - (120 << 3);
  return code < 15 << 3 ? code : 0x7e;
}

/** NVFP4 of whole blocks: a UE4M3 scale for every 16 of 64 values, which puts the largest magnitude at 6. */
export function encodeNVFP4(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 64, at += 36) {
    for (let s = 0; s < 4; s++) {
      const group = values.subarray(o + 16 * s, o + 16 * s + 16);
      const scale = toUe4m3(fround(largestOf(group) / 6));
      out[at + s] = scale;
      storeCodes(group, ue4m3(scale) / 2, out, at + 4 + 8 * s);
    }
  }
}
