import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { readFile, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { encode } from "../../src/blocks/encode/encode.js";
import { bfloatsToFloats, halvesToFloats } from "../../src/blocks/floats.js";
import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { OutputReader } from "../../src/pool/hash.js";
import { MIN_MEMORY_BYTES } from "../../src/pool/memory.js";
import { type PoolProgress, runTiles } from "../../src/pool/pool.js";
import type { TensorJob } from "../../src/pool/tiles.js";

const folder = mkdtempSync(join(tmpdir(), "lapidary-pool-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const memoryBytes = 2 * MIN_MEMORY_BYTES;
const sources: readonly BlockTypeName[] = ["F32", "F16", "BF16"];
const targets: readonly BlockTypeName[] = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K"];

/** Values in (-1, 1) that a generator makes from a seed. */
function values(count: number, seed: number): Float32Array {
  let state = seed | 1;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return state / 2 ** 31;
  });
}

function encoded(type: BlockTypeName, floats: Float32Array): Uint8Array {
  const bytes = new Uint8Array(rowBytes(type, floats.length));
  encode(type, floats, bytes);
  return bytes;
}

/** What a source of this type hands to an encoder. */
function asRead(type: BlockTypeName, bytes: Uint8Array, count: number): Float32Array {
  const floats = new Float32Array(count);
  if (type === "F32") floats.set(new Float32Array(bytes.buffer, bytes.byteOffset, count));
  else if (type === "F16") halvesToFloats(bytes, floats);
  else bfloatsToFloats(bytes, floats);
  return floats;
}

function containing(text: string): unknown {
  return expect.stringContaining(text);
}

function job({
  output,
  outputOffset = 0,
  ...overrides
}: Partial<TensorJob> &
  Pick<TensorJob, "input"> & { readonly output: string; readonly outputOffset?: number }): TensorJob {
  return {
    name: "t",
    inputOffset: 0,
    outputs: [{ path: output, offset: outputOffset }],
    source: "BF16",
    target: "BF16",
    row: 256,
    rows: 1,
    ...overrides,
  };
}

describe("conversion", () => {
  it("gives the bytes of the reference encoders for every pair of types, whatever the order of tiles", async () => {
    // 700 rows of 512 are six tiles at the smallest ceiling.
    const row = 512;
    const rows = 700;
    const jobs: TensorJob[] = [];
    const expected: { at: number; bytes: Uint8Array }[] = [];
    const output = join(folder, "pairs.out");
    let outputOffset = 64;
    for (const [index, source] of sources.entries()) {
      const input = join(folder, `pairs.${source}`);
      const bytes = encoded(source, values(row * rows, 77 + index));
      await writeFile(input, Buffer.concat([Buffer.alloc(40), bytes]));
      for (const target of targets) {
        const size = rowBytes(target, row * rows);
        jobs.push({
          name: `${source}-${target}`,
          input,
          inputOffset: 40,
          outputs: [{ path: output, offset: outputOffset }],
          source,
          target,
          row,
          rows,
        });
        expected.push({ at: outputOffset, bytes: encoded(target, asRead(source, bytes, row * rows)) });
        outputOffset += size + 32;
      }
    }
    await writeFile(output, "");
    await truncate(output, outputOffset);
    const reports: PoolProgress[] = [];
    await runTiles({ jobs, threads: 2, memoryBytes, onProgress: (progress) => reports.push(progress) });
    const written = await readFile(output);
    for (const { at, bytes } of expected) {
      expect(Buffer.compare(written.subarray(at, at + bytes.length), bytes)).toBe(0);
      // Nothing between the tensors.
      expect(written.subarray(at + bytes.length, at + bytes.length + 32).every((byte) => byte === 0)).toBe(
        true,
      );
    }
    const finished = reports.flatMap((report) => report.finished).toSorted((a, b) => a.job - b.job);
    expect(finished.map((each) => each.job)).toEqual(jobs.map((_, index) => index));
    expect(reports.at(-1)).toMatchObject({
      bytesRead: jobs.reduce((sum, { source }) => sum + rowBytes(source, row * rows), 0),
      bytesWritten: expected.reduce((sum, { bytes }) => sum + bytes.length, 0),
    });
  });

  it("cuts a row that is longer than a tile", async () => {
    const row = 200_192;
    const floats = values(row * 2, 5);
    const input = join(folder, "long.in");
    const output = join(folder, "long.out");
    await writeFile(input, encoded("F32", floats));
    await writeFile(output, "");
    await runTiles({
      jobs: [job({ input, output, source: "F32", target: "Q6_K", row, rows: 2 })],
      threads: 2,
      memoryBytes,
    });
    expect(Buffer.compare(await readFile(output), encoded("Q6_K", floats))).toBe(0);
  });

  it("has nothing to do without jobs", async () => {
    await expect(runTiles({ jobs: [], memoryBytes })).resolves.toBeUndefined();
  });
});

describe("hashes of outputs", () => {
  it("are those of the bytes read back, whoever wrote them, and of no other bytes", async () => {
    const row = 512;
    const rows = 700;
    const input = join(folder, "hashed.in");
    await writeFile(input, encoded("BF16", values(row * rows, 21)));
    const hashes: string[][] = [];
    for (const threads of [1, 2]) {
      const output = join(folder, `hashed-${threads}.out`);
      await writeFile(output, "");
      const jobs = (["Q8_0", "F32"] as const).map((target, index) =>
        job({ input, output, outputOffset: index * 1_000_000, target, row, rows }),
      );
      const found: string[] = [];
      let tileValues = 0;
      await runTiles({
        jobs,
        threads,
        memoryBytes: threads * MIN_MEMORY_BYTES,
        onProgress: (progress) => {
          for (const each of progress.finished) found[each.job] = each.hash;
          ({ tileValues } = progress);
        },
      });
      hashes.push(found);
      expect(new Set(found).size).toBe(2);
      const reader = await OutputReader.create();
      try {
        let read = 0;
        for (const [index, each] of jobs.entries()) {
          expect(await reader.hash(each, tileValues, (count) => (read += count))).toBe(found[index]);
          expect(await reader.hash(each, 2 * tileValues)).not.toBe(found[index]);
          expect(await reader.hash(each, 2 * tileValues)).toMatch(/^[0-9a-f]{16}$/);
        }
        expect(read).toBe(2 * row * rows);
        const bytes = await readFile(output);
        const at = 300_000;
        bytes[at] = (bytes[at] ?? 0) ^ 4;
        await writeFile(output, bytes);
        expect(await reader.hash(jobs[0] ?? job({ input, output }), tileValues)).not.toBe(found[0]);
        await truncate(output, at);
        expect(await reader.hash(jobs[0] ?? job({ input, output }), tileValues)).toBeUndefined();
      } finally {
        await reader.close();
      }
    }
    expect(hashes[0]).toEqual(hashes[1]);
  });

  it("are none where no run can have cut the job like that", async () => {
    const reader = await OutputReader.create();
    const importance = new Float32Array(new SharedArrayBuffer(4 * 1024));
    const output = join(folder, "cut-otherwise.out");
    await writeFile(output, Buffer.alloc(4096));
    const each = job({ input: output, output, row: 1024, importance });
    expect(await reader.hash(each, 256)).toBeUndefined();
    expect(await reader.hash(each, 1024)).toMatch(/^[0-9a-f]{16}$/);
    await reader.close();
  });
});

describe("failures", () => {
  const row = 256;
  const rows = 2000;

  async function withValue(type: BlockTypeName, index: number, value: number): Promise<TensorJob> {
    const floats = values(row * rows, 3);
    floats[index] = value;
    const input = join(folder, `bad-${type}-${index}.in`);
    const output = join(folder, "bad.out");
    await writeFile(input, encoded(type, floats));
    await writeFile(output, "");
    return job({ name: "blk.1.ffn_up.weight", input, output, source: type, target: type, row, rows });
  }

  it.each([
    ["NaN", Number.NaN],
    ["-Infinity", -Infinity],
  ])("name tensor, file, row and column of %s, also where bytes are only copied", async (text, value) => {
    const bad = await withValue("BF16", 1234 * row + 56, value);
    for (const target of ["BF16", "Q4_0"] as const) {
      await expect(runTiles({ jobs: [{ ...bad, target }], threads: 2, memoryBytes })).rejects.toMatchObject({
        code: "non-finite",
        message: `tensor blk.1.ffn_up.weight in ${bad.input}: the value at row 1234, column 56 is ${text}, expected finite numbers only`,
      });
    }
  });

  it("name a finite value that the target cannot hold", async () => {
    const bad = await withValue("F32", 7 * row + 9, 1e6);
    await expect(
      runTiles({ jobs: [{ ...bad, target: "F16" }], threads: 1, memoryBytes }),
    ).rejects.toMatchObject({
      code: "out-of-range",
      message: containing("row 7, column 9 is 1000000, which F16 cannot hold"),
    });
  });

  it("tell a cut input and a missing one", async () => {
    const input = join(folder, "cut.in");
    const output = join(folder, "cut.out");
    await writeFile(input, Buffer.alloc(1000));
    await writeFile(output, "");
    await expect(runTiles({ jobs: [job({ input, output, rows: 8 })], memoryBytes })).rejects.toMatchObject({
      code: "input-truncated",
      message: containing("ends at byte 1000"),
    });
    const missing = join(folder, "missing.in");
    await expect(runTiles({ jobs: [job({ input: missing, output })], memoryBytes })).rejects.toMatchObject({
      code: "read-failed",
      message: containing("ENOENT"),
    });
    await expect(
      runTiles({ jobs: [job({ input, output: join(folder, "nowhere", "x") })], memoryBytes }),
    ).rejects.toMatchObject({ code: "write-failed" });
  });

  it.runIf(existsSync("/dev/full"))("tell a full disk", async () => {
    const input = join(folder, "full.in");
    await writeFile(input, Buffer.alloc(512));
    await expect(
      runTiles({ jobs: [job({ input, output: "/dev/full" })], memoryBytes }),
    ).rejects.toMatchObject({
      code: "disk-full",
      message: containing("tensor t"),
    });
  });

  it("of a worker itself are told and end the others", async () => {
    const { input, outputs } = await withValue("BF16", 0, 1);
    const output = outputs[0]?.path ?? "";
    // A type that no kernel reads makes the worker throw something of its own.
    const jobs = [
      job({ input, output, source: "Q8_0", target: "Q8_0", row, rows: 4 }),
      job({ input, output, row, rows }),
    ];
    await expect(runTiles({ jobs, threads: 2, memoryBytes })).rejects.toMatchObject({
      code: "worker-failed",
      message: containing("Q8_0"),
    });
  });
});

describe("abort", () => {
  it("stops the workers, and nothing is written afterwards", async () => {
    const input = join(folder, "holes.in");
    const output = join(folder, "holes.out");
    // 2 GiB of zeros that take no space: far more than is converted before the abort.
    await writeFile(input, "");
    await truncate(input, 2 ** 31);
    await writeFile(output, "");
    const controller = new AbortController();
    const reason = new Error("enough");
    const running = runTiles({
      jobs: [job({ input, output, target: "Q8_0", row: 4096, rows: 2 ** 18 })],
      threads: 2,
      memoryBytes,
      signal: controller.signal,
      onProgress: ({ bytesRead }) => bytesRead > 0 && controller.abort(reason),
    });
    await expect(running).rejects.toBe(reason);
    const { blocks } = await stat(output);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect((await stat(output)).blocks).toBe(blocks);
    expect(blocks * 512).toBeLessThan((2 ** 30 / 32) * 34);
  });

  it("before the start does nothing", async () => {
    const signal = AbortSignal.abort(new Error("early"));
    await expect(runTiles({ jobs: [], memoryBytes, signal })).rejects.toThrow("early");
  });
});
