import { beforeAll, describe, expect, it } from "vitest";
import { iq4Levels } from "../../../src/blocks/decode/codebook.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { loadGgmlQuants } from "../../support/ggml-quants.js";

const ggml = loadGgmlQuants();
const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** The float32 number next to a value that is not zero. */
function neighbour(value: number, above: boolean): number {
  float[0] = value;
  bits[0] = (bits[0] ?? 0) + (value > 0 === above ? 1 : -1);
  return float[0] ?? 0;
}

describe("the levels of IQ4_NL", () => {
  let kernels: Kernels;
  beforeAll(async () => {
    kernels = new Kernels(await compileKernels(), 256);
  });

  it.each([
    ["just below", (midpoint: number) => neighbour(midpoint, false), 0],
    ["at", (midpoint: number) => midpoint, 1],
    ["just above", (midpoint: number) => neighbour(midpoint, true), 1],
  ] as const)("end where ggml ends them: %s their midpoints", (_, valueFor, step) => {
    // Only the levels themselves have weight. They make the scale exactly 1.
    const midpoints = iq4Levels.slice(1).map((level, i) => ((iq4Levels[i] ?? 0) + level) / 2);
    const row = Float32Array.of(...iq4Levels, ...midpoints.map(valueFor), 0);
    const importance = row.map((_value, j) => (j < 16 ? 1 : 0));
    const bytes = new Uint8Array(18);
    encode("IQ4_NL", row, bytes, importance);
    expect([...bytes.subarray(0, 2)]).toEqual([0, 0x3c]);
    expect([...bytes.subarray(2, 17)].map((pair) => pair >> 4)).toEqual(
      midpoints.map((_value, i) => i + step),
    );
    expect([...bytes.subarray(2)].map((pair) => pair & 15)).toEqual(iq4Levels.map((_value, i) => i));
    encode("F32", row, kernels.input.subarray(0, 128));
    expect(kernels.convert("F32", "IQ4_NL", 32, importance)).toBe(-1);
    expect([...kernels.output]).toEqual([...bytes]);
    expect([...(ggml?.quantize("IQ4_NL", row, importance) ?? bytes)]).toEqual([...bytes]);
  });
});
