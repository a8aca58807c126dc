import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encode } from "../../../src/blocks/encode/encode.js";
import { pointAt, pointsAround } from "../../../src/blocks/encode/ternary-points.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import { firstDifference, randomFrom, withinHalf } from "../../support/weights.js";

const types = ["IQ1_S", "IQ1_M"] as const;

/** What makes cuts of the sorted values equally good, or weights and products lose digits. */
const fills: readonly ((random: () => number) => number)[] = [
  (random) => random() - 0.5,
  (random) => 1 + random(),
  (random) => Math.round(6 * random()) - 3,
  (random) => Math.sign(random() - 0.5) * 2 ** (60 * random() - 30),
  () => 0.7,
  () => -0,
];
const importanceFills: readonly ((random: () => number) => number)[] = [
  () => 1,
  (random) => random(),
  (random) => (random() < 0.5 ? 0 : 1),
  (random) => 2 ** (40 * random() - 20),
  () => 0,
];

/** A row in which every group of eight values, the smallest unit of these types, may be of another kind. */
function mixed(seed: number, count: number, choices: readonly ((random: () => number) => number)[]) {
  const random = randomFrom(seed);
  const values = new Float32Array(count);
  for (let o = 0; o < count; o += 8) {
    const fill = choices[Math.floor(random() * choices.length)] ?? Math.random;
    for (let j = o; j < o + 8; j++) values[j] = fill(random);
  }
  return values;
}

describe("the ternary lattice", () => {
  it("has 2048 points, and around every other vector some", () => {
    const vectors = Array.from({ length: 3 ** 8 }, (_, code) => code);
    expect(new Set(vectors.map(pointAt).filter((point) => point !== undefined)).size).toBe(2048);
    const counts = vectors
      .filter((code) => pointAt(code) === undefined)
      .map((code) => pointsAround(code).length);
    expect(Math.min(...counts)).toBeGreaterThan(8);
    expect(counts.reduce((sum, count) => sum + Math.ceil(count / 16), 0)).toBe(22_647);
  });

  it("is searched alike by the reference and by one kernel that serves both types", async () => {
    const kernels = new Kernels(await compileKernels(), 1280);
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.integer({ min: -40, max: 8 }), (seed, other, exponent) => {
        const row = withinHalf(mixed(seed, 1280, fills).map((value) => value * 2 ** exponent));
        const importance = mixed(other, 1280, importanceFills);
        for (const type of types) {
          const expected = new Uint8Array(rowBytes(type, row.length));
          encode(type, row, expected, importance);
          encode("F32", row, kernels.input);
          expect(kernels.convert("F32", type, row.length, importance)).toBe(-1);
          expect(firstDifference(kernels.output, expected)).toBe(-1);
        }
      }),
      { seed: 19, numRuns: 40 },
    );
  });

  it("counts every value the same without an importance", () => {
    const row = mixed(1, 512, fills);
    for (const type of types) {
      const plain = new Uint8Array(rowBytes(type, row.length));
      const even = plain.slice();
      encode(type, row, plain);
      encode(type, row, even, new Float32Array(512).fill(1));
      expect(firstDifference(plain, even)).toBe(-1);
    }
  });
});
