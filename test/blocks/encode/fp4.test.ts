import { describe, expect, it } from "vitest";
import { e2m1Levels, ue4m3 } from "../../../src/blocks/decode/codebook.js";
import { allEncoders } from "../../support/encoders.js";

const encoded = await allEncoders(65_536);
const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** The float32 that lies `steps` above a value that is not negative; not below 0. */
function beyond(value: number, steps: number): number {
  float[0] = value;
  bits[0] = Math.max(0, (bits[0] ?? 0) + steps);
  return float[0];
}

/** What lies halfway between a code without a sign and the next, in units of d. */
function middle(code: number): number {
  return ((e2m1Levels[code] ?? 0) + (code < 7 ? (e2m1Levels[code + 1] ?? 0) : 16)) / 2;
}

describe("MXFP4", () => {
  it("takes the exponent of a logarithm that is rounded to float32", () => {
    // One block for each power of two that a half holds, down to the smallest float32, at several distances below.
    const exponents = [0, 1, 2, 3, 5, 6, 10, 11, 12, 22, 23, 44, 45, 88, 89].map((steps) => {
      const values = new Float32Array(165 * 32);
      for (let block = 0; block < 165; block++) {
        const largest = beyond(2 ** (block - 149), -steps);
        values.fill(largest / 9, 32 * block, 32 * block + 32)[32 * block + 7] = -largest;
      }
      const { bytes, differences } = encoded("MXFP4", values);
      expect(differences).toEqual([-1, -1]);
      return bytes[17 * 164];
    });
    // Eight units of the last place below 2^15 the logarithm is 15 still, as a float32.
    expect(exponents.slice(0, 5).every((exponent) => exponent === 15 + 125)).toBe(true);
    expect(exponents.slice(5).every((exponent) => exponent === 14 + 125)).toBe(true);
  });

  it("takes the smaller of two codes that are as near", () => {
    const values = new Float32Array(32 * 64);
    for (let block = 0; block < 64; block++) {
      const d = 2 ** (block - 54);
      for (let j = 0; j < 32; j++) {
        values[32 * block + j] = beyond(middle(j & 7) * d, (j >> 3) - 1) * (block % 2 === 0 ? 1 : -1);
      }
    }
    const { bytes, differences } = encoded("MXFP4", values);
    expect(differences).toEqual([-1, -1]);
    // One step below the middles, at them, and above: the low nibbles have the first sixteen.
    expect([...bytes.subarray(1, 17)].map((byte) => byte & 15)).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7,
    ]);
    expect([...bytes.subarray(1, 9)].map((byte) => byte >> 4)).toEqual([1, 2, 3, 4, 5, 6, 7, 7]);
  });
});

describe("NVFP4", () => {
  it("writes every scale, and the smaller of two codes that are as near", () => {
    const values = new Float32Array(16 * 127 * 4);
    for (let group = 0; group < 127 * 4; group++) {
      const d = ue4m3(group >> 2) / 2;
      for (let j = 0; j < 16; j++) {
        const value = beyond(middle((j >> 1) % 7) * d, (group & 3) - 1);
        values[16 * group + j] = j % 2 === 0 ? value : -value;
      }
      values[16 * group + 15] = -12 * d;
    }
    const { bytes, differences } = encoded("NVFP4", values);
    expect(differences).toEqual([-1, -1]);
    const scales = Array.from({ length: 127 }, (_, code) => bytes[36 * code]);
    // From 256 on ggml writes the largest scale.
    expect(scales).toEqual(scales.map((_, code) => (code < 15 << 3 ? code : 0x7e)));
  });

  it("rounds scales half up, but no subnormal up to a normal one", () => {
    const values = new Float32Array(16 * 4 * 128);
    for (let group = 0; group < 4 * 128; group++) {
      const code = group >> 2;
      const between = (ue4m3(code) + ue4m3(Math.min(code + 1, 0x7e))) / 2;
      const value = Math.min(2688, beyond(6 * between, (group & 3) - 1));
      values.fill(value, 16 * group, 16 * group + 16);
    }
    const { bytes, differences } = encoded("NVFP4", values);
    expect(differences).toEqual([-1, -1]);
    expect([...bytes.subarray(36 * 20, 36 * 20 + 3)]).toEqual([20, 21, 21]);
    expect([...bytes.subarray(36 * 7, 36 * 7 + 3)]).toEqual([7, 7, 7]);
  });
});
