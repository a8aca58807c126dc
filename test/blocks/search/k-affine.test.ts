import { beforeAll, describe, expect, it } from "vitest";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { rowBytes } from "../../../src/blocks/table.js";
import type { BlockTypeName, Method } from "../../../src/blocks/types.js";
import { firstDifference, randomFrom } from "../../support/weights.js";

const count = 16384;
let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), count);
});

/** Normal values, and an importance of every one that varies as widely as `spread` says. */
function sample(seed: number, spread: (random: () => number) => number) {
  const random = randomFrom(seed);
  const normal = (): number => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
  const values = Float32Array.from({ length: count }, () => 0.02 * normal());
  return { values, importance: Float32Array.from({ length: count }, () => spread(random)) };
}

function pack(
  type: BlockTypeName,
  values: Float32Array,
  method: Method,
  importance?: Float32Array,
): Uint8Array {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  expect(kernels.convert("F32", type, values.length, importance, method)).toBe(-1);
  return kernels.output.slice();
}

/** Weighted squared error of each block of 256 values. */
function errors(
  type: BlockTypeName,
  values: Float32Array,
  bytes: Uint8Array,
  weights?: Float32Array,
): number[] {
  const stored = new Float32Array(values.length);
  decode(type, bytes, stored);
  const found = Array.from({ length: values.length / 256 }, () => 0);
  for (const [at, value] of values.entries()) {
    found[at >> 8]! += (weights?.[at] ?? 1) * (value - stored[at]!) ** 2;
  }
  return found;
}

const sumOf = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0);

// What a search of all scales and offsets loses less than ggml on such values, less a tenth of that.
describe.each([
  ["Q2_K", 0.22, 0.13],
  ["Q4_K", 0.055, 0.12],
  ["Q5_K", 0.12, 0.18],
] as const)("the search of %s", (type, plain, weighted) => {
  it("loses clearly less than ggml on normal values", () => {
    const { values, importance } = sample(31, (random) => Math.log(random()) ** 2);
    const share = (weights?: Float32Array): number => {
      const [ours, theirs] = (["search", "ggml"] as const).map((method) =>
        sumOf(errors(type, values, pack(type, values, method, weights), weights)),
      );
      return 1 - ours! / theirs!;
    };
    expect(share()).toBeGreaterThan(plain);
    expect(share(importance)).toBeGreaterThan(weighted);
  });

  it("never loses more on any block where a few columns matter a million times as much", () => {
    const { values, importance } = sample(32, (random) => (random() < 0.02 ? 1e6 : 1) * random());
    const ours = pack(type, values, "search", importance);
    const least = errors(type, values, pack(type, values, "ggml", importance), importance);
    for (const [block, error] of errors(type, values, ours, importance).entries()) {
      expect(error).toBeLessThanOrEqual(least[block]!);
    }
    const expected = new Uint8Array(rowBytes(type, count));
    encode(type, values, expected, importance, "search");
    expect(firstDifference(ours, expected)).toBe(-1);
  });

  it("stores blocks and sub-blocks that no importance is given to as well as others", () => {
    const { values } = sample(33, () => 1);
    const importance = new Float32Array(count).fill(1, 256, 2048);
    importance.fill(0, 512, 544);
    const found = errors(type, values, pack(type, values, "search", importance));
    const even = errors(type, values, pack(type, values, "search"));
    for (const [block, error] of found.entries()) expect(error).toBeLessThan(even[block]! * 1.5);
  });
});
