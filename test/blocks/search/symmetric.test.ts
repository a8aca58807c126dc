import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName, Method } from "../../../src/blocks/types.js";
import { importances, randomFrom, weights, withinHalf } from "../../support/weights.js";

let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 8192);
});

function normals(count: number, seed: number): Float32Array {
  const random = randomFrom(seed);
  return Float32Array.from(
    { length: count },
    () => 0.02 * Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random()),
  );
}

function byKernels(
  type: BlockTypeName,
  values: Float32Array,
  importance?: Float32Array,
  method: Method = "search",
): Uint8Array {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  expect(kernels.convert("F32", type, values.length, importance, method)).toBe(-1);
  return kernels.output.slice();
}

function byReference(
  type: BlockTypeName,
  values: Float32Array,
  importance?: Float32Array,
  method: Method = "search",
): Uint8Array {
  const bytes = new Uint8Array(rowBytes(type, values.length));
  encode(type, values, bytes, importance, method);
  return bytes;
}

/** Σ importance · (value − stored)². */
function errorOf(type: BlockTypeName, values: Float32Array, bytes: Uint8Array, importance?: Float32Array) {
  const stored = new Float32Array(values.length);
  decode(type, bytes, stored);
  return values.reduce((sum, value, j) => sum + (importance?.[j] ?? 1) * (value - (stored[j] ?? 0)) ** 2, 0);
}

const types = ["Q3_K", "Q6_K", "IQ4_XS", "IQ4_NL"] as const;

describe("the search for symmetric scales", () => {
  it("finds the same whatever was written before", () => {
    const values = normals(512, 1);
    const importance = normals(512, 2).map((value) => value * value);
    for (const type of [...types, ...types.toReversed(), "IQ4_XS"] as const) {
      expect(byKernels(type, values, importance)).toEqual(byReference(type, values, importance));
    }
  });

  it.each([32, 64, 96, 160, 4096 + 96])("writes IQ4_NL of %i values with an importance", (count) => {
    const values = normals(count, 3);
    const importance = normals(count, 4).map((value) => value * value);
    expect(byKernels("IQ4_NL", values, importance)).toEqual(byReference("IQ4_NL", values, importance));
  });

  it.each([
    ["Q3_K", 7],
    ["Q6_K", 10],
    ["IQ4_XS", 5],
    ["IQ4_NL", 5],
  ] as const)("loses less than ggml on normal values: %s by %i %% at least", (type, percent) => {
    const values = normals(4096, 5);
    const theirs = errorOf(type, values, byReference(type, values, undefined, "ggml"));
    const ours = errorOf(type, values, byKernels(type, values));
    expect(1 - ours / theirs).toBeGreaterThan(percent / 100);
  });

  it.each(types)("never loses more than ggml on difficult rows: %s", (type) => {
    fc.assert(
      fc.property(
        weights(512, { min: -12, max: 4 }),
        fc.option(importances(512), { nil: undefined }),
        (raw, importance) => {
          const values = withinHalf(raw);
          const lost = (method: Method): number =>
            errorOf(type, values, byKernels(type, values, importance, method), importance);
          // Sums of either are float32.
          expect(lost("search")).toBeLessThanOrEqual(lost("ggml") * (1 + 1e-6));
        },
      ),
      { seed: 23, numRuns: 400 },
    );
  });

  it.each(types)("stores values of %s that have no importance as if all had the same", (type) => {
    const values = normals(256, 6);
    expect(byKernels(type, values, new Float32Array(256))).toEqual(byKernels(type, values));
    const importance = new Float32Array(256).fill(3).fill(0, 64, 96);
    const others = importance.map((weight) => (weight === 0 ? 1 : 0));
    const energy = values.subarray(64, 96).reduce((sum, value) => sum + value * value, 0);
    expect(errorOf(type, values, byKernels(type, values, importance), others)).toBeLessThan(energy / 20);
  });

  it.each(types)("keeps the sizes of importances apart from their ratios: %s", (type) => {
    const values = normals(256, 7);
    const importance = normals(256, 8).map((value) => value * value);
    const bytes = byKernels(type, values, importance);
    for (const factor of [2 ** 120, 2 ** -100]) {
      expect(
        byKernels(
          type,
          values,
          importance.map((value) => value * factor),
        ),
      ).toEqual(bytes);
    }
  });

  it.each(types)("stores values near the ends of the halves as %s", (type) => {
    for (const scale of [2 ** -24, 2 ** -20, 65_504]) {
      const values = normals(256, 9).map((value) => Math.max(-1, Math.min(1, value * 20)) * scale);
      const bytes = byKernels(type, values);
      expect(bytes).toEqual(byReference(type, values));
      const energy = values.reduce((sum, value) => sum + value * value, 0);
      expect(errorOf(type, values, bytes)).toBeLessThanOrEqual(energy);
    }
  });
});
