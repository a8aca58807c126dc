import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gguf as readWithHub } from "@huggingface/gguf";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readImportance, readSums } from "../../../formats/imatrix/read.js";
import type { ImatrixContents, SummedEntry } from "../../../formats/imatrix/types.js";
import { writeImatrix } from "../../../formats/imatrix/write.js";
import { scratchFolder } from "../../support/convert.js";
import { contentsOf } from "../../support/imatrix.js";

const reference = "fixtures/reference/imatrix.gguf";

function contents(entries: readonly SummedEntry[], head: Partial<ImatrixContents> = {}): ImatrixContents {
  return { datasets: ["text.txt"], chunks: 3, chunkTokens: 512, ...head, entries };
}

function entry(sums: readonly number[], counts: readonly number[], name = "w"): SummedEntry {
  return {
    name,
    columns: sums.length / counts.length,
    sums: Float64Array.from(sums),
    counts: Float64Array.from(counts),
  };
}

/** A name that fits in ggml's with either ending, in characters of one to four bytes. */
const names = fc.string({ unit: "grapheme", minLength: 1, maxLength: 55 }).filter((name) => {
  return Buffer.byteLength(name) <= 55 && !name.includes("\0");
});

const sizes = fc.record({
  name: names,
  matrices: fc.integer({ min: 1, max: 4 }),
  columns: fc.integer({ min: 1, max: 9 }),
});

const entries = fc
  .uniqueArray(sizes, { minLength: 1, maxLength: 6, selector: ({ name }) => name })
  .chain((all) =>
    fc.tuple(
      ...all.map(({ name, matrices, columns }) =>
        fc
          .array(
            fc.record({
              count: fc.nat(2 ** 24),
              sums: fc.array(fc.float({ min: 0, noNaN: true, noDefaultInfinity: true }), {
                minLength: columns,
                maxLength: columns,
              }),
            }),
            { minLength: matrices, maxLength: matrices },
          )
          .map((stack) =>
            entry(
              stack.flatMap(({ count, sums }) => (count === 0 ? sums.map(() => 0) : sums)),
              stack.map(({ count }) => count),
              name,
            ),
          ),
      ),
    ),
  );

describe("an importance matrix that we write", () => {
  it("is the file of llama-imatrix, byte for byte, from the same sums in any order", async () => {
    const matrix = await readSums(reference);
    const path = join(scratchFolder(), "ours.gguf");
    const { chunks, datasets } = matrix;
    const size = await writeImatrix(
      path,
      contents([...matrix.entries.values()].toReversed(), { chunks, datasets }),
    );
    const bytes = readFileSync(path);
    expect(size).toBe(bytes.length);
    expect(bytes.equals(readFileSync(reference))).toBe(true);
  });

  it("is read by another reader as what it was made from", async () => {
    const path = join(scratchFolder(), "stack.gguf");
    const stack = entry([1, 2, 3, 4, 0, 0], [1, 2, 0], "blk.0.ffn_up_exps.weight");
    await writeImatrix(path, contents([stack, entry([0.5], [7], "blk.0.é")], { datasets: ["a", "é"] }));
    const { metadata, tensorInfos, tensorDataOffset } = await readWithHub(path, { allowLocalFile: true });
    expect(metadata).toMatchObject({
      "general.type": "imatrix",
      "imatrix.datasets": ["a", "é"],
      "imatrix.chunk_count": 3,
      "imatrix.chunk_size": 512,
    });
    const bytes = readFileSync(path);
    const found = tensorInfos.map(({ name, shape, dtype, offset }) => {
      const length = shape.reduce((product, n) => product * Number(n), 1);
      const at = Number(tensorDataOffset + offset);
      return [
        name,
        dtype,
        shape.map(Number),
        Array.from({ length }, (_, i) => bytes.readFloatLE(at + 4 * i)),
      ];
    });
    // The type F32 has the number 0; dimensions go fastest first.
    expect(found).toEqual([
      ["blk.0.ffn_up_exps.weight.in_sum2", 0, [2, 3], [1, 2, 3, 4, 0, 0]],
      ["blk.0.ffn_up_exps.weight.counts", 0, [1, 3], [1, 2, 0]],
      ["blk.0.é.in_sum2", 0, [1], [0.5]],
      ["blk.0.é.counts", 0, [1], [7]],
    ]);
    const { entries } = await readImportance(path);
    expect([...(entries.get("blk.0.ffn_up_exps.weight")?.values ?? [])]).toEqual([1, 2, 1.5, 2, 1, 1]);
  });

  it("has its entries in the order of the bytes of their names", async () => {
    const path = join(scratchFolder(), "order.gguf");
    const order = ["blk.1", "blk.10", "blk.2", "\uFF5E", "\u{1F600}"];
    await writeImatrix(path, contents(order.toReversed().map((name) => entry([1], [1], name))));
    expect([...(await readSums(path)).entries.keys()]).toEqual(order);
  });

  it("reads back as it was written", async () => {
    const folder = scratchFolder();
    await fc.assert(
      fc.asyncProperty(entries, fc.array(fc.string({ unit: "grapheme" })), async (all, datasets) => {
        const path = join(folder, "any.gguf");
        await writeImatrix(path, contents(all, { datasets }), { overwrite: true });
        const read = await readSums(path);
        expect(read).toMatchObject({ datasets, chunks: 3, chunkTokens: 512, format: "gguf" });
        expect(contentsOf(read.entries.values())).toEqual(contentsOf(all));
        const order = [...read.entries.keys()].map((name) => Buffer.from(name));
        expect(order).toEqual(order.toSorted((a, b) => Buffer.compare(a, b)));
      }),
      { numRuns: 60 },
    );
  });
});

describe("an importance matrix is not written", () => {
  async function refusal(made: ImatrixContents): Promise<string> {
    const folder = scratchFolder();
    const path = join(folder, "bad.gguf");
    const error = await writeImatrix(path, made).then(
      () => ({ code: "written", message: path }),
      (error: { code: string; message: string }) => error,
    );
    expect(error.message).toContain("bad.gguf");
    expect(readdirSync(folder)).toEqual([]);
    return error.code;
  }

  it.each([
    ["a sum that is no number", [1, Number.NaN], [1]],
    ["an infinite sum", [1, Infinity], [1]],
    ["a sum too large for float32", [1, 1e39], [1]],
    ["a negative sum", [1, -1e-9], [1]],
    ["a count that is no number", [1], [Number.NaN]],
    ["a negative count", [1], [-1]],
    ["a count that is not whole", [1], [1.5]],
    ["sums of no token", [1, 2, 0, 3], [1, 0]],
  ])("with %s", async (_, sums, counts) => {
    expect(await refusal(contents([entry(sums, counts)]))).toBe("imatrix-value");
  });

  it("with shapes that do not fit", async () => {
    const [sums, counts] = [new Float32Array(6), new Float32Array(2)];
    for (const columns of [0, 1.5, 2, 6, Number.NaN]) {
      expect(await refusal(contents([{ name: "w", columns, sums, counts }]))).toBe("imatrix-shape");
    }
    const none = { name: "w", columns: 6, sums, counts: new Float32Array() };
    expect(await refusal(contents([none]))).toBe("imatrix-shape");
  });

  it("without entries, or windows without tokens", async () => {
    expect(await refusal(contents([]))).toBe("imatrix-empty");
    expect(await refusal(contents([entry([1], [1])], { chunkTokens: 0 }))).toBe("imatrix-metadata");
  });

  it("under names and numbers that the format cannot hold", async () => {
    const write = (made: ImatrixContents) => writeImatrix(join(scratchFolder(), "bad.gguf"), made);
    const one = entry([1], [1], "x".repeat(56));
    await expect(write(contents([one]))).rejects.toMatchObject({ code: "gguf-name" });
    const twice = [entry([1], [1]), entry([2], [2])];
    await expect(write(contents(twice))).rejects.toMatchObject({ code: "gguf-name" });
    for (const chunks of [-1, 0.5, 2 ** 32]) {
      const made = contents([entry([1], [1])], { chunks });
      await expect(write(made)).rejects.toMatchObject({ code: "gguf-value" });
    }
  });

  it("over a file that is there", async () => {
    const path = join(scratchFolder(), "there.gguf");
    await writeImatrix(path, contents([entry([1], [1])]));
    const before = readFileSync(path);
    const other = contents([entry([2], [1])]);
    await expect(writeImatrix(path, other)).rejects.toMatchObject({ code: "output-exists", exitCode: 2 });
    expect(readFileSync(path).equals(before)).toBe(true);
    await writeImatrix(path, other, { overwrite: true });
    expect((await readSums(path)).entries.get("w")?.sums[0]).toBe(2);
    expect(existsSync(`${path}.partial`)).toBe(false);
  });
});
