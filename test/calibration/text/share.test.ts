import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { shareWindows } from "../../../calibration/text/share.js";

const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0);

/** Shares before rounding: one factor for all weights, as large as the total allows, found by halving. */
function level(total: number, weights: readonly number[], available: readonly number[]): number[] {
  const at = (factor: number): number[] =>
    weights.map((weight, index) => Math.min(available[index] ?? 0, factor * weight));
  let low = 0;
  let high = 1e6;
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (sum(at(middle)) < total) low = middle;
    else high = middle;
  }
  return at(high);
}

describe("shareWindows", () => {
  it("gives the largest remainders one more", () => {
    // Ideal shares 5.33, 2.67 and 2.
    expect(shareWindows(10, [4, 2, 1.5], [99, 99, 99])).toEqual([5, 3, 2]);
    expect(shareWindows(10, [1, 1, 1], [99, 99, 99])).toEqual([4, 3, 3]);
    expect(shareWindows(200, [1], [1000])).toEqual([200]);
  });

  it("hands on what a source lacks, in proportion to the other weights", () => {
    expect(shareWindows(100, [1, 1, 2], [10, 99, 99])).toEqual([10, 30, 60]);
    // The rest of the first makes the second short in turn.
    expect(shareWindows(100, [2, 1, 1], [10, 40, 999])).toEqual([10, 40, 50]);
    expect(shareWindows(100, [1, 5], [3, 4])).toEqual([3, 4]);
    expect(shareWindows(7, [1, 1], [0, 99])).toEqual([0, 7]);
  });

  it("never gives more than there is, loses none, and stays within one window of the ideal", () => {
    const source = fc.record({
      weight: fc.double({ min: 0.001, max: 1e6, noNaN: true }),
      available: fc.nat({ max: 400 }),
    });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.array(source, { minLength: 1, maxLength: 12 }),
        (total, sources) => {
          const weights = sources.map(({ weight }) => weight);
          const available = sources.map((one) => one.available);
          const shares = shareWindows(total, weights, available);
          expect(sum(shares)).toBe(Math.min(total, sum(available)));
          const ideal = level(total, weights, available);
          for (const [index, share] of shares.entries()) {
            expect(Number.isInteger(share) && share >= 0 && share <= (available[index] ?? 0)).toBe(true);
            expect(Math.abs(share - (ideal[index] ?? 0))).toBeLessThan(1 + 1e-6);
          }
        },
      ),
    );
  });
});
