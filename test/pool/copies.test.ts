import { mkdtempSync, rmSync } from "node:fs";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { nbitsRow } from "../../src/blocks/nbits/types.js";
import { rowBytes } from "../../src/blocks/table.js";
import { OutputReader } from "../../src/pool/hash.js";
import { MIN_MEMORY_BYTES } from "../../src/pool/memory.js";
import { type PoolProgress, runTiles } from "../../src/pool/pool.js";
import type { TensorJob } from "../../src/pool/tiles.js";

const folder = mkdtempSync(join(tmpdir(), "lapidary-copies-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const memoryBytes = 2 * MIN_MEMORY_BYTES;
const made = join(folder, "made.bin");
const output = join(folder, "output.bin");

/** Bytes that are all different from their neighbours. */
function bytesOf(count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, index) => (index * 167 + (index >>> 8)) & 255);
}

/** 700 rows of 512 are six tiles at the smallest ceiling. */
const shape = { row: 512, rows: 700 } as const;
const blocks = bytesOf(rowBytes("Q4_K", shape.row * shape.rows));
const type = { bits: 2, block: 128, zeroPoints: true } as const;
const sizes = nbitsRow(type, shape.row);
const pieces = [sizes.codes, sizes.scales, sizes.zeroPoints].map((bytes) => bytes * shape.rows);
const common = { input: join(folder, "nothing"), inputOffset: 0, source: "BF16" as const, ...shape };
const ofCodes = blocks.length + 100;
const jobs: TensorJob[] = [
  {
    ...common,
    name: "blocks",
    target: "Q4_K",
    outputs: [{ path: output, offset: 64 }],
    copies: [{ path: made, offset: 16 }],
  },
  {
    ...common,
    name: "codes",
    target: type,
    outputs: pieces.map((_, index) => ({ path: output, offset: ofCodes + index * 2 ** 17 })),
    copies: pieces.map((_, index) => ({
      path: made,
      offset: 16 + blocks.length + pieces.slice(0, index).reduce((sum, bytes) => sum + bytes, 0),
    })),
  },
];
const codes = bytesOf(blocks.length + pieces.reduce((sum, bytes) => sum + bytes, 0)).subarray(blocks.length);

async function copy(): Promise<PoolProgress[]> {
  await writeFile(made, Buffer.concat([Buffer.alloc(16, 9), blocks, codes]));
  await writeFile(output, "");
  await truncate(output, ofCodes + 3 * 2 ** 17);
  const reports: PoolProgress[] = [];
  await runTiles({ jobs, threads: 2, memoryBytes, onProgress: (progress) => reports.push(progress) });
  return reports;
}

describe("bytes that were made before", () => {
  it("are copied to each output and hashed as any other", async () => {
    const reports = await copy();
    const written = await readFile(output);
    expect(Buffer.compare(written.subarray(64, 64 + blocks.length), blocks)).toBe(0);
    let at = 0;
    for (const [index, bytes] of pieces.entries()) {
      const start = ofCodes + index * 2 ** 17;
      expect(Buffer.compare(written.subarray(start, start + bytes), codes.subarray(at, at + bytes))).toBe(0);
      at += bytes;
    }
    const bytes = blocks.length + codes.length;
    expect(reports.at(-1)).toMatchObject({ bytesRead: bytes, bytesWritten: bytes });
    const reader = await OutputReader.create();
    for (const { job, hash } of reports.flatMap(({ finished }) => finished)) {
      expect(await reader.hash(jobs[job]!, reports[0]!.tileValues)).toBe(hash);
    }
    await reader.close();
  });

  it("have to be there", async () => {
    await copy();
    await truncate(made, 16 + blocks.length - 1);
    await expect(runTiles({ jobs, threads: 1, memoryBytes })).rejects.toMatchObject({
      code: "input-truncated",
      message: expect.stringContaining(`${made} ends at byte`) as string,
    });
  });

  it("are as many as there are outputs", async () => {
    const [first] = jobs as [TensorJob, TensorJob];
    await expect(runTiles({ jobs: [{ ...first, copies: [] }], memoryBytes })).rejects.toThrow(
      /0 copies, expected 1/,
    );
  });
});
