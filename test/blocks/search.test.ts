import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { decode } from "../../src/blocks/decode/decode.js";
import { encodable, encode } from "../../src/blocks/encode/encode.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName, Method } from "../../src/blocks/types.js";
import { campaignRuns } from "../support/campaign.js";
import { firstDifference, importances, weights, withinHalf } from "../support/weights.js";

const floats = (file: string): Float32Array =>
  new Float32Array(new Uint8Array(readFileSync(join(packageRoot, "fixtures/golden", file))).buffer);
const searched = encodable.filter((type) => Kernels.searches(type));
let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 8192);
});

/** What the kernels make of rows, and the weighted squared error of it. */
function pack(type: BlockTypeName, values: Float32Array, method: Method, importance?: Float32Array) {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  expect(kernels.convert("F32", type, values.length, importance, method)).toBe(-1);
  const stored = new Float32Array(values.length);
  decode(type, kernels.output, stored);
  let error = 0;
  for (const [at, value] of values.entries()) {
    error += (importance?.[at % importance.length] ?? 1) * (value - (stored[at] ?? 0)) ** 2;
  }
  return { bytes: kernels.output.slice(), error };
}

describe.each(searched)("the search of %s", (type) => {
  it("never loses more than ggml on the golden rows, with and without an importance", () => {
    const input = floats("input.f32");
    for (const importance of [undefined, floats("importance.f32")]) {
      for (let row = 0; row < 8; row++) {
        const values = input.slice(1024 * row, 1024 * (row + 1));
        const ours = pack(type, values, "search", importance).error;
        expect(ours).toBeLessThanOrEqual(pack(type, values, "ggml", importance).error);
      }
    }
  });

  it("is the reference's, byte for byte, on difficult rows and importances", () => {
    fc.assert(
      fc.property(
        weights(512, { min: -150, max: 4 }),
        fc.option(importances(512), { nil: undefined }),
        (raw, importance) => {
          const values = withinHalf(raw, 2688);
          const { bytes } = pack(type, values, "search", importance);
          const expected = new Uint8Array(rowBytes(type, values.length));
          encode(type, values, expected, importance, "search");
          expect(firstDifference(bytes, expected)).toBe(-1);
        },
      ),
      { seed: 21, numRuns: campaignRuns(400) },
    );
  });

  it("stores finite values whatever it is given, and zeros as zeros", () => {
    fc.assert(
      fc.property(weights(256, { min: -150, max: 4 }), importances(256), (raw, importance) => {
        const values = withinHalf(raw, 2688);
        expect(Number.isFinite(pack(type, values, "search", importance).error)).toBe(true);
      }),
      { seed: 22, numRuns: campaignRuns(400) },
    );
    expect(pack(type, new Float32Array(256), "search").error).toBe(0);
  });
});
