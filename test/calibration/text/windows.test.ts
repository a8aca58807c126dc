import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { TextError } from "../../../calibration/text/errors.js";
import { longWindows, packWindows } from "../../../calibration/text/windows.js";

const bos = 2;
const stream = (...tokens: number[]): Int32Array => Int32Array.from(tokens);
const counted = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => 100 + i);

function codeOf(run: () => unknown): [string, number] {
  try {
    run();
  } catch (error) {
    if (error instanceof TextError) return [error.code, error.exitCode];
    throw error;
  }
  return ["none", 0];
}

describe("packWindows", () => {
  it("cuts as llama-perplexity does, by hand", () => {
    // 11 tokens with the BOS: two windows of 4, three tokens left over.
    const tokens = stream(bos, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19);
    expect(packWindows(tokens, { context: 4, bos })).toEqual([
      { start: 0, first: 2, tokens: stream(bos, 10, 11, 12) },
      { start: 4, first: 2, tokens: stream(bos, 14, 15, 16) },
    ]);
  });

  it("puts one BOS in front where there is none, and that token counts", () => {
    const without = stream(10, 11, 12, 13, 14, 15, 16);
    expect(packWindows(without, { context: 4, bos })).toEqual([
      { start: 0, first: 2, tokens: stream(bos, 10, 11, 12) },
      { start: 4, first: 2, tokens: stream(bos, 14, 15, 16) },
    ]);
    expect(packWindows(without.subarray(0, 6), { context: 4, bos })).toHaveLength(1);
  });

  it("leaves the text alone for a model without BOS", () => {
    expect(packWindows(stream(10, 11, 12, 13, 14), { context: 4, bos: null })).toEqual([
      { start: 0, first: 2, tokens: stream(10, 11, 12, 13) },
    ]);
  });

  it("takes the first windows, or spreads them", () => {
    const tokens = counted(100);
    const starts = (options: object): number[] =>
      packWindows(tokens, { context: 10, bos: null, ...options }).map((window) => window.start);
    expect(starts({ chunks: 3 })).toEqual([0, 10, 20]);
    expect(starts({ chunks: 3, spread: true })).toEqual([0, 30, 60]);
    expect(starts({ chunks: 99, spread: true })).toEqual(starts({}));
  });

  it("never touches the text it was given", () => {
    const tokens = counted(64);
    const before = tokens.slice();
    packWindows(tokens, { context: 8, bos });
    expect(tokens).toEqual(before);
  });

  it("covers every token once and gives every window exactly one BOS", () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 64 }), fc.integer({ min: 4, max: 600 }), (context, length) => {
        fc.pre(length + 1 >= context);
        const windows = packWindows(counted(length), { context, bos });
        expect(windows).toHaveLength(Math.floor((length + 1) / context));
        for (const [index, { start, tokens, first }] of windows.entries()) {
          expect(start).toBe(index * context);
          expect(first).toBe(Math.floor(context / 2));
          expect([...tokens].map((token, i) => (i === 0 ? token === bos : token === 99 + start + i))).toEqual(
            Array.from({ length: context }, () => true),
          );
        }
      }),
      { seed: 4, numRuns: 100 },
    );
  });

  it("refuses what cannot be cut, and says how many tokens there are", () => {
    expect(codeOf(() => packWindows(counted(510), { context: 512, bos }))).toEqual(["text-short", 2]);
    expect(() => packWindows(counted(510), { context: 512, bos })).toThrow("511 tokens");
    expect(packWindows(counted(511), { context: 512, bos })).toHaveLength(1);
    expect(codeOf(() => packWindows(stream(), { context: 512, bos: null }))).toEqual(["text-short", 2]);
    for (const context of [0, 3, -512, 1.5, Number.NaN, 2 ** 40]) {
      expect(codeOf(() => packWindows(counted(600), { context, bos }))).toEqual(["window-size", 2]);
    }
    for (const chunks of [0, -1, 0.5, 1.5, Number.NaN]) {
      expect(codeOf(() => packWindows(counted(600), { context: 64, bos, chunks }))).toEqual([
        "window-count",
        2,
      ]);
    }
  });
});

describe("longWindows", () => {
  it("takes four windows of four sliding windows, spread over the text", () => {
    const windows = longWindows(counted(199), { slidingWindow: 8, bos });
    expect(
      windows?.map(({ start, first, tokens }) => [start, first, tokens.length, tokens[0], tokens[1]]),
    ).toEqual([
      [0, 8, 32, bos, 100],
      [50, 8, 32, bos, 150],
      [100, 8, 32, bos, 200],
      [150, 8, 32, bos, 250],
    ]);
  });

  it("takes as many as fit without overlapping, or none", () => {
    expect(longWindows(counted(95), { slidingWindow: 8, bos })?.map((window) => window.start)).toEqual([
      0, 32, 64,
    ]);
    expect(longWindows(counted(31), { slidingWindow: 8, bos })).toHaveLength(1);
    expect(longWindows(counted(30), { slidingWindow: 8, bos })).toBeNull();
  });

  it("refuses a sliding window that leaves nothing to score", () => {
    expect(codeOf(() => longWindows(counted(99), { slidingWindow: 31, length: 32, bos }))).toEqual([
      "window-size",
      2,
    ]);
    expect(codeOf(() => longWindows(counted(99), { slidingWindow: 0, bos }))).toEqual(["window-size", 2]);
  });
});
