import { beforeAll, describe, expect, it } from "vitest";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName } from "../../../src/blocks/types.js";
import { loadGgmlQuants } from "../../support/ggml-quants.js";
import { firstDifference, randomFrom } from "../../support/weights.js";

const ggml = loadGgmlQuants();
const types: readonly BlockTypeName[] = ["Q2_K", "Q4_K", "Q5_K"];

/** Values and importances of a row, one pair for each kind of sub-block. */
type SubBlock = (random: () => number, count: number) => { values: number[]; importance: number[] };

/**
 * Nearly equal negative values and a lower one that is never used. What that leaves of the levels is so few that
 * the fit may end at an offset of 0 and a negative scale, whose level wraps to a large byte.
 */
const unusedOutlier: SubBlock = (random, count) => {
  const centre = -random() * 2 ** (-20 * random() ** 2);
  const noise = 2 ** (-2 - random() * 20);
  const outlier = Math.floor(random() * count);
  const slight = random() < 0.7 ? 0 : 2 ** (-20 - 60 * random());
  return {
    values: Array.from({ length: count }, (_, j) =>
      j === outlier ? -3 * random() : centre * (1 + noise * (random() - 0.5)),
    ),
    importance: Array.from({ length: count }, (_, j) => (j === outlier ? slight : 1 + random())),
  };
};

/** Among ordinary sub-blocks these matter for the scale of the block. */
const fewUnusedOutliers: SubBlock = (random, count) =>
  random() < 0.7
    ? unusedOutlier(random, count)
    : {
        values: Array.from({ length: count }, () => random() - 0.5),
        importance: Array.from({ length: count }, random),
      };

/**
 * A range that a float32 can hardly hold or that its inverse cannot: inverse scales become infinite, and spread
 * values leave the numbers that ggml rounds as usual.
 */
const vanishingRange: SubBlock = (random, count) => {
  const unit = 2 ** (-149 + Math.floor(random() * 26));
  const used = Math.floor(random() * count);
  return {
    values: Array.from({ length: count }, () => Math.floor((random() - 0.8) * 40) * unit),
    importance: Array.from({ length: count }, (_, j) => (j === used ? 1 : random() * 2 ** (-40 * random()))),
  };
};

function rowOf(kind: SubBlock, seed: number): { values: Float32Array; importance: Float32Array } {
  const random = randomFrom(seed);
  const parts = Array.from({ length: 96 }, (_, s) => kind(random, s < 32 ? 16 : 32));
  return {
    values: Float32Array.from(parts.flatMap((part) => part.values)),
    importance: Float32Array.from(parts.flatMap((part) => part.importance)),
  };
}

describe.each(types)("%s", (type) => {
  let kernels: Kernels;

  beforeAll(async () => {
    kernels = new Kernels(await compileKernels(), 4096);
  });

  it.each(Object.entries({ unusedOutlier, fewUnusedOutliers, vanishingRange }))(
    "gives ggml's bytes for sub-blocks with %s",
    (_, kind) => {
      for (let seed = 1; seed <= 100; seed++) {
        const { values, importance } = rowOf(kind, seed);
        for (const given of [undefined, importance]) {
          const bytes = new Uint8Array(rowBytes(type, values.length));
          encode(type, values, bytes, given);
          encode("F32", values, kernels.input.subarray(0, values.byteLength));
          expect(kernels.convert("F32", type, values.length, given)).toBe(-1);
          expect(firstDifference(kernels.output, bytes)).toBe(-1);
          const expected = ggml?.quantize(type, values, given) ?? bytes;
          expect(firstDifference(bytes, expected)).toBe(-1);
        }
      }
    },
  );
});
