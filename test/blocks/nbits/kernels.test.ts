import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { BlockError } from "../../../src/blocks/errors.js";
import { joinChecksums } from "../../../src/blocks/kernels/checksums.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";
import type { NBitsType } from "../../../src/blocks/nbits/types.js";
import { rowBytes } from "../../../src/blocks/table.js";
import { campaignRuns } from "../../support/campaign.js";
import { firstDifference, importances, weights, withinHalf } from "../../support/weights.js";
import { nameOf, partsOf, types } from "./support.js";

const CAPACITY = 3 * 8192;
const sources = ["F32", "F16", "BF16"] as const;
let module: WebAssembly.Module;
let kernels: Kernels;

beforeAll(async () => {
  module = await compileKernels();
  kernels = new Kernels(module, CAPACITY);
});

/** Puts values into the input region as a source type; returns what they are after that rounding. */
function place(source: (typeof sources)[number], values: Float32Array): Float32Array {
  const bytes = kernels.input.subarray(0, rowBytes(source, values.length));
  encode(source, values, bytes);
  const rounded = new Float32Array(values.length);
  decode(source, bytes, rounded);
  return rounded;
}

/** First byte of each output that is not as expected. */
function differences(expected: readonly Uint8Array[]): number[] {
  return expected.map((part, index) => firstDifference(part, kernels.outputs[index]!));
}

describe.each(types.map((type) => [nameOf(type), type] as const))("the kernel for %s", (_, type) => {
  it.each(["search", "nearest"] as const)("gives the reference's bytes by the method %s", (method) => {
    const runs = campaignRuns(method === "search" ? 200 : 100);
    fc.assert(
      fc.property(
        fc.constantFrom(...sources),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 700 }),
        fc.nat(),
        fc.option(importances(700), { nil: undefined }),
        weights(2100, { min: -150, max: 4 }),
        (source, rows, row, start, every, raw) => {
          // Rows that begin anywhere in what was drawn: blocks then hold the ends of two fills.
          const from = start % (2100 - rows * row + 1);
          const cut = withinHalf(raw.slice(from, from + rows * row));
          const values = place(source, cut);
          fc.pre(values.every((value) => Math.abs(value) <= 65504));
          const importance = every?.slice(0, row);
          expect(kernels.convertNBits(source, type, row, rows, importance, method)).toBe(-1);
          const expected = partsOf(type, encodeNBits(type, row, values, importance, method));
          expect(kernels.outputs).toHaveLength(expected.length);
          expect(differences(expected)).toEqual(expected.map(() => -1));
        },
      ),
      { seed: 71, numRuns: runs },
    );
  });
});

const q4: NBitsType = { bits: 4, block: 32, zeroPoints: true };

describe("rows of codes", () => {
  it("are the same however many there are at a time, and longer than the kernels widen at once", () => {
    for (const type of types.filter(({ block }) => block === 16 || block === 256)) {
      for (const row of [4096, 4097, 6000]) {
        fc.assert(
          fc.property(weights(2 * row, { min: -20, max: 0 }), importances(row), (raw, importance) => {
            const values = place("F32", withinHalf(raw));
            expect(kernels.convertNBits("F32", type, row, 2, importance)).toBe(-1);
            const both = kernels.outputs.map((part) => part.slice());
            place("F32", values.slice(row));
            expect(kernels.convertNBits("F32", type, row, 1, importance)).toBe(-1);
            for (const [index, part] of kernels.outputs.entries()) {
              expect(firstDifference(part, both[index]!.subarray(part.length))).toBe(-1);
            }
            const expected = partsOf(type, encodeNBits(type, row, values.slice(row), importance));
            expect(differences(expected)).toEqual(expected.map(() => -1));
          }),
          { seed: 72, numRuns: campaignRuns(10) },
        );
      }
    }
  });

  it("stop at the first value that is not finite or that no half holds, wherever it stands", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...sources),
        fc.constantFrom(...types),
        fc.integer({ min: 1, max: 5000 }),
        fc.nat(),
        fc.nat(),
        fc.constantFrom(Number.NaN, Infinity, -Infinity, 65536, -1e30),
        (source, type, row, one, other, bad) => {
          const values = new Float32Array(2 * row).fill(0.5);
          const [first, second] = [one % (2 * row), other % (2 * row)].toSorted((a, b) => a - b);
          values[second!] = Number.NaN;
          values[first!] = bad;
          const finite = Number.isFinite(place(source, values)[first!]!);
          fc.pre(Math.ceil(row / type.block) * type.block * 2 <= CAPACITY);
          expect(kernels.convertNBits(source, type, row, 2)).toBe(first);
          expect(kernels.lastProblem).toBe(finite ? "overflow" : "non-finite");
          expect(kernels.outputs).toEqual([]);
        },
      ),
      { seed: 73, numRuns: campaignRuns(600) },
    );
    place("F32", Float32Array.of(65504, -65504, 1, 0));
    expect(kernels.convertNBits("F32", q4, 4, 1)).toBe(-1);
    expect(kernels.lastProblem).toBeUndefined();
  });

  it("fill the room of the kernels to the last block", () => {
    const type = { bits: 8, block: 16, zeroPoints: true } as const;
    for (const capacity of [16, 64, 4096 + 16, 5 * 4096]) {
      const own = new Kernels(module, capacity);
      const values = Float32Array.from({ length: capacity }, (_, at) => Math.sin(at));
      own.input.set(new Uint8Array(values.buffer));
      expect(own.convertNBits("F32", type, capacity, 1)).toBe(-1);
      const expected = partsOf(type, encodeNBits(type, capacity, values));
      for (const [index, part] of own.outputs.entries()) {
        expect(firstDifference(part, expected[index]!)).toBe(-1);
      }
      // The values are still what they were: no output reaches into the input.
      expect(firstDifference(own.input, new Uint8Array(values.buffer))).toBe(-1);
      expect(() => own.convertNBits("F32", type, capacity + 1, 1)).toThrow(/room/);
      // These would fit, but not in whole blocks.
      expect(() =>
        own.convertNBits("F32", { ...type, block: 256 }, 1, Math.floor(capacity / 256) + 1),
      ).toThrow(/in whole blocks/);
    }
  });

  it("have one checksum that hangs on every part and that their bytes give again", () => {
    const values = Float32Array.from({ length: 6 * 100 }, (_, at) => Math.cos(at));
    place("F32", values);
    const before = kernels.convert("F32", "Q8_0", 32);
    expect([before, kernels.outputs]).toEqual([-1, []]);
    kernels.convertNBits("F32", q4, 100, 6);
    const sum = kernels.checksumOfOutputs();
    const parts = kernels.outputs.map((part) => part.slice());
    const again = (each: readonly Uint8Array[]): number =>
      joinChecksums(
        each.map((bytes) => {
          kernels.input.set(bytes);
          return kernels.checksumOf(bytes.length);
        }),
      );
    expect(again(parts)).toBe(sum);
    for (const [index, part] of parts.entries()) {
      part[part.length - 1]! ^= 16;
      expect(again(parts)).not.toBe(sum);
      part[part.length - 1]! ^= 16;
      expect(again(parts.with(index, part.subarray(1)))).not.toBe(sum);
    }
    expect(again(parts.toReversed())).not.toBe(sum);
  });

  it("are refused by name", () => {
    const codes = (call: () => unknown): string => {
      try {
        call();
      } catch (error) {
        return error instanceof BlockError ? error.code : "another error";
      }
      return "none";
    };
    expect(codes(() => kernels.convertNBits("Q8_0", q4, 32, 1))).toBe("not-encodable");
    expect(codes(() => kernels.convertNBits("F32", { ...q4, block: 48 }, 32, 1))).toBe("bad-nbits");
    expect(codes(() => kernels.convertNBits("F32", { ...q4, bits: 3 as 2 }, 32, 1))).toBe("bad-nbits");
    for (const [row, rows] of [
      [0, 1],
      [32, 0],
      [1.5, 2],
      [Number.NaN, 1],
      [32, -1],
    ] as const) {
      expect(codes(() => kernels.convertNBits("F32", q4, row, rows))).toBe("bad-nbits");
    }
    expect(codes(() => kernels.convertNBits("F32", q4, 32, 1, new Float32Array(31)))).toBe("uneven-row");
    expect(codes(() => kernels.convertNBits("F32", q4, CAPACITY, 2))).toBe("over-capacity");
    expect(codes(() => kernels.convertNBits("F32", q4, 2 ** 40, 2 ** 40))).toBe("over-capacity");
  });
});
