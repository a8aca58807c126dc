import { nearest } from "../nearest.js";

const { fround } = Math;

/** The digit, up to `top`, whose step 2·digit + 1 is nearest to a value at an inverse scale. */
export function digitOf(value: number, inverse: number, top: number): number {
  const step = fround(fround(inverse * value) - 1);
  return Math.max(0, Math.min(top, nearest(fround(0.5 * step))));
}
