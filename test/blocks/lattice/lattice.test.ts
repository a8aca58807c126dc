import { describe, expect, it } from "vitest";
import { decode } from "../../../src/blocks/decode/decode.js";
import { floatsToBfloats, floatToHalf, halfToFloat } from "../../../src/blocks/floats.js";
import { encodeLattice } from "../../../src/blocks/lattice/encode.js";
import { randomFrom } from "../../support/weights.js";

const BLOCKS = 400;

/** Bits of the bfloat16 values; Q4_0 keeps no sign of a zero. */
function words(values: Float32Array): Uint16Array {
  const out = new Uint16Array(values.length);
  floatsToBfloats(values, new Uint8Array(out.buffer));
  return out.map((word) => (word === 0x8000 ? 0 : word));
}

/** Levels of a normal spread times a scale of each block, none of them a power of two. */
function lattice(seed: number, scaleOf: (block: number) => number, top = 8): Float32Array {
  const random = randomFrom(seed);
  return Float32Array.from({ length: BLOCKS * 32 }, (_, index) => {
    const level = Math.max(-top, Math.min(top - 1, Math.round((random() + random() + random() - 1.5) * 9)));
    return scaleOf(Math.floor(index / 32)) * level;
  });
}

function half(value: number): number {
  return halfToFloat(floatToHalf(value));
}

describe("values on a lattice", () => {
  it.each([
    ["a scale for each block", (block: number) => half(0.003 + block * 1.37e-5)],
    ["one that is negative", (block: number) => half(-0.02 - block * 3.1e-5)],
    ["the same for eight blocks", (block: number) => half(0.011 + Math.floor(block / 8) * 9.7e-5)],
  ])("come back from Q4_0 in every bit of bfloat16: %s", (_, scaleOf) => {
    for (const top of [8, 5, 2]) {
      const stored = words(lattice(3 + top, scaleOf, top));
      const blocks = encodeLattice(stored);
      if (typeof blocks === "number") throw new Error(`block ${blocks} is on no lattice`);
      const back = new Float32Array(stored.length);
      decode("Q4_0", blocks, back);
      expect(Buffer.compare(Buffer.from(words(back).buffer), Buffer.from(stored.buffer))).toBe(0);
    }
  });

  it("are none where a single one is off by a bit, or not finite", () => {
    const good = words(lattice(5, () => half(0.0123)));
    expect(encodeLattice(good)).toBeInstanceOf(Uint8Array);
    for (const change of [(word: number) => word ^ 2, () => 0x7f80, () => 0xffc0]) {
      const bad = good.slice();
      const at = bad.findIndex((word, index) => index > 70 * 32 && (word & 0x7fff) !== 0);
      bad[at] = change(bad[at]!);
      expect(encodeLattice(bad)).toBe(Math.floor(at / 32));
    }
  });
});

it("finds no lattice in values of a normal spread", () => {
  const random = randomFrom(7);
  const values = Float32Array.from(
    { length: 32 * BLOCKS },
    () => (random() + random() + random() - 1.5) / 30,
  );
  expect(encodeLattice(words(values))).toBe(0);
});
