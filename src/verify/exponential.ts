/** Steps into which a power of two is cut: e^x = 2^(−k / steps) · e^r with |r| ≤ ln 2 / (2 · steps). */
const steps = 128;
const perUnit = steps / Math.LN2;
const unit = Math.LN2 / steps;

/**
 * Below this a term of a softmax's sum is taken for 0: all of 262,144 such terms are 5e-30 of the largest
 * one, far under the last bit of the sum.
 */
export const vanishing = -80;

/** 2^(−k / steps) for every k down to that of `vanishing`; 120 KB, of which ordinary logits use a quarter. */
const powers = Float64Array.from(
  { length: Math.ceil(-vanishing * perUnit) + 1 },
  (_, k) => 2 ** (-k / steps),
);

/**
 * e^x for `vanishing` ≤ x ≤ 0, to 2e-14 of its value, and to 2e-15 where it is large enough to matter.
 *
 * A row of logits needs a quarter of a million of these. `Math.exp` takes 10 ns a call; the table and the
 * polynomial together take 3 ns.
 */
export function exponential(x: number): number {
  const k = (0.5 - x * perUnit) | 0;
  const r = x + k * unit;
  return (powers[k] as number) * (1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24)))));
}
