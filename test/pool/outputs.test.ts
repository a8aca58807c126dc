import { mkdtempSync, rmSync } from "node:fs";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { floatsToBfloats, floatsToHalves } from "../../src/blocks/floats.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { nbitsRow, type NBitsType } from "../../src/blocks/nbits/types.js";
import { rowBytes } from "../../src/blocks/table.js";
import { OutputReader } from "../../src/pool/hash.js";
import { MIN_MEMORY_BYTES } from "../../src/pool/memory.js";
import { runTiles } from "../../src/pool/pool.js";
import type { JobOutput, TensorJob } from "../../src/pool/tiles.js";

const folder = mkdtempSync(join(tmpdir(), "lapidary-outputs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const memoryBytes = 2 * MIN_MEMORY_BYTES;
type Source = "F32" | "F16" | "BF16";

/** Rows of the input before the tensor: what is read by a wrong offset shows. */
const BEFORE = 24;

let kernels: Kernels;

beforeAll(async () => {
  kernels = new Kernels(await compileKernels(), 4096);
});

/** Values in (-1, 1) as a checkpoint holds them. */
function noise(source: Source, count: number, seed: number): Uint8Array {
  let state = seed | 1;
  const floats = Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return state / 2 ** 31;
  });
  if (source === "F32") return new Uint8Array(floats.buffer);
  const bytes = new Uint8Array(2 * count);
  (source === "F16" ? floatsToHalves : floatsToBfloats)(floats, bytes);
  return bytes;
}

/** What the kernels make of a job, row after row, an output after the other. */
function expected(job: TensorJob, input: Uint8Array): Uint8Array[] {
  const { source, target, row, rows, inputRow = row, inputColumn = 0, importance } = job;
  const pieces: Uint8Array[][] = job.outputs.map(() => []);
  for (let r = 0; r < rows; r++) {
    const at = job.inputOffset + rowBytes(source, r * inputRow + inputColumn);
    kernels.input.set(input.subarray(at, at + rowBytes(source, row)));
    const matrix = importance === undefined ? 0 : Math.floor((r * importance.length) / row / rows);
    const weights = importance?.subarray(matrix * row, (matrix + 1) * row);
    const bad =
      typeof target === "string"
        ? kernels.convert(source, target, row, weights)
        : kernels.convertNBits(
            source,
            target,
            row,
            1,
            weights,
            job.method === "search" ? "search" : "nearest",
          );
    const made = typeof target === "string" ? [kernels.output] : kernels.outputs;
    if (bad !== -1 || made.length !== pieces.length) throw new Error(`row ${r} cannot be converted`);
    for (const [index, bytes] of made.entries()) pieces[index]?.push(bytes.slice());
  }
  return pieces.map((each) => Buffer.concat(each));
}

function sizesOf({ target, row, rows }: Pick<TensorJob, "target" | "row" | "rows">): number[] {
  if (typeof target === "string") return [rowBytes(target, row * rows)];
  const { codes, scales, zeroPoints } = nbitsRow(target, row);
  return [codes, scales, zeroPoints].slice(0, target.zeroPoints ? 3 : 2).map((bytes) => bytes * rows);
}

type JobParts = Pick<TensorJob, "source" | "target" | "row" | "rows"> & Partial<TensorJob>;

/** Jobs that write to two files in turns, with gaps between what they write. */
async function place(name: string, parts: readonly JobParts[]) {
  const files = ["a", "b"].map((file) => ({ path: join(folder, `${name}.${file}`), size: 16 }));
  const jobs: TensorJob[] = [];
  const inputs: Uint8Array[] = [];
  for (const [index, part] of parts.entries()) {
    const input = join(folder, `${name}-${index}.in`);
    const count = (part.inputRow ?? part.row) * part.rows;
    const bytes = Buffer.concat([Buffer.alloc(BEFORE, 0xff), noise(part.source as Source, count, index + 3)]);
    await writeFile(input, bytes);
    inputs.push(bytes);
    const outputs: JobOutput[] = sizesOf(part).map((size, piece) => {
      const file = files[(index + piece) % 2]!;
      const offset = file.size;
      file.size += size + 8;
      return { path: file.path, offset };
    });
    jobs.push({ name: `t${index}`, input, inputOffset: BEFORE, outputs, ...part });
  }
  for (const { path, size } of files) {
    await writeFile(path, "");
    await truncate(path, size);
  }
  return { jobs, inputs, files: files.map(({ path }) => path) };
}

/** Runs jobs and compares every byte of the files that they write to. */
async function expectWritten(name: string, parts: readonly JobParts[]): Promise<void> {
  const { jobs, inputs, files } = await place(name, parts);
  let bytesWritten = 0;
  await runTiles({ jobs, threads: 2, memoryBytes, onProgress: (progress) => ({ bytesWritten } = progress) });
  let total = 0;
  for (const path of files) {
    const written = await readFile(path);
    const wanted = Buffer.alloc(written.length);
    for (const [index, job] of jobs.entries()) {
      const made = expected(job, inputs[index]!);
      for (const [piece, output] of job.outputs.entries()) {
        if (output.path !== path) continue;
        wanted.set(made[piece]!, output.offset);
        total += made[piece]!.length;
      }
    }
    expect(written.equals(wanted)).toBe(true);
  }
  expect(bytesWritten).toBe(total);
}

const four: NBitsType = { bits: 4, block: 32, zeroPoints: false };
const eight: NBitsType = { bits: 8, block: 16, zeroPoints: true };
const two: NBitsType = { bits: 2, block: 128, zeroPoints: true };

describe("codes", () => {
  it("scales and zero points get where they belong, whatever the order of tiles", async () => {
    // Several tiles each: the last block of a row is cut short, and the scales of a row are no multiple of four bytes.
    const shape = { row: 200, rows: 700 };
    await expectWritten("codes", [
      { source: "BF16", target: four, ...shape },
      { source: "F32", target: eight, ...shape },
      { source: "F16", target: two, ...shape, method: "search" },
      { source: "BF16", target: "F16", ...shape },
    ]);
  });

  it("of a stack of matrices heed the importance of each", async () => {
    const importance = new Float32Array(new SharedArrayBuffer(4 * 3 * 64));
    importance.forEach((_, index) => (importance[index] = 1 + (index % 7)));
    await expectWritten("stack", [
      { source: "BF16", target: four, row: 64, rows: 3 * 1500, importance, method: "search" },
      { source: "F32", target: two, row: 64, rows: 3 * 500, importance, method: "search" },
    ]);
  });

  it("of rows that are far shorter than a block have room too", async () => {
    await expectWritten("short", [
      { source: "F32", target: { bits: 8, block: 256, zeroPoints: true }, row: 3, rows: 1000 },
    ]);
  });
});

describe("columns of a tensor", () => {
  it("are read one by one or with what lies between, up to the end of the file", async () => {
    // 2.3 and 2 times as far apart as they are long, and the last ones.
    const far = { row: 256, inputRow: 600, inputColumn: 100, rows: 600 };
    const near = { row: 300, inputRow: 600, inputColumn: 300, rows: 500 };
    await expectWritten("columns", [
      { source: "BF16", target: "BF16", ...far },
      { source: "F32", target: "Q4_0", ...far },
      { source: "BF16", target: four, ...far },
      { source: "BF16", target: "F32", ...near },
      { source: "F32", target: "F16", ...near },
      { source: "F16", target: two, ...near },
      { source: "F32", target: "F32", row: 64, inputRow: 128, rows: 2000 },
    ]);
  });

  it("are named as the file counts them when a value is not finite", async () => {
    const shape = { row: 256, inputRow: 600, inputColumn: 100, rows: 300 };
    const { jobs } = await place("bad", [{ source: "BF16", target: four, ...shape }]);
    const job = jobs[0]!;
    const bytes = await readFile(job.input);
    // Outside of the columns nothing is looked at.
    for (const column of [99, 356]) bytes.writeUInt16LE(0x7f80, BEFORE + 2 * (299 * 600 + column));
    await writeFile(job.input, bytes);
    await runTiles({ jobs, threads: 1, memoryBytes });
    bytes.writeUInt16LE(0x7f80, BEFORE + 2 * (299 * 600 + 355));
    await writeFile(job.input, bytes);
    await expect(runTiles({ jobs, threads: 1, memoryBytes })).rejects.toMatchObject({
      code: "non-finite",
      message: `tensor t0 in ${job.input}: the value at row 299, column 355 is Infinity, expected finite numbers only`,
    });
  });

  it("behind the end of the file are a file that was cut", async () => {
    const shape = { row: 300, inputRow: 600, inputColumn: 300, rows: 300 };
    const { jobs } = await place("cut", [{ source: "F32", target: two, ...shape }]);
    const end = BEFORE + 4 * 600 * 300 - 1;
    await truncate(jobs[0]!.input, end);
    await expect(runTiles({ jobs, threads: 2, memoryBytes })).rejects.toMatchObject({
      code: "input-truncated",
      message: expect.stringContaining(`ends at byte ${end}, inside tensor t0`) as unknown,
    });
  });
});

describe("values that codes cannot hold", () => {
  it("are told with the type", async () => {
    const { jobs } = await place("huge", [{ source: "F32", target: two, row: 128, rows: 2 }]);
    const job = jobs[0]!;
    const bytes = await readFile(job.input);
    bytes.writeFloatLE(1e30, BEFORE + 4 * 128);
    await writeFile(job.input, bytes);
    await expect(runTiles({ jobs, threads: 1, memoryBytes })).rejects.toMatchObject({
      code: "out-of-range",
      message: `tensor t0 in ${job.input}: the value at row 1, column 0 is 1.0000000150474662e+30, which 2 bits in blocks of 128 cannot hold`,
    });
  });
});

describe("the hash of several outputs", () => {
  it("is that of the bytes read back, and another when a byte of any of them is damaged", async () => {
    const { jobs } = await place("hash", [{ source: "BF16", target: eight, row: 200, rows: 700 }]);
    const job = jobs[0]!;
    let hash = "";
    let tileValues = 0;
    await runTiles({
      jobs,
      threads: 2,
      memoryBytes,
      onProgress: (progress) => {
        hash = progress.finished[0]?.hash ?? hash;
        ({ tileValues } = progress);
      },
    });
    const reader = await OutputReader.create();
    try {
      expect(hash).toMatch(/^[0-9a-f]{16}$/);
      expect(await reader.hash(job, tileValues)).toBe(hash);
      const sizes = sizesOf(job);
      expect(sizes).toHaveLength(3);
      for (const [piece, { path, offset }] of job.outputs.entries()) {
        const whole = await readFile(path);
        for (const at of [offset, offset + sizes[piece]! - 1]) {
          const damaged = Buffer.from(whole);
          damaged[at] = damaged[at]! ^ 1;
          await writeFile(path, damaged);
          expect(await reader.hash(job, tileValues)).not.toBe(hash);
        }
        await writeFile(path, whole);
      }
      expect(await reader.hash(job, tileValues)).toBe(hash);
      // Equal outputs in each other's places are not the same.
      const [codes, scales, zeroPoints] = job.outputs as [JobOutput, JobOutput, JobOutput];
      expect(await reader.hash({ ...job, outputs: [codes, zeroPoints, scales] }, tileValues)).not.toBe(hash);
      expect(await reader.hash(job, 128)).toBeUndefined();
      await truncate(scales.path, scales.offset + sizes[1]! - 1);
      expect(await reader.hash(job, tileValues)).toBeUndefined();
    } finally {
      await reader.close();
    }
  });
});
