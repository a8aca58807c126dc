import { nearest } from "./nearest.js";

const { abs, fround, max, min } = Math;

/** Values whose magnitudes stay below this are stored as zero. */
export const negligible = fround(1e-15);

/** Inverse scales are tried in tenths of a level around the plain one, which comes first. */
const steps: readonly number[] = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/** The first of the values whose magnitude is largest; 0 for none. */
export function extremeOf(values: Float32Array): number {
  let extreme = 0;
  for (const value of values) if (abs(value) > abs(extreme)) extreme = value;
  return extreme;
}

/** Nearest of the levels −bound…bound − 1. */
export function levelOf(value: number, bound: number): number {
  return max(-bound, min(bound - 1, nearest(value)));
}

/**
 * The scale on levels −bound…bound − 1 that leaves the smallest weighted squared error, as far as the trials
 * find it. Sums are float32 in the order of the values. The levels plus `bound` go to `levels`, or zeros where
 * all values are negligible.
 */
export function searchScale(
  values: Float32Array,
  weights: Float32Array,
  bound: number,
  levels: Uint8Array,
): number {
  const extreme = extremeOf(values);
  if (abs(extreme) < negligible) {
    levels.fill(0);
    return 0;
  }
  let scale = 0;
  let best = 0;
  for (const step of steps) {
    const inverse = fround(-fround(bound + fround(fround(0.1) * step)) / extreme);
    let product = 0;
    let square = 0;
    for (const [j, x] of values.entries()) {
      const level = levelOf(inverse * x, bound);
      const weight = weights[j]!;
      product = fround(product + fround(fround(weight * x) * level));
      square = fround(square + fround(fround(weight * level) * level));
    }
    const better = step === 0 || (square > 0 && fround(product * product) > fround(best * square));
    if (!better) continue;
    scale = square === 0 ? 0 : fround(product / square);
    best = fround(scale * product);
    for (const [j, x] of values.entries()) levels[j] = levelOf(inverse * x, bound) + bound;
  }
  return scale;
}

/** Writes the levels (plus `bound`) of values that are stored with scale `d`; a scale of 0 leaves them. */
export function assignLevels(values: Float32Array, d: number, bound: number, levels: Uint8Array): void {
  if (d === 0) return;
  for (const [j, x] of values.entries()) levels[j] = levelOf(x / d, bound) + bound;
}
