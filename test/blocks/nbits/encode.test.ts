import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openFile } from "../../../formats/file-source.js";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import { packageRoot } from "../../../src/base/paths.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { floatToHalf, halfToFloat } from "../../../src/blocks/floats.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";
import { nbitsRow, type NBitsType } from "../../../src/blocks/nbits/types.js";
import { campaignRuns } from "../../support/campaign.js";
import { importances, randomFrom, weights, withinHalf } from "../../support/weights.js";
import { lossOf, nameOf, partsOf, stored, types } from "./support.js";

const named = types.map((type) => [nameOf(type), type] as const);
const q4: NBitsType = { bits: 4, block: 32, zeroPoints: false };

/** Sums of float32 choose between two scales; in double precision the chosen one may lose that much more. */
const ROUNDING = 1e-5;

describe.each(named)("%s", (_, type) => {
  it("never lose more by the search than by rounding to the nearest", () => {
    fc.assert(
      fc.property(
        weights(512, { min: -150, max: 4 }),
        fc.option(importances(512), { nil: undefined }),
        (raw, importance) => {
          const values = withinHalf(raw);
          const found = stored(type, 512, values, importance);
          const plain = stored(type, 512, values, importance, "nearest");
          for (let at = 0; at < 512; at += type.block) {
            const cut = (list: Float32Array): Float32Array => list.subarray(at, at + type.block);
            const own = importance && cut(importance);
            // Importances below 2^-100 of all values of a block weigh them alike.
            if (own !== undefined && Math.max(...own) < 2 ** -100) continue;
            const [searched, nearest] = [found, plain].map((kept) => lossOf(cut(values), cut(kept), own));
            expect(searched).toBeLessThanOrEqual(nearest! * (1 + ROUNDING));
          }
        },
      ),
      { seed: 81, numRuns: campaignRuns(200) },
    );
  });

  it("hold every block that lies on a lattice of theirs", () => {
    const [top, middle] = [2 ** type.bits - 1, 2 ** (type.bits - 1)];
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 0x7bff }),
        fc.integer({ min: 0, max: top }),
        fc.integer({ min: 0, max: top }),
        fc.integer({ min: 1, max: top }),
        fc.boolean(),
        fc.nat(),
        fc.option(importances(type.block), { nil: undefined }),
        (half, one, other, step, negative, seed, importance) => {
          const random = randomFrom(seed);
          const scale = halfToFloat(half);
          const zero = type.zeroPoints ? Math.min(one, other) : middle;
          // Some blocks take few of the levels, some only multiples of a few.
          const values = Float32Array.from({ length: type.block }, () => {
            const code = Math.floor(random() * (top + 1));
            const level = Math.trunc((code - zero) / step) * step;
            return (negative && !type.zeroPoints ? -scale : scale) * level;
          });
          fc.pre(values.every((value) => Math.abs(value) <= 65504));
          const found = stored(type, type.block, values, importance);
          expect(found.every((value, j) => value === values[j])).toBe(true);
        },
      ),
      { seed: 82, numRuns: campaignRuns(1000) },
    );
  });

  it("store finite values whatever they are given, and fill the last block with zeros", () => {
    const row = type.block + 5;
    fc.assert(
      fc.property(weights(row, { min: -150, max: 4 }), importances(row), (raw, importance) => {
        const tensors = encodeNBits(type, row, withinHalf(raw), importance);
        const blocks = nbitsRow(type, row).scales / 2;
        const padded = new Float32Array(blocks * type.block);
        decodeNBits(type, padded.length, tensors, padded);
        expect(padded.every((value) => Number.isFinite(value))).toBe(true);
        expect(padded.subarray(row).every((value) => value === 0)).toBe(true);
      }),
      { seed: 83, numRuns: campaignRuns(200) },
    );
    for (const value of [0, -0, 2 ** -26, -(2 ** -140)]) {
      const values = new Float32Array(row).fill(value);
      expect(stored(type, row, values).every((kept) => kept === 0)).toBe(true);
    }
  });
});

/** Least error of a block over all halves and all zero points (or both signs). */
function scan(type: NBitsType, values: Float32Array, importance: Float32Array): number {
  const [top, middle] = [2 ** type.bits - 1, 2 ** (type.bits - 1)];
  const most = Math.max(...values.map(Math.abs));
  const zeros = type.zeroPoints ? Array.from({ length: top + 1 }, (_, zero) => zero) : [middle - 1, middle];
  let least = Infinity;
  // From where all levels together span a quarter of the largest value to where half a step does.
  for (let half = floatToHalf(most / 4 / top); half <= floatToHalf(2 * most); half++) {
    const scale = halfToFloat(half);
    for (const zero of zeros) {
      let loss = 0;
      for (let j = 0; j < values.length && loss < least; j++) {
        const level = Math.max(-zero, Math.min(top - zero, Math.round(values[j]! / scale)));
        loss += importance[j]! * (values[j]! - scale * level) ** 2;
      }
      least = Math.min(least, loss);
    }
  }
  return least;
}

/** A normal number. */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
}

describe("the search of few bits", () => {
  const few = types.filter(({ bits, block }) => bits < 8 && (block === 32 || block === 128));

  it.each(few.map((type) => [nameOf(type), type] as const))(
    "closes most of the gap between the nearest and the best of %s",
    (_, type) => {
      const random = randomFrom(91);
      for (const weighted of [false, true]) {
        const sums = { nearest: 0, search: 0, scan: 0 };
        for (let k = 0; k < 12; k++) {
          // Some blocks are wide, some lie mostly on one side of 0.
          const shift = k % 3;
          const values = Float32Array.from({ length: type.block }, () => normal(random) + shift);
          const importance = values.map(() => (weighted ? normal(random) ** 2 : 1));
          const given = weighted ? importance : undefined;
          for (const method of ["nearest", "search"] as const) {
            sums[method] += lossOf(values, stored(type, type.block, values, given, method), importance);
          }
          sums.scan += scan(type, values, importance);
        }
        expect(sums.scan).toBeLessThanOrEqual(sums.search * (1 + ROUNDING));
        expect(sums.nearest - sums.search).toBeGreaterThan(0.95 * (sums.nearest - sums.scan));
      }
    },
  );

  it("loses no more than that of Q4_0 on the weights of the miniature", async () => {
    const checkpoint = await openCheckpoint(join(packageRoot, "fixtures/nano-e"));
    const source = await openFile(checkpoint.shards[0]!.path);
    const random = randomFrom(92);
    const sums = [0, 0, 0, 0];
    for (const { shape, offset } of checkpoint.tensors.values()) {
      const row = shape.at(-1)!;
      if (shape.length !== 2 || row % 32 !== 0) continue;
      const bytes = new Uint8Array(2 * row);
      const importance = Float32Array.from({ length: row }, () => normal(random) ** 2);
      for (let r = 0; r < 2; r++) {
        await source.read(bytes, offset + 2 * row * Math.floor((r * shape[0]!) / 2));
        const values = new Float32Array(row);
        decode("BF16", bytes, values);
        for (const [index, own] of [undefined, importance].entries()) {
          sums[2 * index]! += lossOf(values, stored(q4, row, values, own), own);
          const blocks = new Uint8Array((row / 32) * 18);
          encode("Q4_0", values, blocks, own, "search");
          const theirs = new Float32Array(row);
          decode("Q4_0", blocks, theirs);
          sums[2 * index + 1]! += lossOf(values, theirs, own);
        }
      }
    }
    await source.close();
    expect(sums[0]).toBeGreaterThan(0);
    expect(sums[0]).toBeLessThanOrEqual(sums[1]!);
    expect(sums[2]).toBeLessThanOrEqual(sums[3]!);
  });
});

describe("codes", () => {
  it("lie as the runtime reads them, lowest bits first", () => {
    // Extremes on the lowest code: scale 1/2, without zero points.
    const values = Float32Array.from({ length: 16 }, (_, j) => (j - 8) / 2);
    const [codes, scales] = partsOf({ ...q4, block: 16 }, encodeNBits({ ...q4, block: 16 }, 16, values));
    expect([...codes!]).toEqual([0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
    expect([...scales!]).toEqual([0x00, 0x38]);
    const two = { bits: 2, block: 16, zeroPoints: true } as const;
    const rows = Float32Array.from({ length: 48 }, (_, j) =>
      j < 16 ? j % 4 : j < 32 ? -(j % 4) : (j % 4) - 1,
    );
    const parts = partsOf(two, encodeNBits(two, 48, rows, undefined, "nearest"));
    const words = [0xe4, 0x1b, 0xe4];
    expect([...parts[0]!]).toEqual(words.flatMap((byte) => [byte, byte, byte, byte]));
    expect([...parts[2]!]).toEqual([0b01_11_00]);
  });

  it("are refused when they or the values are not whole rows", () => {
    const tensors = encodeNBits(q4, 40, new Float32Array(80));
    expect(() => decodeNBits(q4, 40, tensors, new Float32Array(40))).toThrow(/codes of 1 rows/);
    expect(() => decodeNBits(q4, 40, tensors, new Float32Array(81))).toThrow(/rows/);
    expect(() => decodeNBits({ ...q4, zeroPoints: true }, 40, tensors, new Float32Array(80))).toThrow(
      /zeroPoints of 2 rows/,
    );
    expect(() => encodeNBits(q4, 40, new Float32Array(81))).toThrow(/whole rows/);
    expect(() => encodeNBits(q4, 40, new Float32Array(80), new Float32Array(80))).toThrow(/80 columns/);
    expect(() => encodeNBits({ ...q4, bits: 3 as 2 }, 40, new Float32Array(80))).toThrow(/3 bits/);
    expect(() => encodeNBits({ ...q4, block: 8 }, 40, new Float32Array(80))).toThrow(/blocks of 8/);
  });
});
