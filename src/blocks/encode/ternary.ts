import { floatToHalf } from "../floats.js";

const { abs, ceil, fround } = Math;

/**
 * Trits 0, 1, 2 for −d, 0 and d, with d the largest magnitude: multiples of d rounded half away from zero. Where
 * the inverse of d is infinite, d is a zero as a half; ggml on x86-64 then stores `lost`.
 */
function trits(values: Float32Array, lost: number): { d: number; levels: Uint8Array } {
  let d = 0;
  for (const x of values) d = Math.max(d, abs(x));
  const inverse = d === 0 ? 0 : fround(1 / d);
  const levels = Uint8Array.from(values, (x) => {
    if (inverse === Infinity) return lost;
    const multiple = fround(x * inverse);
    return multiple >= 0.5 ? 2 : multiple <= -0.5 ? 0 : 1;
  });
  return { d, levels };
}

function storeHalf(value: number, out: Uint8Array, at: number): void {
  const half = floatToHalf(value);
  out[at] = half;
  out[at + 1] = half >>> 8;
}

/** Runs of a TQ1_0 block: first byte, bytes, first value; byte m takes the values m, m + bytes, … of its run. */
const runs: readonly (readonly [number, number, number])[] = [
  [0, 32, 0],
  [32, 16, 160],
  [48, 4, 240],
];

/** Writes a TQ1_0 block: a byte holds five trits as a fraction of 3^5, in steps of 1/256; the last hold four. */
export function storeTQ1_0(levels: Uint8Array, d: number, out: Uint8Array, at: number): void {
  for (const [first, bytes, start] of runs) {
    for (let m = 0; m < bytes; m++) {
      let number = 0;
      for (let n = 0; n < 5; n++) number = 3 * number + (levels[start + m + n * bytes] ?? 0);
      out[at + first + m] = ceil((number * 256) / 243);
    }
  }
  storeHalf(d, out, at + 52);
}

/** Writes a TQ2_0 block: two bits a value, those of four values that are 32 apart in one byte. */
export function storeTQ2_0(levels: Uint8Array, d: number, out: Uint8Array, at: number): void {
  out.fill(0, at, at + 64);
  for (const [e, level] of levels.entries()) {
    out[at + 32 * (e >> 7) + (e & 31)]! |= level << (2 * ((e >> 5) & 3));
  }
  storeHalf(d, out, at + 64);
}

/** Writes a Q2_0 block: two bits a value, neighbours in one byte. */
export function storeQ2_0(levels: Uint8Array, d: number, out: Uint8Array, at: number): void {
  out.fill(0, at, at + 18);
  storeHalf(d, out, at);
  for (const [e, level] of levels.entries()) out[at + 2 + (e >> 2)]! |= level << (2 * (e & 3));
}

/** Writes a Q1_0 block: a bit for each value that is not negative. */
export function storeQ1_0(values: Float32Array, d: number, out: Uint8Array, at: number): void {
  out.fill(0, at, at + 18);
  storeHalf(d, out, at);
  for (const [j, x] of values.entries()) if (x >= 0) out[at + 2 + (j >> 3)]! |= 1 << (j & 7);
}

/** TQ1_0 of whole blocks. */
export function encodeTQ1_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 256, at += 54) {
    const { d, levels } = trits(values.subarray(o, o + 256), 1);
    storeTQ1_0(levels, d, out, at);
  }
}

/** TQ2_0 of whole blocks. */
export function encodeTQ2_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 256, at += 66) {
    const { d, levels } = trits(values.subarray(o, o + 256), 1);
    storeTQ2_0(levels, d, out, at);
  }
}

/** Q2_0 of whole blocks; ggml never writes the fourth level, 2d. */
export function encodeQ2_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 64, at += 18) {
    const { d, levels } = trits(values.subarray(o, o + 64), 0);
    storeQ2_0(levels, d, out, at);
  }
}

/** Q1_0 of whole blocks: d is the mean magnitude. */
export function encodeQ1_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 128, at += 18) {
    const block = values.subarray(o, o + 128);
    storeQ1_0(block, block.reduce((sum, x) => fround(sum + abs(x)), 0) / 128, out, at);
  }
}
