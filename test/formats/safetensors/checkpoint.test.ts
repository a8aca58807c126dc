import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { FormatError } from "../../../formats/errors.js";
import { openFile } from "../../../formats/file-source.js";
import { openCheckpoint, openCheckpointFrom, readTensorRange } from "../../../formats/safetensors/read.js";
import {
  type NewTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../../formats/safetensors/write.js";
import type { ByteSource } from "../../../formats/source.js";
import { MemorySource, rawFile } from "./support.js";

const INDEX = "model.safetensors.index.json";
const FIRST = "model-00001-of-00002.safetensors";
const SECOND = "model-00002-of-00002.safetensors";

const TENSORS: readonly NewTensor[] = [
  { name: "z", dtype: "U8", shape: [4] },
  { name: "a", dtype: "BF16", shape: [1, 2] },
  { name: "m", dtype: "U8", shape: [6] },
];

/** Every byte of a tensor is the code of its name. */
async function fill(name: string, write: (chunk: Uint8Array) => Promise<void>): Promise<void> {
  const { dtype, shape } = TENSORS.find((tensor) => tensor.name === name)!;
  const count = shape.reduce((product, size) => product * size, dtype === "BF16" ? 2 : 1);
  await write(new Uint8Array(count).fill(name.charCodeAt(0)));
}

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-checkpoint-"));
  await writeShardedSafetensors(folder, { tensors: TENSORS, metadata: { format: "pt" } }, 8, fill);
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const at = (file: string): string => join(folder, file);

async function setIndex(weightMap: unknown): Promise<void> {
  await writeFile(at(INDEX), JSON.stringify({ metadata: { total_size: 1 }, weight_map: weightMap }));
}

/** The error that opening the folder ends in. */
async function refusal(): Promise<unknown> {
  return openCheckpoint(folder).catch((error: unknown) => error);
}

/** What such an error has to be: damage, with a message that contains `text`. */
function refused(code: string, text: string): object {
  const message = expect.stringContaining(text) as string;
  return { name: "SafetensorsError", code: `safetensors-${code}`, exitCode: 1, message };
}

describe("openCheckpoint", () => {
  test("lists tensors shard by shard, by offset", async () => {
    const { shards, tensors, metadata } = await openCheckpoint(folder);
    expect(shards.map(({ file, path }) => [file, path])).toEqual([
      [FIRST, at(FIRST)],
      [SECOND, at(SECOND)],
    ]);
    expect(shards.map(({ size }) => size)).toEqual([
      (await readFile(at(FIRST))).byteLength,
      (await readFile(at(SECOND))).byteLength,
    ]);
    expect([...tensors.keys()]).toEqual(["z", "a", "m"]);
    expect([...tensors.values()].map(({ shard }) => shard)).toEqual([0, 0, 1]);
    expect({ ...metadata }).toEqual({ format: "pt" });
  });

  test("sorts shards by name, not by their order in the index", async () => {
    await setIndex({ m: SECOND, a: FIRST, z: FIRST });
    expect((await openCheckpoint(folder)).shards.map(({ file }) => file)).toEqual([FIRST, SECOND]);
  });

  test("does not mind what the index says beside its map", async () => {
    const weight_map = { z: FIRST, a: FIRST, m: SECOND };
    await writeFile(at(INDEX), JSON.stringify({ weight_map, extra: [{}] }));
    expect((await openCheckpoint(folder)).tensors.size).toBe(3);
  });

  test("takes the one file when there is an index too", async () => {
    await writeSafetensors(at("model.safetensors"), { tensors: TENSORS.slice(0, 1) }, fill);
    const { shards, tensors } = await openCheckpoint(folder);
    expect(shards.map(({ file }) => file)).toEqual(["model.safetensors"]);
    expect([...tensors.keys()]).toEqual(["z"]);
  });

  test("takes a file by its path, under any name", async () => {
    const { shards, tensors } = await openCheckpoint(at(SECOND));
    expect(shards).toMatchObject([{ file: SECOND, path: at(SECOND) }]);
    expect([...tensors.keys()]).toEqual(["m"]);
  });

  test("follows links out of the folder, as the hub's cache has them", async () => {
    await mkdir(at("blobs"));
    await rename(at(FIRST), at("blobs/abc"));
    await symlink(at("blobs/abc"), at(FIRST));
    expect((await openCheckpoint(folder)).tensors.size).toBe(3);
  });

  test("says that it is misuse when nothing is there", async () => {
    await expect(openCheckpoint(at("none"))).rejects.toMatchObject({ code: "file-missing", exitCode: 2 });
    await mkdir(at("empty"));
    await expect(openCheckpoint(at("empty"))).rejects.toMatchObject({
      name: "SafetensorsError",
      code: "safetensors-none",
      exitCode: 2,
      message: `${at("empty")}: holds neither model.safetensors nor ${INDEX}.`,
    });
  });
});

describe("openCheckpoint refuses", () => {
  test.each([
    ["a map that is no object", [FIRST], "weight_map is"],
    ["no map", undefined, "weight_map is missing"],
    ["an empty map", {}, "weight_map names no tensors"],
    ["a file that is no text", { z: 1 }, 'weight_map gives 1 for tensor "z"'],
  ])("%s", async (_, map, says) => {
    await setIndex(map);
    expect(await refusal()).toMatchObject(refused("index", `${at(INDEX)}: ${says}`));
  });

  test.each([
    "../model.safetensors",
    "/etc/model.safetensors",
    "sub/model.safetensors",
    "sub\\model.safetensors",
    "C:model.safetensors",
    "a\0.safetensors",
    "a\n.safetensors",
    "..",
    ".safetensors",
    "",
    "config.json",
    "https://example.org/model.safetensors",
    `${"x".repeat(244)}.safetensors`,
    "\ud800.safetensors",
  ])("the shard name %j", async (file) => {
    await setIndex({ z: file });
    expect(await refusal()).toMatchObject(refused("index", `${at(INDEX)}: tensor "z" is in`));
  });

  test("more shards than any checkpoint has", async () => {
    await setIndex(Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`t${i}`, `${i}.safetensors`])));
    expect(await refusal()).toMatchObject(
      refused("index", `${at(INDEX)}: weight_map names more than 1000 files`),
    );
  });

  test("an index that names a tensor twice", async () => {
    await writeFile(at(INDEX), `{"weight_map":{"z":"${FIRST}","z":"${SECOND}"}}`);
    expect(await refusal()).toMatchObject(refused("json", `${at(INDEX)}: the index has the key "z" twice`));
  });

  test("an index that is not JSON, or longer than any", async () => {
    await writeFile(at(INDEX), "{");
    expect(await refusal()).toMatchObject(refused("json", `${at(INDEX)}: the index is not valid JSON`));
    await truncate(at(INDEX), 100_000_001);
    expect(await refusal()).toMatchObject(refused("index", `${at(INDEX)}: the index has 100000001 bytes`));
  });

  test("a missing shard", async () => {
    await rm(at(SECOND));
    expect(await refusal()).toMatchObject(refused("shard", `${at(INDEX)}: the shard "${SECOND}" is missing`));
  });

  test("a shard that was cut short", async () => {
    await truncate(at(SECOND), (await readFile(at(SECOND))).byteLength - 1);
    expect(await refusal()).toMatchObject(refused("offsets", `${at(SECOND)}: tensor "m" ends at byte`));
  });

  test("a tensor that its shard lacks", async () => {
    await setIndex({ z: FIRST, a: FIRST, b: FIRST, m: SECOND });
    expect(await refusal()).toMatchObject(refused("shard", `${at(FIRST)}: lacks tensor "b"`));
    await setIndex({ z: FIRST, a: SECOND, m: SECOND });
    expect(await refusal()).toMatchObject(refused("shard", `${at(FIRST)}: holds tensor "a"`));
  });

  test("a tensor that the index does not name", async () => {
    await setIndex({ z: FIRST, m: SECOND });
    expect(await refusal()).toMatchObject(
      refused("shard", `${at(FIRST)}: holds tensor "a", which the index does not name`),
    );
  });

  test("a tensor in two shards", async () => {
    await copyFile(at(FIRST), at("model-00003-of-00003.safetensors"));
    await setIndex({ z: FIRST, a: "model-00003-of-00003.safetensors", m: SECOND });
    expect(await refusal()).toMatchObject(
      refused("shard", `${at("model-00003-of-00003.safetensors")}: tensor "z" is in "${FIRST}" too`),
    );
  });
});

describe("openCheckpointFrom", () => {
  test("reads through any source, header bytes only, and closes what it opened", async () => {
    const opened: MemorySource[] = [];
    const open = async (file: string): Promise<ByteSource> => {
      const source = new MemorySource(await readFile(at(file)), `https://hub.invalid/resolve/${file}`);
      opened.push(source);
      return source;
    };
    const { shards, tensors } = await openCheckpointFrom("hub", await readdir(folder), open);
    expect(shards.map(({ path }) => path)).toEqual(
      [FIRST, SECOND].map((file) => `https://hub.invalid/resolve/${file}`),
    );
    expect(tensors.size).toBe(3);
    expect(opened.map(({ closed }) => closed)).toEqual([true, true, true]);
    expect(opened[1]!.largest).toBe(tensors.get("z")!.offset - 8);
  });

  test("closes a file that is damaged, and passes on what is not ours", async () => {
    const damaged = new MemorySource(rawFile("[]"));
    await expect(
      openCheckpointFrom("memory", ["model.safetensors"], () => Promise.resolve(damaged)),
    ).rejects.toBeInstanceOf(FormatError);
    expect(damaged.closed).toBe(true);
    const lost = new Error("connection lost");
    await expect(openCheckpointFrom("hub", [INDEX], () => Promise.reject(lost))).rejects.toBe(lost);
  });
});

describe("readTensorRange", () => {
  test("reads inside the tensor, and nowhere else", async () => {
    const { shards, tensors } = await openCheckpoint(folder);
    const sources = await Promise.all(shards.map(({ path }) => openFile(path)));
    const target = new Uint8Array(3);
    await readTensorRange(sources, tensors.get("m")!, target, 3);
    expect(Buffer.from(target).toString()).toBe("mmm");
    await readTensorRange(sources, tensors.get("a")!, target);
    expect(Buffer.from(target).toString()).toBe("aaa");
    for (const start of [4, -1, 0.5, 2 ** 53]) {
      await expect(readTensorRange(sources, tensors.get("m")!, target, start)).rejects.toMatchObject({
        code: "safetensors-range",
      });
    }
    await expect(readTensorRange(sources.slice(0, 1), tensors.get("m")!, target)).rejects.toMatchObject({
      code: "safetensors-range",
    });
    await Promise.all(sources.map((source) => source.close()));
  });
});
