import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName, Method } from "../../../src/blocks/types.js";
import { campaignRuns } from "../../support/campaign.js";
import { firstDifference, importances, randomFrom, weights, withinHalf } from "../../support/weights.js";

const types = ["IQ1_S", "IQ1_M"] as const;
let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 8192);
});

function byKernels(type: BlockTypeName, values: Float32Array, method: Method, importance?: Float32Array) {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  expect(kernels.convert("F32", type, values.length, importance, method)).toBe(-1);
  return kernels.output.slice();
}

/** Σ importance · (value − stored)². */
function lossOf(type: BlockTypeName, values: Float32Array, bytes: Uint8Array, importance?: Float32Array) {
  const stored = new Float32Array(values.length);
  decode(type, bytes, stored);
  return values.reduce((sum, value, j) => sum + (importance?.[j] ?? 1) * (value - (stored[j] ?? 0)) ** 2, 0);
}

describe("the search on the ternary lattice", () => {
  it("never loses more than ggml on difficult rows", () => {
    fc.assert(
      fc.property(
        weights(512, { min: -150, max: 16 }),
        fc.option(importances(512), { nil: undefined }),
        (raw, importance) => {
          const values = withinHalf(raw);
          for (const type of types) {
            const ours = lossOf(type, values, byKernels(type, values, "search", importance), importance);
            const theirs = lossOf(type, values, byKernels(type, values, "ggml", importance), importance);
            // The blocks are summed in another order than where they were compared.
            expect(ours).toBeLessThanOrEqual(theirs * (1 + 1e-12));
          }
        },
      ),
      { seed: 31, numRuns: campaignRuns(300) },
    );
  });

  it("is the reference's at both ends of what values and importances may be, and for one type after the other", () => {
    fc.assert(
      fc.property(
        weights(1280, { min: -150, max: 16 }),
        importances(1280),
        fc.constantFrom(-149, -126, -20, 0, 60, 100),
        (raw, shape, exponent) => {
          const values = withinHalf(raw);
          const importance = shape.map((weight) => weight * 2 ** exponent);
          for (const type of types) {
            const expected = new Uint8Array(rowBytes(type, values.length));
            encode(type, values, expected, importance, "search");
            expect(firstDifference(byKernels(type, values, "search", importance), expected)).toBe(-1);
          }
        },
      ),
      { seed: 32, numRuns: campaignRuns(100) },
    );
  });

  it("loses a tenth less than ggml on normal values", () => {
    const random = randomFrom(7);
    const normal = (): number => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
    const values = Float32Array.from({ length: 4096 }, () => 0.02 * normal());
    const importance = Float32Array.from({ length: 4096 }, () => normal() ** 2);
    for (const type of types) {
      for (const given of [undefined, importance]) {
        const ours = lossOf(type, values, byKernels(type, values, "search", given), given);
        expect(ours).toBeLessThan(0.9 * lossOf(type, values, byKernels(type, values, "ggml", given), given));
      }
    }
  });

  it("gives values that do not matter their places", () => {
    const random = randomFrom(8);
    const values = Float32Array.from({ length: 256 }, () => random() - 0.5);
    for (const type of types) {
      const bytes = byKernels(type, values, "search", new Float32Array(256));
      const energy = values.reduce((sum, value) => sum + value * value, 0);
      expect(lossOf(type, values, bytes)).toBeLessThan(0.3 * energy);
    }
  });
});
