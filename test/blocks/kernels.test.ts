import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { decode } from "../../src/blocks/decode/decode.js";
import { encodable, encode } from "../../src/blocks/encode/encode.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { blockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { campaignRuns } from "../support/campaign.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";
import { firstDifference, importances, weights, withinHalf } from "../support/weights.js";

const ggml = loadGgmlQuants();
const sources = ["F32", "F16", "BF16"] as const;
/** Their own range decides what they refuse; the others refuse what no half holds. */
const unlimited: ReadonlySet<BlockTypeName> = new Set(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K"]);
/** The reference is held to ggml elsewhere; here ggml's tables for these would take a minute. */
const lattices = /^IQ[123]/;
/** Largest magnitude that a type takes which looks at values one by one. */
const largest = (target: BlockTypeName): number => (target === "NVFP4" ? 2688 : 65504);
const pairs = sources.flatMap((source) => encodable.map((target) => [source, target] as const));
const CAPACITY = 8192;

let kernels: Kernels;
let module: WebAssembly.Module;

beforeAll(async () => {
  module = await compileKernels();
  kernels = new Kernels(module, CAPACITY);
});

/** Puts values into the input region as a source type; returns what they are after that rounding. */
function place(source: BlockTypeName, values: Float32Array): Float32Array {
  const bytes = kernels.input.subarray(0, rowBytes(source, values.length));
  encode(source, values, bytes);
  const rounded = new Float32Array(values.length);
  decode(source, bytes, rounded);
  return rounded;
}

/** Converts values that lie in the input region and says how the result compares with the other encoders'. */
function judge(source: BlockTypeName, target: BlockTypeName, values: Float32Array): string {
  const index = kernels.convert(source, target, values.length);
  const expected = new Uint8Array(rowBytes(target, values.length));
  encode(target, values, expected);
  if (index < 0) {
    const own = firstDifference(kernels.output, expected);
    if (own >= 0) return `byte ${own} differs from the reference encoder`;
    const theirs = lattices.test(target) ? undefined : ggml?.quantize(target, values);
    const other = theirs === undefined ? -1 : firstDifference(kernels.output, theirs);
    if (other >= 0) return `byte ${other} differs from ggml`;
    return kernels.lastProblem === undefined ? "same bytes" : "a problem with an index of -1";
  }
  if (kernels.lastProblem !== "overflow" || kernels.output.length > 0) return "a problem of the wrong kind";
  const value = values[index] ?? 0;
  if (!unlimited.has(target)) {
    const first = values.findIndex((each) => Math.abs(each) > largest(target));
    return first === index ? "rightly refused" : `value ${index} is refused for value ${first}`;
  }
  const decoded = new Float32Array(values.length);
  decode(target, expected, decoded);
  const kept = Math.abs((decoded[index] ?? 0) - value) <= Math.abs(value) / 2;
  return kept ? `value ${index} is refused but would be kept` : "rightly refused";
}

describe.each(pairs)("from %s to %s", (source, target) => {
  // Halves end at 65504; the fills reach 2^10 by themselves.
  const exponents = source === "F16" ? { min: -30, max: 4 } : { min: -150, max: 127 };

  const limit = unlimited.has(target) ? Number.MAX_VALUE : target === "NVFP4" ? 2688 : 65504;

  it("gives the reference encoder's bytes, or names a value that would be lost", () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(weights(512, exponents), (row) => {
        const values = place(source, unlimited.has(target) ? row : withinHalf(row, limit));
        // Rounding to the source can lift a value over the limit.
        fc.pre(values.every((value) => Math.abs(value) <= limit));
        const outcome = judge(source, target, values);
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
        expect(outcome).toMatch(/^(same bytes|rightly refused)$/);
      }),
      { seed: 3, numRuns: campaignRuns(600) },
    );
    expect(seen.get("same bytes")).toBeGreaterThan(campaignRuns(600) / 2);
  });

  it("finds the first value that is not finite wherever it stands", () => {
    const infinity = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 }[source];
    const quiet = { F32: 0x400000, F16: 0x200, BF16: 0x40 }[source];
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 4 * 256 }).map((blocks) => 256 * (1 + (blocks >> 7))),
        fc.nat(),
        fc.nat(),
        fc.constantFrom(0, 1, quiet),
        fc.boolean(),
        (count, one, other, payload, negative) => {
          place(source, new Float32Array(count).fill(0.5));
          const view = new DataView(kernels.input.buffer, kernels.input.byteOffset, kernels.input.length);
          const signs = source === "F32" ? 2 ** 31 : 2 ** 15;
          const bits = infinity + payload + (negative ? signs : 0);
          for (const at of [one % count, other % count]) {
            if (source === "F32") view.setUint32(4 * at, bits, true);
            else view.setUint16(2 * at, bits, true);
          }
          expect(kernels.convert(source, target, count)).toBe(Math.min(one % count, other % count));
          expect(kernels.lastProblem).toBe("non-finite");
          expect(kernels.output.length).toBe(0);
        },
      ),
      { seed: 5, numRuns: campaignRuns(300) },
    );
  });

  it.runIf(Kernels.heedsImportance(target))("gives the reference encoder's bytes for an importance", () => {
    fc.assert(
      fc.property(weights(1024, exponents), importances(512), (row, importance) => {
        const values = place(source, withinHalf(row));
        fc.pre(values.every((value) => Math.abs(value) <= 65504));
        const expected = new Uint8Array(rowBytes(target, values.length));
        encode(target, values, expected, importance);
        expect(kernels.convert(source, target, values.length, importance)).toBe(-1);
        expect(firstDifference(kernels.output, expected)).toBe(-1);
      }),
      { seed: 4, numRuns: campaignRuns(300) },
    );
  });

  it("handles every length up to a few blocks, and nothing", () => {
    const step = blockType(target).values;
    const values = place(
      source,
      new Float32Array(1024).map((_, i) => Math.sin(i) / 50),
    );
    for (let count = 0; count <= Math.max(40, 3 * step); count += step) {
      expect(kernels.convert(source, target, count)).toBe(-1);
      const expected = new Uint8Array(rowBytes(target, count));
      encode(target, values.subarray(0, count), expected);
      expect(firstDifference(kernels.output, expected)).toBe(-1);
    }
  });
});

describe("Kernels", () => {
  it("rounds every level of Q8_0 half away from zero, ties and their neighbours", () => {
    const float = new Float32Array(1);
    const bits = new Uint32Array(float.buffer);
    for (let level = 0; level < 127; level++) {
      for (const by of [-1, 0, 1]) {
        float[0] = level + 0.5;
        bits[0] = (bits[0] ?? 0) + by;
        const row = new Float32Array(64).fill(float[0] ?? 0).fill(-(float[0] ?? 0), 33);
        row[0] = 127;
        row[32] = 127;
        place("F32", row);
        kernels.convert("F32", "Q8_0", 64);
        const levels = new Int8Array(kernels.output);
        expect(levels[3]).toBe(by < 0 ? level : level + 1);
        expect(levels[34 + 3]).toBe(by < 0 ? 0 - level : -level - 1);
      }
    }
  });

  it("names the value whose half would be infinite, and takes the one below", () => {
    place("F32", Float32Array.of(1, -65519, 65504, 65520, 70000));
    expect(kernels.convert("F32", "F16", 3)).toBe(-1);
    expect(kernels.convert("F32", "F16", 5)).toBe(3);
    expect(kernels.lastProblem).toBe("overflow");
  });

  it("names the largest value of a block whose scale has no half", () => {
    const row = new Float32Array(512).fill(1);
    row[300] = -1e9;
    place("F32", row);
    for (const target of ["Q8_0", "Q4_0", "Q6_K"] as const) {
      expect(kernels.convert("F32", target, 512)).toBe(300);
      expect(kernels.lastProblem).toBe("overflow");
    }
    // So large that both sums of the search overflow: ggml would store zeros for these sixteen values.
    for (const rest of [1, 0]) {
      row.fill(rest)[300] = 1e19;
      place("F32", row);
      expect(kernels.convert("F32", "Q6_K", 512)).toBe(300);
      expect(kernels.lastProblem).toBe("overflow");
    }
  });

  it("refuses what no half holds before it searches, and what NVFP4 cannot scale", () => {
    for (const target of encodable) {
      if (unlimited.has(target)) continue;
      const limit = largest(target);
      const row = new Float32Array(512).fill(0.01);
      row[300] = -limit;
      place("F32", row);
      expect(kernels.convert("F32", target, 512)).toBe(-1);
      row[300] = limit * 1.01;
      place("F32", row);
      expect(kernels.convert("F32", target, 512)).toBe(300);
      expect(kernels.lastProblem).toBe("overflow");
    }
  });

  it("recovers after a problem", () => {
    place("F32", Float32Array.of(Infinity));
    expect(kernels.convert("F32", "BF16", 1)).toBe(0);
    place("F32", Float32Array.of(1));
    expect(kernels.convert("F32", "BF16", 1)).toBe(-1);
    expect(kernels.lastProblem).toBeUndefined();
    expect([...kernels.output]).toEqual([0x80, 0x3f]);
  });

  it("makes the half of every finite bfloat16 that has one, in every place of a vector", () => {
    // In order, then with other neighbours: subnormal halves beside normal ones.
    for (const step of [1, 9, 4097]) {
      const bits = Uint16Array.from({ length: 65_536 }, (_, index) => (index * step) & 0xffff);
      const finite = bits.filter((each) => (each & 0x7fff) < 0x4780);
      for (let start = 0; start < finite.length; start += CAPACITY) {
        const part = finite.slice(start, start + CAPACITY);
        kernels.input.set(new Uint8Array(part.buffer));
        expect(kernels.convert("BF16", "F16", part.length)).toBe(-1);
        const values = new Float32Array(part.length);
        decode("BF16", new Uint8Array(part.buffer), values);
        const expected = new Uint8Array(2 * part.length);
        encode("F16", values, expected);
        expect(firstDifference(kernels.output, expected)).toBe(-1);
      }
    }
  });

  it("gives the input itself for equal types", () => {
    place("BF16", Float32Array.of(1, 2, 3));
    expect(kernels.convert("BF16", "BF16", 3)).toBe(-1);
    expect(kernels.output.byteOffset).toBe(kernels.input.byteOffset);
    expect(kernels.output.length).toBe(6);
  });

  it("keeps instances of one module apart and uses all of the capacity", () => {
    const other = new Kernels(module, 32);
    place("F32", new Float32Array(32).fill(3));
    kernels.convert("F32", "F32", 32);
    encode("F32", new Float32Array(32).fill(5), other.input);
    other.convert("F32", "Q8_0", 32);
    expect(kernels.output[3]).toBe(new Uint8Array(Float32Array.of(3).buffer)[3]);
    place("F32", new Float32Array(CAPACITY).fill(-0.25));
    expect(kernels.convert("F32", "Q8_0", CAPACITY)).toBe(-1);
    expect(new Int8Array(kernels.output).at(-1)).toBe(-127);
    // What the searches and rounding with feedback keep beside tiles.
    expect(other.input.buffer.byteLength).toBeLessThan(7 * 65_536);
  });

  it("refuses what it cannot do", () => {
    expect(Kernels.supports("BF16", "Q6_K")).toBe(true);
    expect(Kernels.supports("Q8_0", "F32")).toBe(false);
    expect(Kernels.supports("F32", "I8")).toBe(false);
    expect(() => kernels.convert("F32", "I8", 256)).toThrow(
      expect.objectContaining({ code: "not-encodable" }),
    );
    expect(() => kernels.convert("F32", "Q6_K", 32)).toThrow(expect.objectContaining({ code: "uneven-row" }));
    expect(() => kernels.convert("F32", "F16", CAPACITY + 1)).toThrow(
      expect.objectContaining({ code: "over-capacity" }),
    );
    for (const capacity of [0, -1, 1.5, 2 ** 29, Number.NaN]) {
      expect(() => new Kernels(module, capacity)).toThrow(expect.objectContaining({ code: "bad-capacity" }));
    }
  });
});

describe("checksums", () => {
  function spread(bits: number): number {
    let mixed = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return mixed ^ (mixed >>> 16);
  }

  /** What the kernel is to give, word by word. */
  function expected(bytes: Uint8Array): number {
    const padded = new Uint8Array(Math.ceil(bytes.length / 64) * 64);
    padded.set(bytes);
    const words = new Uint32Array(padded.buffer);
    const sum = new Int32Array(16);
    const sums = new Int32Array(16);
    for (const [index, word] of words.entries()) {
      const lane = index % 16;
      sum[lane] = (sum[lane] ?? 0) + word;
      sums[lane] = (sums[lane] ?? 0) + (sum[lane] ?? 0);
    }
    let result = spread(bytes.length);
    const fold = (lane: number): void => {
      result = spread((result ^ lane) + 0x9e3779b9);
    };
    for (let lane = 0; lane < 16; lane += 4) {
      for (const each of sum.subarray(lane, lane + 4)) fold(each);
      for (const each of sums.subarray(lane, lane + 4)) fold(each);
    }
    return result >>> 0;
  }

  function given(bytes: Uint8Array): number {
    // What lies behind the bytes does not count.
    kernels.input.fill(0xa5);
    kernels.input.set(bytes);
    return kernels.checksumOf(bytes.length);
  }

  it("are those of a plain loop for every length up to a few vectors", () => {
    const bytes = Uint8Array.from({ length: 300 }, (_, index) => (index * 197 + 11) & 255);
    const seen = new Set<number>();
    for (let length = 0; length <= bytes.length; length++) {
      const found = given(bytes.subarray(0, length));
      expect(found).toBe(expected(bytes.subarray(0, length)));
      seen.add(found);
    }
    expect(seen.size).toBe(bytes.length + 1);
    expect(given(new Uint8Array(1))).not.toBe(given(new Uint8Array(2)));
  });

  it("are those of a plain loop, and change with any bit and with the order of words", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 2, maxLength: 4096, size: "max" }),
        fc.nat(),
        fc.nat({ max: 7 }),
        (bytes, at, bit) => {
          const before = given(bytes);
          expect(before).toBe(expected(bytes));
          const flipped = bytes.slice();
          flipped[at % bytes.length] = (flipped[at % bytes.length] ?? 0) ^ (1 << bit);
          expect(given(flipped)).not.toBe(before);
          const swapped = bytes.slice();
          const half = bytes.length >> 1;
          swapped.set(bytes.subarray(half, 2 * half));
          swapped.set(bytes.subarray(0, half), half);
          expect(given(swapped) === before).toBe(firstDifference(swapped, bytes) < 0);
        },
      ),
      { seed: 9, numRuns: 200 },
    );
  });

  it("of an output are those of its bytes, wherever they lie", () => {
    for (const [source, target] of [
      ["F32", "Q8_0"],
      ["F32", "F32"],
      ["BF16", "F16"],
    ] as const) {
      place(
        source,
        new Float32Array(544).map((_, index) => Math.cos(index)),
      );
      expect(kernels.convert(source, target, 544)).toBe(-1);
      const found = kernels.checksum();
      expect(given(kernels.output.slice())).toBe(found);
    }
  });

  it("are refused for more bytes than there is room for", () => {
    expect(() => kernels.checksumOf(4 * CAPACITY + 1)).toThrow(
      expect.objectContaining({ code: "over-capacity" }),
    );
  });
});
