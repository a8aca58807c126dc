import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readSums } from "../../formats/imatrix/read.js";
import type { SummedEntry } from "../../formats/imatrix/types.js";
import { writeImatrix } from "../../formats/imatrix/write.js";
import { inspectImatrix, mergeImatrices } from "../../src/pipeline/imatrix.js";
import { convertFixture, scratchFolder } from "../support/convert.js";
import { tensorHashes } from "../support/tensor-hashes.js";
import { peerTool, run } from "./tools.js";

const reference = "fixtures/reference/imatrix.gguf";
const folder = scratchFolder();
const never = new AbortController().signal;

let imatrix: string;

/** What the tool makes of files; it wants the name of a model, and reads none. */
function theirs(files: readonly string[], ...flags: readonly string[]): Promise<string> {
  return run(imatrix, ["-m", "none", "--in-file", files.join(","), ...flags]);
}

async function ours(files: readonly string[]): Promise<string> {
  const out = join(folder, `ours-${files.length}.gguf`);
  const weighted = files.map((path) => ({ path, weight: 1 }));
  await mergeImatrices({ files: weighted, out, chunkTokens: undefined, force: true }, never);
  return out;
}

/** Another importance matrix of the same model, with a stack of experts, one of which saw nothing. */
async function another(): Promise<string> {
  const path = join(folder, "another.gguf");
  const { entries } = await readSums(reference);
  const dense = [...entries.values()].slice(3).map(({ name, columns, sums }): SummedEntry => ({
    name,
    columns,
    sums: Float32Array.from(sums, (sum, at) => sum * (0.3 + Math.sin(at) ** 2)),
    counts: Float32Array.of(40_960),
  }));
  const stack: SummedEntry = {
    name: "blk.0.ffn_down_exps.weight",
    columns: 3,
    sums: Float32Array.of(1, 2, 3, 0, 0, 0, 0.1, 0.2, 1e-9),
    counts: Float32Array.of(512, 0, 77),
  };
  const head = { datasets: ["one.txt", "two.txt"], chunks: 80, chunkTokens: 512 };
  await writeImatrix(path, { ...head, entries: [...dense, stack] });
  return path;
}

let other: string;

/** What the tool prints of tensors. It may end before its log is out: it is asked until all rows came. */
async function statistics(path: string, tensors: number): Promise<RegExpMatchArray[]> {
  for (let attempt = 1; ; attempt++) {
    const printed = await theirs([path], "--show-statistics");
    const rows = [...printed.matchAll(/^\S+ I +(\d+)\t(\S+) *\t(.*%.*)$/gm)];
    if (rows.length === tensors || attempt === 100) return rows;
  }
}

beforeAll(async () => {
  imatrix = await peerTool("llama-imatrix");
  other = await another();
}, 600_000);

describe("our importance matrices in llama.cpp's own tools", () => {
  it("llama-imatrix reads ours and writes the same bytes", async () => {
    const again = join(folder, "again.gguf");
    await theirs([other], "-o", again);
    expect(readFileSync(again).equals(readFileSync(other))).toBe(true);
  });

  it("llama-imatrix adds up to the bytes that we do, GGUF and .dat", async () => {
    const old = join(folder, "old.dat");
    await theirs([reference], "--output-format", "dat", "-o", old);
    for (const files of [[reference, other], [other, reference], [old, other], [other, old], [old]]) {
      const merged = join(folder, "theirs.gguf");
      await theirs(files, "-o", merged);
      expect(readFileSync(await ours(files)).equals(readFileSync(merged))).toBe(true);
    }
  });

  it("llama-imatrix prints the figures that we count", async () => {
    for (const path of [reference, other]) {
      const { tensors } = await inspectImatrix(path);
      const rows = await statistics(path, tensors.length);
      expect(rows).toHaveLength(tensors.length);
      for (const [, layer, role, figures = ""] of rows) {
        const found = tensors.find(({ name }) => name === `blk.${layer}.${role}.weight`);
        const { sum, min, max, mean, deviation, active, entropy, evenness, high } = found!.distribution!;
        const counted = [sum, min, max, mean, deviation, 100 * active].concat(
          found!.columns * (found!.matrices === 3 ? 2 : 1),
          entropy,
          100 * (evenness ?? Number.NaN),
          100 * high,
          // The tool compares a layer with one of another width too, beyond the end of its values.
          found!.cosine ?? [],
        );
        const numbers = figures.split("\t").map((cell) => Number(cell.trim().replace("%", "")));
        for (const [at, value] of counted.entries()) {
          // Two decimals at least, of sums in single precision.
          expect(Math.abs(value - (numbers[at] ?? Number.NaN))).toBeLessThan(0.0051 + 1e-5 * value);
        }
      }
    }
  });

  it("llama-quantize rounds by ours as by the one it was made from", async () => {
    const source = await convertFixture("BF16", { keepUnusedKv: true });
    const { entries, chunks, datasets } = await readSums(reference);
    const copy = join(folder, "copy.gguf");
    await writeImatrix(copy, { entries: entries.values(), chunks, datasets, chunkTokens: 512 });
    const quantize = await peerTool("llama-quantize");
    const made = async (type: string, name: string, ...flags: readonly string[]) => {
      const path = join(folder, `${name}-${type}.gguf`);
      await run(quantize, [...flags, source, path, type, "1"]);
      return tensorHashes(path);
    };
    const [plain, original, same, doubled] = [
      await made("Q4_K_M", "plain"),
      await made("Q4_K_M", "original", "--imatrix", reference),
      await made("Q4_K_M", "same", "--imatrix", copy),
      await made("Q4_K_M", "doubled", "--imatrix", await ours([reference, copy])),
    ];
    expect(same).toEqual(original);
    expect(doubled).toEqual(original);
    expect(same).not.toEqual(plain);
  });
});
