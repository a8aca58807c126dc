import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { encodable, encode } from "../../src/blocks/encode/encode.js";
import { rowBytes } from "../../src/blocks/table.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";
import { firstDifference, weights } from "../support/weights.js";

const folder = join(packageRoot, "fixtures/golden");
const input = readFileSync(join(folder, "input.f32"));
const values = new Float32Array(new Uint8Array(input).buffer);
const ggml = loadGgmlQuants();

describe("encode", () => {
  it.each([
    ["F16", "f16"],
    ["BF16", "bf16"],
    ["Q8_0", "q8_0"],
    ["Q4_0", "q4_0"],
    ["Q6_K", "q6_K"],
  ] as const)("gives ggml's bytes for the golden values in %s", (type, file) => {
    const expected = readFileSync(join(folder, `${file}.bin`));
    const out = new Uint8Array(expected.length);
    encode(type, values, out);
    expect(firstDifference(out, expected)).toBe(-1);
  });

  it.runIf(ggml !== undefined).each(encodable)("gives ggml's bytes for difficult rows in %s", (type) => {
    fc.assert(
      fc.property(weights(256, { min: -150, max: 127 }), (row) => {
        const out = new Uint8Array(rowBytes(type, row.length));
        encode(type, row, out);
        expect(firstDifference(out, ggml?.quantize(type, row) ?? new Uint8Array())).toBe(-1);
      }),
      { seed: 11, numRuns: 500 },
    );
  });

  it("refuses what it cannot write", () => {
    expect(() => encode("IQ4_NL", new Float32Array(32), new Uint8Array(18))).toThrow(
      expect.objectContaining({ code: "not-encodable" }),
    );
    expect(() => encode("Q8_0", new Float32Array(33), new Uint8Array(34))).toThrow(
      expect.objectContaining({ code: "uneven-row" }),
    );
    expect(() => encode("Q8_0", new Float32Array(32), new Uint8Array(33))).toThrow(
      expect.objectContaining({ code: "wrong-length" }),
    );
  });
});
