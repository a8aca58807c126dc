import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compare, perplexity, quantile, type Rows } from "../../src/verify/statistics.js";
import { column, pairColumns } from "../../src/verify/visitor.js";

const row = fc.tuple(
  fc.double({ min: 0.001, max: 20, noNaN: true }),
  fc.double({ min: 0.001, max: 20, noNaN: true }),
  fc.double({ min: 0, max: 5, noNaN: true }),
  fc.constantFrom(0, 1),
);

function rowsOf(list: readonly (readonly number[])[]): Rows {
  return { columns: pairColumns, values: Float64Array.from(list.flat()) };
}

const mean = (list: readonly number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;

/** llama-perplexity's way: raw moments. */
function moments(list: readonly number[]): { value: number; error: number } {
  const value = mean(list);
  const variance = mean(list.map((x) => x * x)) - value * value;
  return { value, error: Math.sqrt(Math.max(0, variance) / (list.length - 1)) };
}

/** Whether two numbers agree to a share of 1 + |expected|. */
function near(found: number, expected: number, tolerance = 1e-7): boolean {
  return Math.abs(found - expected) <= tolerance * (1 + Math.abs(expected));
}

describe("statistics of scored positions", () => {
  it("are llama-perplexity's, computed from raw moments", () => {
    fc.assert(
      fc.property(fc.array(row, { minLength: 12, maxLength: 60 }), (list) => {
        const found = compare(rowsOf(list));
        const base = list.map((r) => r[0]);
        const other = list.map((r) => r[1]);
        const b = moments(base);
        const o = moments(other);
        const covariance = (mean(list.map((r) => r[0] * r[1])) - b.value * o.value) / (list.length - 1);
        const pplBase = Math.exp(b.value);
        const pplOther = Math.exp(o.value);

        expect(near(perplexity(rowsOf(list), column.candidateNll).value, pplOther)).toBe(true);
        expect(near(perplexity(rowsOf(list), column.candidateNll).error, pplOther * o.error)).toBe(true);
        expect(near(found.referencePerplexity.value, pplBase)).toBe(true);
        expect(near(found.referencePerplexity.error, pplBase * b.error)).toBe(true);
        expect(near(found.logRatio.value, o.value - b.value)).toBe(true);
        const ratioError = Math.sqrt(Math.max(0, o.error ** 2 + b.error ** 2 - 2 * covariance));
        expect(near(found.logRatio.error, ratioError, 1e-6)).toBe(true);
        expect(near(found.ratio.value, Math.exp(o.value - b.value))).toBe(true);
        expect(near(found.ratio.error, Math.exp(o.value - b.value) * ratioError, 1e-5)).toBe(true);
        expect(near(found.difference.value, pplOther - pplBase)).toBe(true);
        expect(
          near(
            found.difference.error ** 2,
            Math.max(
              0,
              (pplOther * o.error) ** 2 + (pplBase * b.error) ** 2 - 2 * pplOther * pplBase * covariance,
            ),
          ),
        ).toBe(true);
        expect(
          near(found.correlation ?? 0, o.error * b.error > 0 ? covariance / (o.error * b.error) : 0, 1e-5),
        ).toBe(true);

        const kl = moments(list.map((r) => r[2]));
        expect(near(found.divergence.value, kl.value)).toBe(true);
        expect(near(found.divergence.error, kl.error)).toBe(true);
        const same = mean(list.map((r) => r[3]));
        expect(near(found.topAgreement.value, same)).toBe(true);
        expect(near(found.topAgreement.error, Math.sqrt((same * (1 - same)) / (list.length - 1)))).toBe(true);

        const change = list.map((r) => Math.exp(-r[1]) - Math.exp(-r[0]));
        const p = moments(change);
        expect(near(found.probabilityChange.value, p.value)).toBe(true);
        expect(near(found.probabilityChange.error, p.error)).toBe(true);
        const square = moments(change.map((x) => x * x));
        expect(near(found.probabilityChange.rms.value, Math.sqrt(square.value))).toBe(true);
        expect(
          near(found.probabilityChange.rms.error, (0.5 / Math.sqrt(square.value)) * square.error, 1e-6),
        ).toBe(true);
      }),
      { seed: 3, numRuns: 60 },
    );
  });

  it("rank as llama-perplexity ranks: (n − 1) · fraction, neighbours interpolated", () => {
    const sorted = Float64Array.of(1, 2, 4, 8, 16);
    expect(quantile(sorted, 0)).toBe(1);
    expect(quantile(sorted, 1)).toBe(16);
    expect(quantile(sorted, 0.5)).toBe(4);
    expect(quantile(sorted, 0.9)).toBeCloseTo(8 + 0.6 * 8, 12);
    expect(quantile(Float64Array.of(1, 2, 4, 8), 0.5)).toBe(3);
    expect(quantile(Float64Array.of(7), 0.99)).toBe(7);
  });

  it("orders values by size, not by text, and keeps all quantiles in order", () => {
    const list = [10, 9, 100, 1, 2].map((kl) => [1, 1, kl, 1]);
    const { divergence } = compare(rowsOf(list));
    expect(divergence.min).toBe(1);
    expect(divergence.median).toBe(9);
    expect(divergence.max).toBe(100);
    const { min, p0_1, p1, p5, p10, median, p90, p95, p99, p99_9, max } = divergence;
    const order = [min, p0_1, p1, p5, p10, median, p90, p95, p99, p99_9, max];
    expect(order.toSorted((a, b) => a - b)).toEqual(order);
  });

  it("stay plain numbers for a single position and for models that are the same", () => {
    const one = compare(rowsOf([[2, 2, 0, 1]]));
    expect(one.logRatio).toEqual({ value: 0, error: 0 });
    expect(one.correlation).toBeNull();
    const equal = compare(
      rowsOf([
        [1, 1, 0, 1],
        [3, 3, 0, 1],
        [2, 2, 0, 1],
      ]),
    );
    expect(equal.ratio).toEqual({ value: 1, error: 0 });
    expect(equal.difference).toEqual({ value: 0, error: 0 });
    expect(equal.correlation).toBeCloseTo(1, 12);
    expect(equal.probabilityChange.rms).toEqual({ value: 0, error: 0 });
    expect(JSON.parse(JSON.stringify(equal))).toEqual(equal);
  });
});
