const { fround } = Math;

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const magic = 12582912;

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** ggml's nearest integer: exact up to 2^22, a fixed bit pattern of the argument beyond (0 for NaN). */
export function nearest(value: number): number {
  float[0] = fround(value) + magic;
  return (bits[0]! & 0x7fffff) - 0x400000;
}

/** The digit, up to `top`, whose step 2·digit + 1 is nearest to a value at an inverse scale. */
export function digitOf(value: number, inverse: number, top: number): number {
  const step = fround(fround(inverse * value) - 1);
  return Math.max(0, Math.min(top, nearest(fround(0.5 * step))));
}
