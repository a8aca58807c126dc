import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  bfloatsToFloats,
  bfloatToFloat,
  floatsToBfloats,
  floatsToHalves,
  floatToBfloat,
  floatToHalf,
  halfToFloat,
  halvesToFloats,
} from "../../src/blocks/floats.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";

const ggml = loadGgmlQuants();
const all = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);

/** What a 16-bit float with so many fraction bits means, by the definition. */
function define(bits: number, fractionBits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponentBits = 15 - fractionBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  const exponent = (bits & 0x7fff) >> fractionBits;
  const fraction = bits & (2 ** fractionBits - 1);
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : Number.NaN;
  const scale = 2 ** -fractionBits;
  if (exponent === 0) return sign * fraction * scale * 2 ** (1 - bias);
  return sign * (1 + fraction * scale) * 2 ** (exponent - bias);
}

const formats = [
  {
    type: "F16",
    fraction: 10,
    widen: halfToFloat,
    narrow: floatToHalf,
    widenAll: halvesToFloats,
    narrowAll: floatsToHalves,
  },
  {
    type: "BF16",
    fraction: 7,
    widen: bfloatToFloat,
    narrow: floatToBfloat,
    widenAll: bfloatsToFloats,
    narrowAll: floatsToBfloats,
  },
] as const;

describe.each(formats)("$type", ({ type, fraction, widen, narrow, widenAll, narrowAll }) => {
  const infinity = (2 ** (15 - fraction) - 1) << fraction;

  it("widens every pattern to the value it is defined as", () => {
    const wrong = all.filter((bits) => !Object.is(widen(bits), define(bits, fraction)));
    expect([...wrong]).toEqual([]);
  });

  it("widens bytes that begin at an odd place", () => {
    const bytes = new Uint8Array([0, 0x80, 0x3f, 0x34, 0x12]);
    const values = new Float32Array(2);
    widenAll(bytes.subarray(1), values);
    expect([...values]).toEqual([widen(0x3f80), widen(0x1234)]);
  });

  it("narrows every value back to its pattern", () => {
    const wrong = all.filter((bits) => (bits & 0x7fff) <= infinity && narrow(widen(bits)) !== bits);
    expect([...wrong]).toEqual([]);
  });

  it("rounds every midpoint to even and everything around it to the nearer neighbour", () => {
    const float = new Float32Array(1);
    const pattern = new Uint32Array(float.buffer);
    const step = (value: number, by: number): number => {
      float[0] = value;
      pattern[0] = (pattern[0] ?? 0) + by;
      return float[0] ?? 0;
    };
    const wrong: number[] = [];
    for (let low = 0; low < infinity; low++) {
      // The neighbour of the largest value counts as the next power of two, though it is infinite.
      const high = low + 1 === infinity ? 2 * widen(infinity - (1 << fraction)) : widen(low + 1);
      const middle = (widen(low) + high) / 2;
      const even = low % 2 === 0 ? low : low + 1;
      const right =
        narrow(middle) === even &&
        narrow(step(middle, -1)) === low &&
        narrow(step(middle, 1)) === low + 1 &&
        narrow(-middle) === (even | 0x8000);
      if (!right) wrong.push(low);
    }
    expect(wrong).toEqual([]);
  });

  it.runIf(ggml !== undefined)("widens whole arrays as ggml does, NaN payloads included", () => {
    const out = new Float32Array(all.length);
    widenAll(new Uint8Array(all.buffer), out);
    expect(new Uint32Array(out.buffer)).toEqual(ggml?.widen(type, all));
  });

  it.runIf(ggml !== undefined)("narrows whole arrays of any bit patterns as ggml does", () => {
    fc.assert(
      fc.property(fc.uint32Array({ minLength: 1, maxLength: 64 }), (bits) => {
        const out = new Uint8Array(2 * bits.length);
        narrowAll(new Float32Array(bits.buffer, bits.byteOffset, bits.length), out);
        expect(new Uint16Array(out.buffer)).toEqual(ggml?.narrow(type, bits));
      }),
      { seed: 7, numRuns: 300 },
    );
  });
});
