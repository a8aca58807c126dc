import { describe, expect, it } from "vitest";
import { encode } from "../../../src/blocks/encode/encode.js";
import type { Effort, FeedbackInput, FeedbackTarget } from "../../../src/blocks/feedback/problem.js";
import { emptyOutput, roundWithFeedback } from "../../../src/blocks/feedback/reference.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName } from "../../../src/blocks/types.js";
import { decoded, lossOf, problem } from "./support.js";

const width = 256;
const rows = 4;

const oneByOne: readonly BlockTypeName[] = [
  "Q4_0",
  "Q4_1",
  "Q5_0",
  "Q5_1",
  "Q8_0",
  "Q1_0",
  "Q2_0",
  "TQ1_0",
  "TQ2_0",
  "Q2_K",
  "Q3_K",
  "Q4_K",
  "Q5_K",
  "Q6_K",
  "IQ4_NL",
  "IQ4_XS",
  "MXFP4",
  "NVFP4",
];
/** All three ways to store signs, both widths of points and both ways to shift them. */
const points: readonly BlockTypeName[] = ["IQ1_S", "IQ1_M", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"];
const codes: readonly FeedbackTarget[] = ([2, 4, 8] as const).flatMap((bits) => [
  { bits, block: 32, zeroPoints: false },
  { bits, block: 64, zeroPoints: true },
]);
const targets: readonly FeedbackTarget[] = [...oneByOne, ...points, ...codes];

/** What the search alone stores for rows, each with the pivots as its importance. */
function searchAlone(target: FeedbackTarget, { values, pivots }: FeedbackInput): Float32Array {
  const out = { ...emptyOutput(target, { rows, width, effort: 0, rowFeedback: false }) };
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * width, (r + 1) * width);
    if (typeof target === "string") {
      const bytes = rowBytes(target, width);
      encode(target, row, out.blocks.subarray(r * bytes, (r + 1) * bytes), pivots, "search");
      continue;
    }
    const blocks = width / target.block;
    const tensors = encodeNBits(target, width, row, pivots, "search");
    out.blocks.set(tensors.codes, r * tensors.codes.length);
    out.scales.set(tensors.scales, r * tensors.scales.length);
    for (let b = 0; b < blocks && target.zeroPoints; b++) {
      const each = 8 / target.bits;
      const byte = tensors.zeroPoints[Math.floor(b / each)]!;
      out.zeroPoints[r * blocks + b] = (byte >> (target.bits * (b % each))) & (2 ** target.bits - 1);
    }
  }
  return decoded(target, width, out);
}

function byEffort(target: FeedbackTarget, effort: Effort, input: FeedbackInput, rowFeedback = false) {
  return roundWithFeedback(target, { rows, width, effort, rowFeedback }, input);
}

describe.each(targets.map((target) => ({ target, name: JSON.stringify(target) })))("$name", ({ target }) => {
  const input = problem(rows, width, 40);

  it("stores what the decoder reads, says what that loses, and loses less with more effort", () => {
    const losses = ([0, 1, 2] as const).map((effort) => {
      const out = byEffort(target, effort, input);
      expect(decoded(target, width, out)).toEqual(out.stored);
      const loss = lossOf(input, width, out.stored, false);
      const told = out.losses.reduce((sum, own) => sum + own, 0);
      expect(Math.abs(told - loss)).toBeLessThan(1e-3 * loss);
      return loss;
    });
    const alone = lossOf(input, width, searchAlone(target, input), false);
    expect(losses[0]).toBeLessThan(alone);
    // Few rows: what helps a block may by chance not suit what comes after.
    expect(losses[1]).toBeLessThanOrEqual(1.02 * losses[0]!);
    expect(losses[2]).toBeLessThanOrEqual(losses[1]!);
  });
});

describe.each(oneByOne)("%s without feedback", (type) => {
  it("is what the search alone gives", () => {
    const input = problem(rows, width, 80, true);
    const out = byEffort(type, 0, input);
    // The searches of the oldest types weigh a value by the mean square of what is searched at once.
    const size = /^Q[45]_[01]$/.test(type) ? 32 : width;
    const bytes = rowBytes(type, size);
    for (let from = 0; from < width; from += size) {
      const values = new Float32Array(rows * size);
      for (let r = 0; r < rows; r++) {
        values.set(input.values.subarray(r * width + from, r * width + from + size), r * size);
      }
      const expected = new Uint8Array(rows * bytes);
      const importance = input.pivots.slice(from, from + size);
      const repeated = Float32Array.from({ length: rows * size }, (_, j) => importance[j % size]!);
      encode(type, values, expected, repeated, "search");
      for (let r = 0; r < rows; r++) {
        const at = r * rowBytes(type, width) + rowBytes(type, from);
        expect(out.blocks.subarray(at, at + bytes)).toEqual(expected.subarray(r * bytes, (r + 1) * bytes));
      }
    }
  });
});

describe("rounding with feedback", () => {
  it.each([
    ["Q4_0", -8],
    ["Q5_0", -16],
    ["TQ2_0", -1],
    ["IQ4_NL", 0],
  ] as const)("loses nothing of values that %s holds", (type, lowest) => {
    const input = problem(rows, width, 120);
    const highest = type === "TQ2_0" ? 1 : -lowest - 1;
    const held = input.values.map((x, j) => {
      if (type === "IQ4_NL") return [-127, 113, 1, -35][j % 4]! / 2048;
      if (j % 31 === 0) return lowest / 64;
      // The sum makes one zero of two.
      return Math.max(lowest, Math.min(highest, Math.round(100 * x))) / 64 + 0;
    });
    for (const effort of [0, 1, 2] as const) {
      const out = byEffort(type, effort, { ...input, values: held });
      expect(out.losses.every((loss) => loss === 0)).toBe(true);
      expect(out.stored).toEqual(held);
    }
  });

  it("lets rows make up for errors of the rows before", () => {
    const width = 64;
    const input = problem(64, width, 160);
    const shape = { rows: 64, width, effort: 0 } as const;
    const without = roundWithFeedback("Q4_0", { ...shape, rowFeedback: false }, input);
    const feeding = roundWithFeedback("Q4_0", { ...shape, rowFeedback: true }, input);
    const loss = lossOf(input, width, feeding.stored, true);
    expect(loss).toBeLessThan(lossOf(input, width, without.stored, true));
  });

  it("takes over what panels and chunks before left", () => {
    const input = problem(rows, width, 200);
    const shifted = {
      ...input,
      carried: input.carried.map(() => 0.003),
      added: input.added.map(() => -0.003),
    };
    const plain = byEffort("Q4_K", 0, input);
    const moved = byEffort("Q4_K", 0, shifted);
    expect(lossOf(shifted, width, moved.stored, false)).toBeLessThan(
      1.2 * lossOf(input, width, plain.stored, false),
    );
  });

  it.each([
    [3, 256],
    [260, 256],
    [8, 0],
    [8, 288],
    [8, 48],
  ])("refuses %i rows of %i columns", (rows, width) => {
    const shape = { rows, width, effort: 0, rowFeedback: false } as const;
    expect(() => roundWithFeedback("Q4_0", shape, problem(8, 256, 1))).toThrow(/multiple of 4|whole blocks/);
  });
});
