import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { blockType, rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName } from "../../../src/blocks/types.js";
import { loadGgmlQuants } from "../../support/ggml-quants.js";
import { firstDifference, importances, weights, withinHalf } from "../../support/weights.js";

const ggml = loadGgmlQuants();
let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 2 ** 14);
});

function compare(type: BlockTypeName, values: Float32Array, importance?: Float32Array): void {
  const expected = new Uint8Array(rowBytes(type, values.length));
  encode(type, values, expected, importance);
  encode("F32", values, kernels.input.subarray(0, 4 * values.length));
  expect(kernels.convert("F32", type, values.length, importance)).toBe(-1);
  expect(firstDifference(kernels.output, expected)).toBe(-1);
  if (values.length !== (importance ?? values).length) return;
  const theirs = ggml?.quantize(type, values, importance) ?? expected;
  expect(firstDifference(kernels.output, theirs)).toBe(-1);
}

describe.each(["Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS"] as const)("%s", (type) => {
  // Lanes are blocks in places: rows of one, two and three blocks more than four, and more than are read at once.
  it.each([1, 2, 3, 5, 19])("takes rows of %d blocks with an importance", (blocks) => {
    const count = blocks * blockType(type).values;
    const row = weights(2 * count, { min: -60, max: 10 });
    fc.assert(
      fc.property(row, importances(count), (values, importance) => {
        compare(type, withinHalf(values), importance);
        compare(type, withinHalf(values).subarray(count), importance);
        compare(type, withinHalf(values));
      }),
      { seed: blocks, numRuns: 40 },
    );
  });
});

/** Level of value `e` of a Q3_K block. */
function levelIn(block: Uint8Array, e: number): number {
  const low = ((block[32 + 32 * (e >> 7) + (e & 31)] ?? 0) >> (2 * ((e >> 5) & 3))) & 3;
  return low + 4 * (((block[e & 31] ?? 0) >> (e >> 5)) & 1) - 4;
}

describe("Q3_K", () => {
  it("keeps improved levels where the code of a scale is zero", () => {
    // Far smaller than the first value; the extreme value of each sixteen is -1, so that levels can improve.
    const row = new Float32Array(256).map((_, i) => (i % 16 === 5 ? -1 : Math.sin(i * i) * 0.9));
    row[0] = 1000;
    compare("Q3_K", row);
    const improved = [...row.keys()].filter((e) => {
      const rounded = Math.min(3, Math.round((row[e] ?? 0) * 4));
      return e >= 16 && levelIn(kernels.output, e) !== rounded;
    });
    expect(improved.length).toBeGreaterThan(3);
    expect(improved.length).toBeLessThan(40);
  });
});
