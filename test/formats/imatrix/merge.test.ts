import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ImatrixMerge, type MergedImatrix } from "../../../formats/imatrix/merge.js";
import { readSums } from "../../../formats/imatrix/read.js";
import type { SummedMatrix } from "../../../formats/imatrix/types.js";
import { writeImatrix } from "../../../formats/imatrix/write.js";
import { scratchFolder } from "../../support/convert.js";
import { contentsOf, type LegacyEntry, legacyBytes, writeFloats } from "../../support/imatrix.js";

type Lists = Readonly<Record<string, readonly [sums: readonly number[], counts: readonly number[]]>>;

/** What a file of these sums and counts is read as. */
function matrixOf(path: string, lists: Lists, chunkTokens: number | null = 512): SummedMatrix {
  const shared = (list: readonly number[]) => {
    const floats = new Float32Array(new SharedArrayBuffer(4 * list.length));
    floats.set(list);
    return floats;
  };
  const entries = Object.entries(lists).map(([name, [sums, counts]]) => {
    const columns = sums.length / counts.length;
    return [name, { name, columns, sums: shared(sums), counts: Float64Array.from(counts) }] as const;
  });
  const format = chunkTokens === null ? "legacy" : "gguf";
  return { path, format, datasets: [`${path}.txt`], chunks: 1, chunkTokens, entries: new Map(entries) };
}

function merge(
  files: readonly (readonly [matrix: SummedMatrix, weight?: number])[],
  chunkTokens?: number,
): MergedImatrix {
  const merging = new ImatrixMerge(chunkTokens);
  for (const [matrix, weight] of files) merging.add(matrix, weight);
  return merging.finish();
}

function merged(...parameters: Parameters<typeof merge>) {
  return contentsOf(merge(...parameters).contents.entries);
}

describe("importance matrices", () => {
  it("add up sums, counts and texts", () => {
    const a = matrixOf("a", {
      w: [
        [1, 2, 3, 4],
        [512, 0],
      ],
      only: [[5], [1024]],
    });
    const b = matrixOf("b", {
      w: [
        [10, 20, 30, 40],
        [1, 1030],
      ],
    });
    const { contents, partial } = merge([[a], [b]]);
    expect(contentsOf(contents.entries)).toEqual({
      // Sums of no token are not counted.
      w: { columns: 2, sums: [11, 22, 30, 40], counts: [513, 1030] },
      only: { columns: 1, sums: [5], counts: [1024] },
    });
    expect(contents).toMatchObject({ datasets: ["a.txt", "b.txt"], chunkTokens: 512, chunks: 2 });
    expect(partial).toEqual([{ name: "only", missing: ["b"] }]);
  });

  it("count as often as they weigh", () => {
    const a = matrixOf("a", { w: [[8, 4], [100]] });
    const b = matrixOf("b", { w: [[1, 1], [50]] });
    expect(merged([[a, 2], [b]])["w"]).toEqual({ columns: 2, sums: [17, 9], counts: [250] });
    expect(
      merged([
        [a, 0.25],
        [b, 2],
      ])["w"],
    ).toEqual({ columns: 2, sums: [4, 3], counts: [125] });
  });

  it("keep the mean where a weight leaves no whole count", () => {
    const share = fc.double({ min: 1e-6, max: 1e6, noNaN: true });
    const counts = fc.integer({ min: 1, max: 1e6 });
    fc.assert(
      fc.property(share, share, counts, counts, (weightA, weightB, countA, countB) => {
        const a = matrixOf("a", { w: [[3 * countA, 0], [countA]] });
        const b = matrixOf("b", { w: [[countB, countB], [countB]] });
        const { sums, counts } = [
          ...merge([
            [a, weightA],
            [b, weightB],
          ]).contents.entries,
        ][0]!;
        const [tokensA, tokensB] = [weightA * countA, weightB * countB];
        const [count = 0] = counts;
        expect(Number.isInteger(count) && count >= 1).toBe(true);
        expect((sums[0] ?? 0) / count / ((3 * tokensA + tokensB) / (tokensA + tokensB))).toBeCloseTo(1, 9);
        expect((sums[1] ?? 0) / count / (tokensB / (tokensA + tokensB))).toBeCloseTo(1, 9);
        expect(Math.abs(count - tokensA - tokensB)).toBeLessThanOrEqual(tokensA + tokensB < 1 ? 1 : 0.5);
      }),
    );
  });

  it("come out alike in any order, and as one file in parts", () => {
    const values = fc.array(fc.nat(1000), { minLength: 4, maxLength: 4 });
    const file = fc.tuple(values, fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 })));
    fc.assert(
      fc.property(fc.array(file, { minLength: 1, maxLength: 5 }), (files) => {
        const matrices = files.map(([sums, counts], at) => matrixOf(`${at}`, { w: [sums, counts] }));
        const all = merged(matrices.map((matrix) => [matrix]));
        expect(merged(matrices.toReversed().map((matrix) => [matrix]))).toEqual(all);
        const column = (at: number) => files.reduce((sum, [sums]) => sum + (sums[at] ?? 0), 0);
        expect(all["w"]?.sums).toEqual([0, 1, 2, 3].map(column));
      }),
    );
  });

  it("let one count stand for all experts", () => {
    const stack = matrixOf("stack", {
      w: [
        [1, 2, 3, 4],
        [10, 20],
      ],
    });
    const whole = matrixOf("whole", { w: [[1, 1, 1, 1], [5]] });
    const expected = { columns: 2, sums: [2, 3, 4, 5], counts: [15, 25] };
    expect(merged([[stack], [whole]])["w"]).toEqual(expected);
    expect(merged([[whole], [stack]])["w"]).toEqual(expected);
    expect(merged([[whole], [whole], [stack]])["w"]?.counts).toEqual([20, 30]);
  });

  it("of the old format count by the windows of the others", () => {
    // Means of 1 and 2 in 3 windows.
    const old = matrixOf("old.dat", { w: [[3, 6], [3]] }, null);
    const a = matrixOf("a", { w: [[100, 100], [50]] }, 10);
    expect(merged([[old], [a]])["w"]).toEqual({ columns: 2, sums: [130, 160], counts: [80] });
    expect(merged([[a], [old, 2]])["w"]).toEqual({ columns: 2, sums: [160, 220], counts: [110] });
    expect(merge([[old]]).contents).toMatchObject({ chunks: 3, chunkTokens: 512 });
    expect(merged([[old]], 100)["w"]).toEqual({ columns: 2, sums: [300, 600], counts: [300] });
  });

  it("of windows of other lengths add up when the length is given", () => {
    const a = matrixOf("a", { w: [[1], [512]] });
    const b = matrixOf("b", { w: [[1], [2048]] }, 2048);
    expect(() => merge([[a], [b]])).toThrow(/^b: windows have 2048 tokens, expected 512 as in a\./);
    expect(merge([[a], [b]], 1024).contents).toMatchObject({ chunks: 2, chunkTokens: 1024 });
    const zero = matrixOf("zero", { w: [[1], [1]] }, 0);
    expect(() => merge([[zero]])).toThrow(/^zero: windows have 0 tokens/);
    expect(merge([[zero]], 512).contents).toMatchObject({ chunks: 0, chunkTokens: 512 });
  });

  it("of another model are refused by name", () => {
    const a = matrixOf("a", {
      w: [
        [1, 2, 3, 4, 5, 6],
        [1, 1],
      ],
      v: [[1], [1]],
    });
    const refused = (lists: Lists, words: RegExp, chunkTokens: number | null = 512) => {
      const files = [[a], [matrixOf("b", lists, chunkTokens)]] as const;
      expect(() => merge(files)).toThrow(words);
      expect(() => merge(files)).toThrow(
        expect.objectContaining({ code: "imatrix-mismatch", exitCode: 2 }) as Error,
      );
    };
    refused({ w: [[1, 2], [1]] }, /^b: w has 2 values, expected 6 as in a\./);
    refused({ w: [[1, 2], [1]] }, /^b: w has 2 values, expected 6 as in a\./, null);
    refused(
      {
        w: [
          [1, 2, 3, 4, 5, 6],
          [1, 1, 1],
        ],
      },
      /^b: w has 3 matrices, expected 2 as in a\./,
    );
    refused({ u: [[1], [1]] }, /^b: none of its 1 tensors \(u, …\) is in a\./);
  });

  it("of the old format without windows are refused", () => {
    const old = matrixOf("old.dat", { w: [[3, 6], [0]] }, null);
    expect(() => merge([[old]])).toThrow(/^old\.dat: w comes from 0 windows/);
  });
});

describe("merged files", () => {
  const folder = scratchFolder();

  function legacy(name: string, entries: readonly LegacyEntry[]): string {
    const path = join(folder, name);
    writeFileSync(path, legacyBytes(entries));
    return path;
  }

  it("are written and read, old and new together", async () => {
    const old = legacy("old.dat", [{ name: "w", calls: 2, values: [2, 0.5] }]);
    const lists = { "w.in_sum2": [4, 0], "w.counts": [512] };
    const now = writeFloats(join(folder, "now.gguf"), new Map(Object.entries(lists)));
    const merging = new ImatrixMerge();
    merging.add(await readSums(old));
    merging.add(await readSums(now), 3);
    const path = join(folder, "both.gguf");
    await writeImatrix(path, merging.finish().contents);
    const read = await readSums(path);
    expect(contentsOf(read.entries.values())).toEqual({
      w: { columns: 2, sums: [1036, 256], counts: [2560] },
    });
    expect(read).toMatchObject({ chunks: 5, datasets: ["a/b.txt"] });
  });

  it("whose sums leave float32 are not written", async () => {
    const merging = new ImatrixMerge();
    for (let file = 0; file < 2; file++) merging.add(matrixOf("large", { w: [[3e38], [1]] }));
    const written = writeImatrix(join(folder, "large.gguf"), merging.finish().contents);
    await expect(written).rejects.toMatchObject({ code: "imatrix-value" });
  });
});
