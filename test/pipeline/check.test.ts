import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { decodable, decode } from "../../src/blocks/decode/decode.js";
import { rowBytes } from "../../src/blocks/table.js";
import { check, type CheckReport } from "../../src/pipeline/check.js";
import { type HashedFile, hashFile } from "../../src/pipeline/hash.js";
import { type Manifest, writeManifest } from "../../src/pipeline/manifest.js";
import { silent } from "../../src/pipeline/progress.js";
import { TILE_VALUES } from "../../src/pipeline/stored-tensors.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { writeGguf } from "../support/write-gguf.js";

const never = new AbortController().signal;
const run = (path: string): Promise<CheckReport> => check(path, silent, never);

/** Copies of all parts of a fixture in a folder of their own, which a test may spoil; the first part. */
async function copyOf(type: string, splitMaxBytes?: number): Promise<string> {
  const { paths } = await openGguf(await convertFixture(type, { splitMaxBytes }));
  const folder = scratchFolder();
  for (const path of paths) cpSync(path, join(folder, basename(path)));
  return join(folder, basename(paths[0] ?? ""));
}

/** Changes bytes of a tensor in its file. */
async function spoil(path: string, name: string, edit: (data: Buffer) => void): Promise<string> {
  const { tensors, paths } = await openGguf(path);
  const tensor = tensors.find((each) => each.name === name);
  const file = paths[tensor?.part ?? -1];
  if (tensor === undefined || file === undefined) throw new Error(`${name} is not in ${path}`);
  const bytes = readFileSync(file);
  edit(bytes.subarray(tensor.offset, tensor.offset + tensor.byteLength));
  writeFileSync(file, bytes);
  return file;
}

/** A manifest that lists these files as one artifact. */
async function listIn(folder: string, files: readonly HashedFile[]): Promise<void> {
  const manifest: Manifest = {
    manifestVersion: 1,
    complete: true,
    versions: { lapidary: "0", node: "0", platform: "linux", engine: null, system: null },
    artifacts: [
      {
        files,
        bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
        type: "Q8_0",
        plan: "0",
        method: null,
        importance: null,
        balance: null,
        lattices: null,
        bitsPerWeight: 8,
        source: { kind: "checkpoint", name: "nano-e", files: [] },
        tensors: [],
        settings: null,
        reference: null,
        verification: null,
        throughput: null,
        format: "gguf",
        accuracyLevel: null,
        exact: null,
        range: null,
      },
    ],
  };
  await writeManifest(folder, manifest);
}

describe("check", () => {
  it.each(["F32", "F16", "BF16", "Q8_0", "Q4_0"])("finds %s sound", async (type) => {
    expect(await run(await copyOf(type))).toMatchObject({
      kind: "check",
      source: "gguf",
      tensors: 68,
      bad: [],
      unread: [],
      manifest: { state: "none", files: [] },
      error: null,
    });
  });

  it("finds a checkpoint sound, vision and audio too", async () => {
    expect(await run(nanoCheckpoint)).toMatchObject({
      source: "checkpoint",
      tensors: 290,
      bad: [],
      unread: [],
      manifest: null,
      error: null,
    });
  });

  it.each([
    // A block of 32 values is damaged by its scale.
    ["Q8_0", 0x7e00, 34 * (3 * 8 + 2), 64, "NaN", 32],
    ["Q4_0", 0xfe01, 18 * (3 * 8 + 2), 64, "NaN", 32],
    ["F16", 0xfc00, 2 * (3 * 256 + 7), 7, "-Infinity", 1],
    ["F16", 0x7c01, 2 * (3 * 256 + 7), 7, "NaN", 1],
    ["BF16", 0x7fc0, 2 * (3 * 256 + 7), 7, "NaN", 1],
    ["BF16", 0x7f80, 2 * (3 * 256 + 7), 7, "Infinity", 1],
    ["F32", 0xff80, 4 * (3 * 256 + 7) + 2, 7, "-Infinity", 1],
  ] as const)("finds a damaged value in %s (%i)", async (type, bits, at, column, value, values) => {
    const path = await copyOf(type);
    const name = "blk.1.ffn_gate.weight";
    await spoil(path, name, (data) => data.writeUInt16LE(bits, at));
    const { bad, error } = await run(path);
    expect(bad).toEqual([{ name, type, file: basename(path), row: 3, column, value, values }]);
    expect(error).toMatchObject({ code: "non-finite", exitCode: 1 });
    expect(error?.message).toContain(`${name} (${value} at row 3, column ${column})`);
    expect(error?.message).toContain(path);
  });

  it("lists every damaged tensor, and the first five in the message", async () => {
    const path = await copyOf("BF16");
    const { tensors } = await openGguf(path);
    const names = tensors.filter(({ type }) => type === "BF16").map(({ name }) => name);
    for (const name of names.slice(0, 7)) await spoil(path, name, (data) => data.writeUInt16LE(0x7fc0, 0));
    const { bad, error } = await run(path);
    expect(bad.map(({ name }) => name)).toEqual(names.slice(0, 7));
    expect(error?.message).toMatch(/7 tensors hold .*, and 2 more\.$/);
  });

  it("finds a damaged value in a checkpoint", async () => {
    const folder = join(scratchFolder(), "spoiled");
    cpSync(nanoCheckpoint, folder, { recursive: true });
    const { tensors, shards } = await openCheckpoint(folder);
    const name = "model.language_model.layers.0.mlp.up_proj.weight";
    const bytes = readFileSync(shards[0]?.path ?? "");
    bytes.writeUInt16LE(0x7fc0, (tensors.get(name)?.offset ?? 0) + 2 * (5 * 256 + 9));
    writeFileSync(shards[0]?.path ?? "", bytes);
    const { bad, error, manifest } = await run(folder);
    expect(bad).toMatchObject([{ name, file: "model.safetensors", row: 5, column: 9, value: "NaN" }]);
    expect(error?.code).toBe("non-finite");
    expect(manifest).toBeNull();
  });

  it("names the part that holds the damaged tensor", async () => {
    const path = await copyOf("Q8_0", 1024 ** 2);
    const file = await spoil(path, "output_norm.weight", (data) => data.writeFloatLE(NaN, 4 * 11));
    expect(file).not.toBe(path);
    expect((await run(path)).bad).toMatchObject([{ file: basename(file), row: 0, column: 11 }]);
  });

  it("looks at every value of every type, in tensors of any size", async () => {
    const rows = TILE_VALUES / 256 + 3;
    // Random bytes are finite in most blocks and not in some; every type is judged by its own decoder.
    let state = 12345;
    const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
    const tensors = decodable.map((type) => ({
      name: type,
      type,
      ne: [256, rows],
      data: new Uint8Array(rowBytes(type, 256 * rows)).map(random),
    }));
    const report = await run(await writeGguf(tensors));
    const expected = tensors.flatMap(({ name, type, data }) => {
      const values = new Float32Array(256 * rows);
      decode(type, data, values);
      const first = values.findIndex((value) => !Number.isFinite(value));
      if (first < 0) return [];
      const count = values.filter((value) => !Number.isFinite(value)).length;
      return [
        {
          name,
          row: Math.floor(first / 256),
          column: first % 256,
          value: String(values[first]),
          values: count,
        },
      ];
    });
    expect(expected.length).toBeGreaterThan(15);
    expect(report.bad.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toMatchObject(
      expected.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
    );
  });

  it("finds the last value of a tensor of several tiles", async () => {
    const values = new Float32Array(2 * TILE_VALUES + 257 * 5);
    values[values.length - 1] = Infinity;
    const path = await writeGguf([
      { name: "long", type: "F32", ne: [values.length], data: new Uint8Array(values.buffer) },
    ]);
    expect((await run(path)).bad).toMatchObject([{ row: 0, column: values.length - 1, value: "Infinity" }]);
  });

  it("judges F64, and takes integers as they are", async () => {
    const doubles = new Float64Array([1, 2, -Infinity, NaN]);
    const path = await writeGguf([
      { name: "doubles", type: "F64", ne: [2, 2], data: new Uint8Array(doubles.buffer) },
      { name: "ids", type: "I32", ne: [4], data: new Uint8Array(16).fill(255) },
    ]);
    const { bad, unread } = await run(path);
    expect(bad).toMatchObject([{ name: "doubles", row: 1, column: 0, value: "-Infinity", values: 2 }]);
    expect(unread).toEqual([]);
  });

  it("stops when it is told to", async () => {
    const abort = new AbortController();
    const reason = new Error("enough");
    const reporter = { ...silent, progress: () => abort.abort(reason) };
    await expect(check(await copyOf("Q8_0"), reporter, abort.signal)).rejects.toBe(reason);
  });
});

describe("check against a manifest", () => {
  it("finds the file that is listed", async () => {
    const path = await copyOf("Q8_0");
    const file = await hashFile(path);
    await listIn(dirname(path), [file]);
    const { manifest, error } = await run(path);
    expect(error).toBeNull();
    expect(manifest).toEqual({
      path: join(dirname(path), "manifest.json"),
      state: "matches",
      files: [{ ...file, expected: { bytes: file.bytes, sha256: file.sha256 } }],
    });
  });

  it("finds one flipped byte that is a number like any other", async () => {
    const path = await copyOf("Q8_0");
    await listIn(dirname(path), [await hashFile(path)]);
    await spoil(path, "blk.0.attn_q.weight", (data) => data.writeUInt8(data.readUInt8(100) ^ 1, 100));
    const { manifest, error, bad } = await run(path);
    expect(bad).toEqual([]);
    expect(manifest?.state).toBe("differs");
    expect(error).toMatchObject({ code: "hash-mismatch", exitCode: 1 });
    expect(error?.message).toMatch(
      /nano-e-Q8_0\.gguf has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64} by .*manifest\.json/,
    );
  });

  it("finds another size without reading the file", async () => {
    const path = await copyOf("Q8_0");
    const file = await hashFile(path);
    await listIn(dirname(path), [{ ...file, bytes: file.bytes + 32 }]);
    const { manifest, error } = await run(path);
    expect(manifest).toMatchObject({ state: "differs", files: [{ bytes: file.bytes, sha256: null }] });
    expect(error?.message).toContain(`has ${file.bytes} bytes, expected ${file.bytes + 32}`);
  });

  it("tells both that a value is damaged and that the hash is another", async () => {
    const path = await copyOf("Q8_0");
    await listIn(dirname(path), [await hashFile(path)]);
    await spoil(path, "blk.0.attn_q.weight", (data) => data.writeUInt16LE(0x7e00, 0));
    const { error } = await run(path);
    expect(error?.code).toBe("non-finite");
    expect(error?.message).toMatch(/blk\.0\.attn_q\.weight[\s\S]*SHA-256/);
  });

  it("knows all parts of a split model, and says which is not listed", async () => {
    const path = await copyOf("Q8_0", 1024 ** 2);
    const { paths } = await openGguf(path);
    const files: HashedFile[] = [];
    for (const part of paths) files.push(await hashFile(part));
    await listIn(dirname(path), files);
    expect((await run(paths[1] ?? "")).manifest).toMatchObject({
      state: "matches",
      files: files.map(({ file }) => ({ file })),
    });
    await listIn(dirname(path), files.slice(1));
    const { manifest, error } = await run(path);
    expect(error).toBeNull();
    expect(manifest?.state).toBe("unlisted");
    expect(manifest?.files[0]).toMatchObject({ file: files[0]?.file, sha256: null, expected: null });
  });

  it("says that a manifest cannot be read, and fails", async () => {
    const path = await copyOf("Q8_0");
    writeFileSync(join(dirname(path), "manifest.json"), "{");
    const { manifest, error } = await run(path);
    expect(manifest?.state).toBe("unreadable");
    expect(error).toMatchObject({ code: "manifest", exitCode: 1 });
    expect(error?.message).toMatch(/manifest\.json: not JSON/);
  });
});
