import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ShingleIndex, shingleLength } from "../../../calibration/text/shingles.js";

/** Few kinds of tokens and pieces copied from one text to the other, so that there is much to find. */
const texts = fc
  .record({
    left: fc.array(fc.nat({ max: 3 }), { maxLength: 200 }),
    right: fc.array(fc.nat({ max: 3 }), { maxLength: 200 }),
    copies: fc.array(
      fc.record({ from: fc.nat({ max: 200 }), length: fc.nat({ max: 90 }), to: fc.nat({ max: 200 }) }),
      { maxLength: 4 },
    ),
  })
  .map(({ left, right, copies }) => {
    const other = [...right];
    for (const { from, length, to } of copies) other.splice(to, 0, ...left.slice(from, from + length));
    return { left: Int32Array.from(left), right: Int32Array.from(other) };
  });

const shinglesOf = (tokens: Int32Array): string[] =>
  Array.from({ length: Math.max(0, tokens.length - shingleLength + 1) }, (_, i) =>
    tokens.subarray(i, i + shingleLength).join(),
  );

/** Every shingle against every other, without a hash. */
function naive(left: Int32Array, right: readonly Int32Array[]): number {
  const there = new Set(right.flatMap((tokens) => shinglesOf(tokens)));
  return shinglesOf(left).filter((shingle) => there.has(shingle)).length;
}

const counted = (length: number, first = 0): Int32Array => Int32Array.from({ length }, (_, i) => first + i);

describe("ShingleIndex", () => {
  it("finds what comparing every position with every other finds", () => {
    fc.assert(
      fc.property(texts, ({ left, right }) => {
        const index = new ShingleIndex(left);
        const run = index.find(right);
        expect(index.total).toBe(shinglesOf(left).length);
        expect(index.found).toBe(naive(left, [right]));
        expect(run === null).toBe(index.found === 0);
        if (run === null) return;
        expect(run.length).toBeGreaterThanOrEqual(shingleLength);
        expect(right.subarray(run.at, run.at + run.length)).toEqual(
          left.subarray(run.of, run.of + run.length),
        );
        expect(right[run.at + run.length] === left[run.of + run.length]).toBe(
          run.at + run.length === right.length && run.of + run.length === left.length,
        );
      }),
      { numRuns: 300 },
    );
  });

  it("counts over several texts, each shingle once", () => {
    fc.assert(
      fc.property(texts, texts, ({ left, right }, more) => {
        const index = new ShingleIndex(left);
        for (const text of [right, more.right, right]) index.find(text);
        expect(index.found).toBe(naive(left, [right, more.right]));
      }),
    );
  });

  it("finds a passage at any alignment, and says where it begins in both", () => {
    const evaluation = counted(1000, 5000);
    for (const at of [0, 1, 31, 32, 33, 511]) {
      const calibration = counted(2000);
      calibration.set(evaluation.subarray(300, 450), at);
      const index = new ShingleIndex(evaluation);
      expect(index.find(calibration)).toEqual({ at, of: 300, length: 150 });
      expect(index.share).toBeCloseTo(119 / 969, 12);
    }
  });

  it("does not find what is one token too short, or differs in one token", () => {
    const evaluation = counted(100, 5000);
    const short = new ShingleIndex(evaluation);
    expect(short.find(Int32Array.of(1, ...evaluation.subarray(10, 41), 2))).toBeNull();
    const changed = evaluation.slice(0, 63);
    changed[31] = 0;
    expect(short.find(changed)).toBeNull();
    expect(short.share).toBe(0);
  });

  it("points at the first long run rather than at a quotation before it", () => {
    const evaluation = counted(1000, 5000);
    const calibration = counted(1000);
    calibration.set(evaluation.subarray(0, 40), 100);
    calibration.set(evaluation.subarray(500, 700), 300);
    calibration.set(evaluation.subarray(200, 450), 600);
    expect(new ShingleIndex(evaluation).find(calibration)).toEqual({ at: 300, of: 500, length: 200 });
  });

  it("has nothing to find in a text shorter than a shingle", () => {
    for (const length of [0, 1, shingleLength - 1]) {
      const index = new ShingleIndex(counted(length));
      expect(index.total).toBe(0);
      expect(index.find(counted(100))).toBeNull();
      expect(index.share).toBe(0);
    }
    expect(new ShingleIndex(counted(shingleLength)).find(counted(shingleLength))).toEqual({
      at: 0,
      of: 0,
      length: shingleLength,
    });
  });

  it("goes through a million tokens of one kind without getting slow", () => {
    const index = new ShingleIndex(new Int32Array(1 << 20));
    expect(index.find(new Int32Array(1 << 20))).toMatchObject({ at: 0, of: 0 });
    expect(index.share).toBe(1);
  });
});
