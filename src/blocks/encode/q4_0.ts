import { floatToHalf } from "../floats.js";

const { abs, fround, min, trunc } = Math;

/** Q4_0 of whole blocks: the first value of largest magnitude becomes level −8, whatever its sign. */
export function encodeQ4_0(values: Float32Array, out: Uint8Array): void {
  for (let o = 0, at = 0; o < values.length; o += 32, at += 18) {
    let largest = 0;
    for (let j = o; j < o + 32; j++) {
      if (abs(values[j]!) > abs(largest)) largest = values[j]!;
    }
    const d = fround(largest / -8);
    const inverse = d === 0 ? 0 : fround(1 / d);
    const level = (value: number): number =>
      // An infinite inverse belongs to a scale that the half rounds to zero: ggml on x86-64 stores zeros.
      abs(inverse) === Infinity ? 0 : min(15, trunc(fround(fround(value * inverse) + 8.5)));
    const half = floatToHalf(d);
    out[at] = half;
    out[at + 1] = half >>> 8;
    for (let j = 0; j < 16; j++) {
      out[at + 2 + j] = level(values[o + j]!) | (level(values[o + j + 16]!) << 4);
    }
  }
}
