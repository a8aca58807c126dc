import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { column, createVisitor, pairColumns, singleColumns } from "../../src/verify/visitor.js";

/** log-softmax written as the definition says, one sorted sum at a time so that rounding stays small. */
function logSoftmax(row: Float32Array): number[] {
  const shift = Math.max(...row);
  const sum = [...row]
    .map((value) => Math.exp(value - shift))
    .toSorted((a, b) => a - b)
    .reduce((total, value) => total + value, 0);
  return [...row].map((value) => value - shift - Math.log(sum));
}

/** The first of the largest. */
function top(row: Float32Array): number {
  return row.indexOf(Math.max(...row));
}

function naive(base: Float32Array, other: Float32Array, target: number): number[] {
  const p = logSoftmax(base);
  const q = logSoftmax(other);
  const divergence = p.reduce(
    (sum, log, i) => (log === -Infinity ? sum : sum + Math.exp(log) * (log - (q[i] ?? Number.NaN))),
    0,
  );
  return [
    -(p[target] ?? Number.NaN),
    -(q[target] ?? Number.NaN),
    divergence,
    top(base) === top(other) ? 1 : 0,
  ];
}

function visit(rows: Float32Array[], target: number): Float64Array {
  const visitor = createVisitor((rows[0] as Float32Array).length, rows.length);
  const out = new Float64Array(visitor.columns);
  visitor.visit(rows, target, out);
  return out;
}

/** Largest error relative to 1 + |expected|; infinities have to be met exactly. */
function worst(found: Float64Array, expected: readonly number[]): number {
  const errors = expected.map((value, index) => {
    const got = found[index] ?? Number.NaN;
    if (got === value) return 0;
    return Number.isFinite(value) ? Math.abs(got - value) / (1 + Math.abs(value)) : Infinity;
  });
  return found.length === expected.length ? Math.max(...errors) : Infinity;
}

const tolerance = 1e-11;

const logits = (length: number, bound: number): fc.Arbitrary<Float32Array> =>
  fc.float32Array({ minLength: length, maxLength: length, min: -bound, max: bound, noNaN: true });

describe("the visitor", () => {
  it.each([1, 3, 4, 7, 64, 257])("agrees with a naive double-precision softmax over %i tokens", (length) => {
    fc.assert(
      fc.property(logits(length, 30), logits(length, 30), fc.nat(length - 1), (base, other, target) => {
        const expected = naive(base, other, target);
        expect(worst(visit([base, other], target), expected)).toBeLessThan(tolerance);
        expect(worst(visit([other], target), [expected[1] ?? Number.NaN])).toBeLessThan(tolerance);
      }),
      { seed: 1, numRuns: 40 },
    );
  });

  it("agrees over rows of several blocks, wherever the largest logit is", () => {
    const row = (phase: number, top: number): Float32Array => {
      const values = Float32Array.from({ length: 5003 }, (_, i) => 20 * Math.sin(i * i + phase));
      values[top] = 25;
      return values;
    };
    for (const [a, b] of [
      [0, 5002],
      [2047, 2048],
      [4096, 4096],
    ] as const) {
      const rows = [row(0, a), row(0.1, b)] as const;
      expect(worst(visit([...rows], 2048), naive(...rows, 2048))).toBeLessThan(tolerance);
    }
  });

  it("keeps its digits where two rows hardly differ", () => {
    fc.assert(
      fc.property(logits(200, 15), logits(200, 1), fc.nat(199), (base, noise, target) => {
        const other = base.map((value, i) => value + 1e-4 * (noise[i] ?? 0));
        const found = visit([base, other], target);
        const expected = naive(base, other, target);
        expect(Math.abs((found[column.divergence] ?? 1) - (expected[column.divergence] ?? 0))).toBeLessThan(
          1e-13,
        );
        expect(found[column.divergence]).toBeGreaterThanOrEqual(-1e-14);
      }),
      { seed: 2, numRuns: 40 },
    );
  });

  it("finds nothing lost between equal rows, and ln(n) in a flat one", () => {
    const row = Float32Array.from({ length: 1000 }, (_, i) => 30 * Math.tanh(Math.sin(i)));
    const found = visit([row, row.slice()], 17);
    expect(Math.abs(found[column.divergence] ?? 1)).toBeLessThan(1e-14);
    expect(found[column.nll]).toBe(found[column.candidateNll]);
    expect(found[column.sameTop]).toBe(1);
    const flat = new Float32Array(262_144).fill(-3.25);
    expect(worst(visit([flat], 5), [Math.log(262_144)])).toBeLessThan(tolerance);
  });

  it("stands logits at both ends of the softcap and far beyond it", () => {
    const base = Float32Array.from({ length: 512 }, (_, i) => (i % 2 === 0 ? 30 : -30));
    const other = base.map((value) => -value);
    expect(worst(visit([base, other], 1), naive(base, other, 1))).toBeLessThan(tolerance);
    const huge = Float32Array.of(-3e38, 0, 3e38, 1000);
    expect(worst(visit([huge, huge], 2), [0, 0, 0, 1])).toBeLessThan(tolerance);
  });

  it("counts nothing for tokens that the reference rules out, and sees what only the candidate rules out", () => {
    const base = Float32Array.of(1, -Infinity, 2, 0.5);
    expect(
      worst(
        visit([base, Float32Array.of(1.5, 0.25, 2, 0)], 0),
        naive(base, Float32Array.of(1.5, 0.25, 2, 0), 0),
      ),
    ).toBeLessThan(tolerance);
    const both = Float32Array.of(0.5, -Infinity, 2, 1);
    expect(worst(visit([base, both], 2), naive(base, both, 2))).toBeLessThan(tolerance);
    const broken = visit([Float32Array.of(1, 0, 2, 0), base], 1);
    expect(broken[column.candidateNll]).toBe(Infinity);
    expect(broken[column.divergence]).toBe(Infinity);
    expect(broken[column.nll]).toBeCloseTo(Math.log(Math.E + 1 + Math.E ** 2 + 1), 6);
  });

  it("takes the lowest token where several are on top", () => {
    const two = Float32Array.of(0, 5, 1, 5, 2);
    expect(visit([two, Float32Array.of(0, 5, 1, 1, 2)], 0)[column.sameTop]).toBe(1);
    expect(visit([two, Float32Array.of(0, 1, 1, 5, 2)], 0)[column.sameTop]).toBe(0);
    const late = new Float32Array(131).fill(-1);
    late[130] = 4;
    const later = late.slice();
    later[129] = 4;
    expect(visit([late, late.slice()], 0)[column.sameTop]).toBe(1);
    expect(visit([late, later], 0)[column.sameTop]).toBe(0);
  });

  it("does not hide a NaN, wherever it is", () => {
    for (const at of [0, 1, 2, 3, 64, 130]) {
      const row = new Float32Array(131).fill(0.5);
      row[at] = Number.NaN;
      expect(visit([row], 7)).toEqual(Float64Array.of(Number.NaN));
      const sound = new Float32Array(131).fill(0.25);
      expect(visit([row, sound], 7)[column.nll]).toBeNaN();
      expect(visit([sound, row], 7)[column.candidateNll]).toBeNaN();
    }
  });

  it("says how many columns it fills", () => {
    expect(createVisitor(8, 1).columns).toBe(singleColumns);
    expect(createVisitor(8, 2).columns).toBe(pairColumns);
    expect(Object.keys(column)).toHaveLength(pairColumns);
  });
});
