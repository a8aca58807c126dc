import { beforeAll, describe, expect, it } from "vitest";
import { encodable, encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName } from "../../../src/blocks/types.js";
import { givesGgmlsBytesForDifficultRows } from "../../support/difficult-rows.js";
import { loadGgmlQuants } from "../../support/ggml-quants.js";
import { firstDifference, randomFrom } from "../../support/weights.js";

const ggml = loadGgmlQuants();
const even = ["IQ2_XXS", "IQ2_XS", "IQ3_XXS"] as const;
const all = [...even, "IQ2_S", "IQ3_S"] as const;

let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 4096);
});

function reference(type: BlockTypeName, row: Float32Array, importance?: Float32Array): Uint8Array {
  const out = new Uint8Array(rowBytes(type, row.length));
  encode(type, row, out, importance);
  return out;
}

/** Holds the reference encoder and the kernels to ggml. */
function expectGgmlsBytes(type: BlockTypeName, row: Float32Array, importance?: Float32Array): void {
  const expected = ggml?.quantize(type, row, importance) ?? reference(type, row, importance);
  expect(firstDifference(reference(type, row, importance), expected)).toBe(-1);
  kernels.input.set(new Uint8Array(row.buffer));
  expect(kernels.convert("F32", type, row.length, importance)).toBe(-1);
  expect(firstDifference(kernels.output, expected)).toBe(-1);
}

describe("the encoder of types on lattices, the ternary one too,", () => {
  givesGgmlsBytesForDifficultRows(encodable.filter((type) => /^IQ[123]/.test(type)));
});

describe("the types on lattices", () => {
  it.each(all)("give ggml's bytes where many neighbours are equally near in %s", (type) => {
    const random = randomFrom(21);
    for (let count = 0; count < 8; count++) {
      const row = Float32Array.from({ length: 1024 }, () => Math.round((random() - 0.5) * 12) / 8);
      expectGgmlsBytes(type, row, new Float32Array(1024).fill(1));
    }
  });

  // The value that nothing depends on is the one whose sign is turned, however large it is; at the scales of the
  // others it lies far beyond the integers that ggml's rounding knows.
  it.each(even)("give ggml's bytes for a negated size beyond 2^22 steps in %s", (type) => {
    const random = randomFrom(22);
    for (let count = 0; count < 20; count++) {
      const row = Float32Array.from({ length: 512 }, () => 1e-5 * random());
      const importance = new Float32Array(512).fill(1);
      for (let at = 3; at < 512; at += 16) {
        row[at] = -65504 * (0.5 + random() / 2);
        importance[at] = 0;
      }
      expectGgmlsBytes(type, row, importance);
    }
  });

  it.each(all)("give ggml's bytes for an importance of nothing in %s", (type) => {
    const random = randomFrom(23);
    const row = Float32Array.from({ length: 512 }, () => random() - 0.5);
    expectGgmlsBytes(type, row, new Float32Array(512));
  });

  it.each(["IQ2_XXS", "IQ2_XS"] as const)("weighs all values alike without an importance in %s", (type) => {
    const random = randomFrom(24);
    const row = Float32Array.from({ length: 1024 }, () => random() - 0.5);
    const ones = new Float32Array(1024).fill(1);
    expect(firstDifference(reference(type, row), reference(type, row, ones))).toBe(-1);
    kernels.input.set(new Uint8Array(row.buffer));
    kernels.convert("F32", type, row.length);
    expect(firstDifference(kernels.output, reference(type, row))).toBe(-1);
  });

  it("leaves no place for a sub-block of zeros among the indices of IQ3_S, as ggml does", () => {
    const random = randomFrom(25);
    const row = Float32Array.from({ length: 512 }, (_, index) =>
      index % 256 >= 32 && index % 256 < 96 ? 0 : random() - 0.5,
    );
    expectGgmlsBytes("IQ3_S", row);
    expectGgmlsBytes("IQ3_S", row, new Float32Array(512).fill(1));
    // Six sub-blocks' indices, then nothing.
    const block = reference("IQ3_S", row);
    expect(block.subarray(2 + 6 * 8, 2 + 8 * 8).every((byte) => byte === 0)).toBe(true);
    expect(block.subarray(2 + 5 * 8, 2 + 6 * 8).every((byte) => byte === 0)).toBe(false);
  });
});
