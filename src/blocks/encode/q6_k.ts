import { floatToHalf, halfToFloat } from "../floats.js";
import { nearest } from "./nearest.js";
import { assignLevels, extremeOf, negligible, searchScale } from "./symmetric.js";

const { abs, fround, min } = Math;

/** Packs 256 levels 0…63: nibbles, then the two high bits of each. */
export function packLevels(levels: Uint8Array, out: Uint8Array): void {
  for (const [e, level] of levels.entries()) {
    const h = e >> 7;
    const group = (e >> 5) & 3;
    const l = e & 31;
    out[64 * h + l + 32 * (group & 1)]! |= (level & 15) << (4 * (group >> 1));
    out[128 + 32 * h + l]! |= (level >> 4) << (2 * group);
  }
}

/**
 * Q6_K of whole blocks: a searched scale for every 16 values, in 8-bit steps of one half for all 256. Errors
 * weigh by the importance, or by x² without one.
 */
export function encodeQ6_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const weights = importance ?? values.map((x) => x * x);
  const levels = new Uint8Array(256);
  const scales = new Float32Array(16);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 210) {
    const subBlock = (s: number): Float32Array => values.subarray(o + 16 * s, o + 16 * s + 16);
    const levelsOf = (s: number): Uint8Array => levels.subarray(16 * s, 16 * s + 16);
    for (let s = 0; s < 16; s++) {
      const weightsOf = weights.subarray(o + 16 * s, o + 16 * s + 16);
      scales[s] = searchScale(subBlock(s), weightsOf, 32, levelsOf(s));
    }
    const block = out.subarray(at, at + 210).fill(0);
    const largest = extremeOf(scales);
    if (abs(largest) < negligible) continue;
    const inverse = fround(-128 / largest);
    const half = floatToHalf(1 / inverse);
    block[208] = half;
    block[209] = half >>> 8;
    for (let s = 0; s < 16; s++) {
      const code = min(127, nearest(inverse * scales[s]!));
      block[192 + s] = code;
      assignLevels(subBlock(s), fround(halfToFloat(half) * code), 32, levelsOf(s));
    }
    packLevels(levels, block);
  }
}
