import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import {
  type NewTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../../formats/safetensors/write.js";

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-write-"));
  path = join(folder, "model.safetensors");
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const nothing = (): Promise<void> => Promise.resolve();
const FOUR: NewTensor = { name: "x", dtype: "U8", shape: [4] };

test("starts the data at a multiple of 8 and pads the header with spaces", async () => {
  for (let length = 1; length <= 9; length++) {
    await writeSafetensors(path, { tensors: [{ ...FOUR, name: "x".repeat(length) }] }, (_, write) =>
      write(Uint8Array.of(1, 2, 3, 4)),
    );
    const file = await readFile(path);
    const header = Number(file.readBigUInt64LE(0));
    expect(header % 8).toBe(0);
    expect(file.subarray(8, 8 + header).toString()).toMatch(/^\{"x+":.*\} {0,7}$/);
    expect([...file.subarray(8 + header)]).toEqual([1, 2, 3, 4]);
  }
});

async function fillNorm(name: string, write: (chunk: Uint8Array) => Promise<void>): Promise<void> {
  if (name === "norm") await write(new Uint8Array(8).fill(9));
}

test("makes gigabytes of holes that take no space", async () => {
  const tensors: NewTensor[] = [
    { name: "embedding", dtype: "BF16", shape: [262_144, 5376] },
    { name: "experts", dtype: "BF16", shape: [128, 2816, 1408] },
    { name: "norm", dtype: "BF16", shape: [4] },
  ];
  await writeSafetensors(path, { tensors }, fillNorm, { sparse: true });
  const { size, blocks } = await stat(path);
  expect(size).toBeGreaterThan(3.8e9);
  expect(blocks * 512).toBeLessThan(2 ** 20);
  const files = await writeShardedSafetensors(folder, { tensors }, 1e9, fillNorm, { sparse: true });
  expect(files).toEqual([1, 2, 3].map((number) => `model-0000${number}-of-00003.safetensors`));
  await rm(path);
  expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["embedding", "experts", "norm"]);
});

test("cuts shards where the next tensor does not fit", async () => {
  const tensors = [3, 4, 1, 20, 0, 8].map((length, index): NewTensor => ({
    name: `t${index}`,
    dtype: "U8",
    shape: [length],
  }));
  const files = await writeShardedSafetensors(folder, { tensors }, 8, nothing, { sparse: true });
  const { tensors: read } = await openCheckpoint(folder);
  expect([...read.values()].map(({ shard }) => shard)).toEqual([0, 0, 0, 1, 2, 2]);
  expect((await readdir(folder)).toSorted()).toEqual([...files, "model.safetensors.index.json"]);
});

test.each([
  ["too few bytes", 3, false],
  ["too many bytes", 5, false],
  ["no bytes", 0, false],
  ["too few bytes, sparse or not", 3, true],
])("refuses %s and leaves nothing behind", async (_, length, sparse) => {
  const written = writeSafetensors(path, { tensors: [FOUR] }, (_, write) => write(new Uint8Array(length)), {
    sparse,
  });
  await expect(written).rejects.toMatchObject({
    code: "safetensors-fill",
    message: `${path}: tensor "x" was given ${length} bytes, expected 4.`,
  });
  expect(await readdir(folder)).toEqual([]);
});

test("passes on what goes wrong in the caller and leaves nothing behind", async () => {
  const defect = new Error("no more values");
  await expect(writeSafetensors(path, { tensors: [FOUR] }, () => Promise.reject(defect))).rejects.toBe(
    defect,
  );
  expect(await readdir(folder)).toEqual([]);
});

test.each<[string, NewTensor[]]>([
  ["a name twice", [FOUR, FOUR]],
  ["the name of the metadata", [{ ...FOUR, name: "__metadata__" }]],
  ["half of a surrogate pair", [{ ...FOUR, name: "\udc00" }]],
  ["a long name", [{ ...FOUR, name: "x".repeat(1025) }]],
  ["a negative dimension", [{ ...FOUR, shape: [-1, -4] }]],
  ["a fraction", [{ ...FOUR, shape: [0.5, 8] }]],
  ["a size above 2^53", [{ ...FOUR, shape: [2 ** 30, 2 ** 30] }]],
  ["half a byte", [{ ...FOUR, dtype: "F4", shape: [7] }]],
  ["too many dimensions", [{ ...FOUR, shape: Array.from({ length: 65 }, () => 1) }]],
])("refuses %s before it makes a file", async (_, tensors) => {
  await expect(writeSafetensors(path, { tensors }, nothing, { sparse: true })).rejects.toMatchObject({
    code: "safetensors-tensor",
  });
  expect(await readdir(folder)).toEqual([]);
});

test("says what to do when the folder is missing", async () => {
  await expect(
    writeSafetensors(join(folder, "none", "x.safetensors"), { tensors: [] }, nothing),
  ).rejects.toMatchObject({ name: "OutputError", code: "output-folder" });
});
