import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseSafetensorsMetadata } from "@huggingface/hub";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openFile } from "../../../formats/file-source.js";
import { openCheckpoint, readTensorRange } from "../../../formats/safetensors/read.js";
import type { Checkpoint } from "../../../formats/safetensors/types.js";
import {
  writeSafetensors,
  writeShardedSafetensors,
  type FillTensor,
} from "../../../formats/safetensors/write.js";
import { packageRoot } from "../../../src/base/paths.js";

const NANO = join(packageRoot, "fixtures", "nano-e");

/** What the `safetensors` package exports; it has no types of its own. */
interface Peer {
  readonly SafeTensor: new (file: Uint8Array) => {
    readonly metadata: Map<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    getTensor(name: string): Uint8Array;
  };
}

const { SafeTensor } = createRequire(import.meta.url)("safetensors") as Peer;

/** Stands in for the hub: a folder, with the ranges and headers that its library relies on. */
function hubOf(folder: string): typeof fetch {
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    const file = /\/owner\/model\/(?:resolve|raw)\/main\/(.+)$/.exec(url)?.[1];
    const path = join(folder, file ?? "none");
    const present = await stat(path).catch(() => undefined);
    if (present === undefined)
      return new Response(null, { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
    if (init?.method === "HEAD") return new Response(null);
    const bytes = await readFile(path);
    const range = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init?.headers).get("range") ?? "");
    const [start, end] = range ? [Number(range[1]), Number(range[2])] : [0, bytes.byteLength - 1];
    return new Response(bytes.subarray(start, end + 1), {
      status: range ? 206 : 200,
      headers: { ETag: '"1"', "Content-Range": `bytes ${start}-${end}/${bytes.byteLength}` },
    });
  };
}

async function byHub(folder: string): Promise<Awaited<ReturnType<typeof parseSafetensorsMetadata>>> {
  return parseSafetensorsMetadata({ repo: "owner/model", fetch: hubOf(folder) });
}

/** Our tensors of one shard in the form of a header. */
async function asHeader(checkpoint: Checkpoint, shard = 0): Promise<Record<string, unknown>> {
  const file = await readFile(checkpoint.shards[shard]!.path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  return Object.fromEntries(
    [...checkpoint.tensors.values()]
      .filter((entry) => entry.shard === shard)
      .map(({ name, dtype, shape, offset, byteLength }) => [
        name,
        { dtype, shape, data_offsets: [offset - start, offset - start + byteLength] },
      ]),
  );
}

async function digest(file: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(file))
    .digest("hex");
}

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-crosscheck-"));
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Copies tensors out of an open checkpoint, in chunks that do not divide them. */
function copyFrom(checkpoint: Checkpoint, sources: Parameters<typeof readTensorRange>[0]): FillTensor {
  return async (name, write) => {
    const entry = checkpoint.tensors.get(name)!;
    for (let start = 0; start < entry.byteLength; start += 10_007) {
      const chunk = new Uint8Array(Math.min(10_007, entry.byteLength - start));
      await readTensorRange(sources, entry, chunk, start);
      await write(chunk);
    }
  };
}

describe("a real checkpoint", () => {
  test("is read as the hub's library reads it", async () => {
    const ours = await openCheckpoint(NANO);
    const theirs = await byHub(NANO);
    if (theirs.sharded) throw new Error("one file was expected");
    const { __metadata__: metadata, ...tensors } = theirs.header;
    expect(ours.tensors.size).toBe(290);
    expect(await asHeader(ours)).toEqual(tensors);
    expect({ ...ours.metadata }).toEqual(metadata);
  });

  test("comes out byte for byte when it is written in the same order", async () => {
    const checkpoint = await openCheckpoint(NANO);
    const source = await openFile(checkpoint.shards[0]!.path);
    const path = join(folder, "copy.safetensors");
    const { metadata, tensors } = checkpoint;
    await writeSafetensors(
      path,
      { metadata, tensors: [...tensors.values()] },
      copyFrom(checkpoint, [source]),
    );
    await source.close();
    expect(await digest(path)).toBe(await digest(checkpoint.shards[0]!.path));
  });

  test("is read alike by the hub's library and by us when it is cut into shards", async () => {
    const whole = await openCheckpoint(NANO);
    const source = await openFile(whole.shards[0]!.path);
    const tensors = [...whole.tensors.values()];
    const files = await writeShardedSafetensors(folder, { tensors }, 2 ** 21, copyFrom(whole, [source]));
    await source.close();
    expect(files.length).toBeGreaterThan(3);
    const ours = await openCheckpoint(folder);
    const theirs = await byHub(folder);
    if (!theirs.sharded) throw new Error("shards were expected");
    expect(ours.shards.map(({ file }) => file)).toEqual(Object.keys(theirs.headers).toSorted());
    for (const [shard, { file }] of ours.shards.entries()) {
      expect(await asHeader(ours, shard)).toEqual(theirs.headers[file]);
    }
    expect([...ours.tensors.keys()]).toEqual([...whole.tensors.keys()]);
    expect(theirs.index.metadata?.["total_size"]).toBe(
      tensors.reduce((sum, { byteLength }) => sum + byteLength, 0),
    );
  });
});

describe("the safetensors package", () => {
  test("finds the same tensors and bytes in a file that we wrote", async () => {
    const path = join(folder, "model.safetensors");
    const values: Record<string, Uint8Array> = {
      "blk.0": new Uint8Array(Float32Array.from([1.5, -2, 0.25, 3e38]).buffer),
      scalar: new Uint8Array([0x80, 0x3f]),
      none: new Uint8Array(0),
      bytes: Uint8Array.from({ length: 1000 }, (_, index) => index),
    };
    await writeSafetensors(
      path,
      {
        tensors: [
          { name: "bytes", dtype: "U8", shape: [10, 100] },
          { name: "scalar", dtype: "BF16", shape: [] },
          { name: "none", dtype: "I64", shape: [3, 0] },
          { name: "blk.0", dtype: "F32", shape: [2, 2] },
        ],
      },
      async (name, write) => {
        for (const byte of values[name]!) await write(Uint8Array.of(byte));
      },
    );
    // The package ignores the byte offset of a Buffer, so it gets an array of its own.
    const theirs = new SafeTensor(new Uint8Array(await readFile(path)));
    const { tensors, shards } = await openCheckpoint(folder);
    expect([...theirs.metadata.keys()].toSorted()).toEqual([...tensors.keys()].toSorted());
    const source = await openFile(shards[0]!.path);
    for (const entry of tensors.values()) {
      const { name, dtype, shape, offset, byteLength } = entry;
      expect(theirs.metadata.get(name)).toEqual({
        dtype,
        shape,
        data_offsets: [offset, offset + byteLength],
      });
      const bytes = new Uint8Array(byteLength);
      await readTensorRange([source], entry, bytes);
      expect(bytes).toEqual(theirs.getTensor(name).slice());
      expect(bytes).toEqual(values[name]);
    }
    await source.close();
  });
});
