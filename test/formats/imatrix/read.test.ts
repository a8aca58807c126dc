import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gguf as readWithHub } from "@huggingface/gguf";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../../formats/gguf/read.js";
import { readImportance } from "../../../formats/imatrix/read.js";
import { scratchFolder } from "../../support/convert.js";
import { type LegacyEntry, legacyBytes, writeFloats } from "../../support/imatrix.js";

const reference = "fixtures/reference/imatrix.gguf";

function ggufOf(
  lists: Readonly<Record<string, readonly number[]>>,
  metadata?: Parameters<typeof writeFloats>[2],
): string {
  return writeFloats(join(scratchFolder(), "imatrix.gguf"), new Map(Object.entries(lists)), metadata);
}

function legacyFile(bytes: Uint8Array): string {
  const path = join(scratchFolder(), "imatrix.dat");
  writeFileSync(path, bytes);
  return path;
}

const three: readonly LegacyEntry[] = [
  { name: "blk.0.attn_q.weight", calls: 4, values: [4, 8, 0] },
  { name: "blk.0.ffn_up.weight", calls: 0, values: [0.5] },
];

describe("an importance matrix of llama-imatrix", () => {
  it("has the entries of the file, each the mean square", async () => {
    const matrix = await readImportance(reference);
    const { tensorInfos, metadata } = await readWithHub(reference, { allowLocalFile: true });
    expect(matrix).toMatchObject({ format: "gguf", chunkTokens: 512 });
    expect(matrix.chunks).toBe(metadata["imatrix.chunk_count" as keyof typeof metadata]);
    const sums = tensorInfos.filter(({ name }) => name.endsWith(".in_sum2"));
    expect(sums).toHaveLength(matrix.entries.size);

    const bytes = readFileSync(reference);
    const { tensors } = await openGguf(reference);
    for (const { name } of sums) {
      const weight = name.replace(/\.in_sum2$/, "");
      const at = (suffix: string) => tensors.find((one) => one.name === weight + suffix)?.offset ?? 0;
      const entry = matrix.entries.get(weight);
      const count = bytes.readFloatLE(at(".counts"));
      expect(count).toBeGreaterThan(1000);
      expect(entry?.matrices).toBe(1);
      for (const column of [0, 17, (entry?.values.length ?? 1) - 1]) {
        const sum = bytes.readFloatLE(at(".in_sum2") + 4 * column);
        expect(entry?.values[column]).toBe(Math.fround(sum / count));
      }
    }
  });

  it("gives an expert that no token reached the same weight everywhere", async () => {
    const path = ggufOf({ "w.in_sum2": [2, 4, 9, 9, 6, 3], "w.counts": [2, 0, 3] });
    const { entries } = await readImportance(path);
    expect(entries.get("w")?.matrices).toBe(3);
    expect([...(entries.get("w")?.values ?? [])]).toEqual([1, 2, 1, 1, 2, 1]);
  });

  it("is refused when it is something else, or damaged", async () => {
    const code = (path: string) =>
      readImportance(path).then(
        () => "read",
        (error: { code: string }) => error.code,
      );
    expect(await code(ggufOf({ "w.in_sum2": [1], "w.counts": [1] }, []))).toBe("imatrix-metadata");
    expect(await code(ggufOf({ "w.in_sum2": [1] }))).toBe("imatrix-pair");
    expect(await code(ggufOf({ "w.counts": [1] }))).toBe("imatrix-pair");
    expect(await code(ggufOf({ "w.in_sum2": [1, 2, 3], "w.counts": [1, 1] }))).toBe("imatrix-shape");
    expect(await code(ggufOf({ w: [1] }))).toBe("imatrix-empty");
    for (const bad of [Number.NaN, Infinity, -1]) {
      expect(await code(ggufOf({ "w.in_sum2": [1, bad], "w.counts": [1] }))).toBe("imatrix-value");
      expect(await code(ggufOf({ "w.in_sum2": [1, 1], "w.counts": [bad] }))).toBe("imatrix-value");
    }
    expect(await code(join(scratchFolder(), "none.gguf"))).toBe("file-missing");
  });
});

describe("an importance matrix of older versions", () => {
  it("is divided by its number of calls", async () => {
    const tail = Buffer.concat([Buffer.from([7, 0, 0, 0, 8, 0, 0, 0]), Buffer.from("wiki.raw")]);
    const matrix = await readImportance(legacyFile(legacyBytes(three, tail)));
    expect(matrix).toMatchObject({ format: "legacy", chunks: 7, chunkTokens: null, datasets: ["wiki.raw"] });
    expect([...(matrix.entries.get("blk.0.attn_q.weight")?.values ?? [])]).toEqual([1, 2, 0]);
    expect([...(matrix.entries.get("blk.0.ffn_up.weight")?.values ?? [])]).toEqual([0.5]);
    expect((await readImportance(legacyFile(legacyBytes(three)))).datasets).toEqual([]);
  });

  it("is refused wherever it is cut, and when its numbers lie", async () => {
    const whole = legacyBytes(three);
    for (let length = 0; length < whole.length; length++) {
      await expect(readImportance(legacyFile(whole.subarray(0, length)))).rejects.toMatchObject({
        code: "imatrix-damaged",
      });
    }
    for (const [at, value] of [
      [0, -1],
      [0, 2 ** 31 - 1],
      [4, 2 ** 30],
      [4, 0],
      [31, 2 ** 31 - 1],
      [31, -5],
    ] as const) {
      const bytes = Buffer.from(whole);
      bytes.writeInt32LE(value, at);
      await expect(readImportance(legacyFile(bytes))).rejects.toMatchObject({ code: "imatrix-damaged" });
    }
    const twice = legacyBytes([three[0]!, three[0]!]);
    await expect(readImportance(legacyFile(twice))).rejects.toMatchObject({ code: "imatrix-damaged" });
    const negative = legacyBytes([{ name: "w", calls: 1, values: [1, -1] }]);
    await expect(readImportance(legacyFile(negative))).rejects.toMatchObject({ code: "imatrix-value" });
  });
});
