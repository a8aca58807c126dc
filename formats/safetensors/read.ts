import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { FormatError } from "../errors.js";
import { openFile } from "../file-source.js";
import type { ByteSource } from "../source.js";
import { SafetensorsError, shown } from "./errors.js";
import { type Header, readHeader } from "./header.js";
import { readIndex } from "./index-file.js";
import { isCount } from "./layout.js";
import { MAX_TENSORS } from "./limits.js";
import type { Checkpoint, Shard, TensorEntry } from "./types.js";

export { readHeader } from "./header.js";

/** Name of a checkpoint that is one file. */
const SINGLE_FILE = "model.safetensors";

/** Name of the list that says which shard holds which tensor. */
export const INDEX_FILE = "model.safetensors.index.json";

/** How the name of a file inside a checkpoint becomes a source, whose `name` is a path or an address. */
export type OpenShard = (file: string) => Promise<ByteSource>;

interface ReadShard {
  readonly shard: Shard;
  readonly header: Header;
}

async function withSource<T>(source: ByteSource, use: (source: ByteSource) => Promise<T>): Promise<T> {
  try {
    return await use(source);
  } finally {
    await source.close();
  }
}

async function readShard(open: OpenShard, file: string, number: number): Promise<ReadShard> {
  return withSource(await open(file), async (source) => ({
    shard: { file, path: source.name, size: source.size },
    header: await readHeader(source, number),
  }));
}

function checkpointOf(read: readonly ReadShard[]): Checkpoint {
  const tensors = new Map<string, TensorEntry>();
  for (const { shard, header } of read) {
    for (const entry of header.tensors) {
      const other = tensors.get(entry.name);
      if (other !== undefined) {
        throw new SafetensorsError(
          "safetensors-shard",
          `${shard.path}: tensor ${shown(entry.name)} is in ${shown(read[other.shard]!.shard.file)} too.`,
        );
      }
      if (tensors.size === MAX_TENSORS) {
        throw new SafetensorsError(
          "safetensors-shard",
          `${shard.path}: the checkpoint has more than ${MAX_TENSORS} tensors.`,
        );
      }
      tensors.set(entry.name, entry);
    }
  }
  return { shards: read.map(({ shard }) => shard), tensors, metadata: read[0]!.header.metadata };
}

/** The index and the headers have to agree on where every tensor is. */
function checkAgainstIndex({ shard, header }: ReadShard, expected: ReadonlySet<string>): void {
  const refuse = (reason: string): never => {
    throw new SafetensorsError("safetensors-shard", `${shard.path}: ${reason}.`, {
      advice: "The shards and the index are of different versions; fetch all of them again.",
    });
  };
  const held = new Set<string>();
  for (const { name } of header.tensors) {
    if (!expected.has(name)) refuse(`holds tensor ${shown(name)}, which the index does not name for it`);
    held.add(name);
  }
  for (const name of expected) {
    if (!held.has(name)) refuse(`lacks tensor ${shown(name)}, which the index names for it`);
  }
}

async function openIndexed(open: OpenShard): Promise<Checkpoint> {
  const index = await open(INDEX_FILE);
  const expected = await withSource(index, readIndex);
  const read: ReadShard[] = [];
  for (const file of expected.keys()) {
    try {
      read.push(await readShard(open, file, read.length));
    } catch (cause) {
      if (!(cause instanceof FormatError) || cause.code !== "file-missing") throw cause;
      throw new SafetensorsError("safetensors-shard", `${index.name}: the shard ${shown(file)} is missing.`, {
        cause,
        advice: "The download is not complete; fetch the missing file too.",
      });
    }
  }
  const checkpoint = checkpointOf(read);
  for (const shard of read) checkAgainstIndex(shard, expected.get(shard.shard.file)!);
  return checkpoint;
}

/**
 * Opens a checkpoint through any kind of source: headers are read and checked, then everything is closed.
 * When there are both one file and an index, the one file is taken, as the transformers library does.
 *
 * @param where the folder or address, for messages
 * @param files names of the files that are there; others are ignored
 * @throws SafetensorsError when nothing fits (exit code 2), or files are damaged, missing or do not agree
 * @throws FormatError when a file cannot be opened or read
 */
export async function openCheckpointFrom(
  where: string,
  files: Iterable<string>,
  open: OpenShard,
): Promise<Checkpoint> {
  const present = new Set(files);
  if (present.has(SINGLE_FILE)) return checkpointOf([await readShard(open, SINGLE_FILE, 0)]);
  if (present.has(INDEX_FILE)) return openIndexed(open);
  throw new SafetensorsError(
    "safetensors-none",
    `${where}: holds neither ${SINGLE_FILE} nor ${INDEX_FILE}.`,
    {
      exitCode: 2,
      advice: "Give the folder that the weights were downloaded to, or the .safetensors file itself.",
    },
  );
}

/**
 * Opens a checkpoint on disk: its folder, or a single .safetensors file. Headers are read and checked, then
 * the files are closed; no tensor data is read.
 *
 * @throws SafetensorsError, FormatError as openCheckpointFrom does; exit code 2 when `path` does not exist
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  // Whatever else the path is, opening it says what is wrong with it.
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return checkpointOf([await readShard(() => openFile(path), basename(path), 0)]);
  const files = await readdir(path).catch((cause: unknown) => {
    throw new FormatError("file-unreadable", `${path}: the folder cannot be listed.`, {
      cause,
      advice: "Check its permissions.",
    });
  });
  return openCheckpointFrom(path, files, (file) => openFile(join(path, file)));
}

/**
 * Fills `target` with bytes of a tensor.
 *
 * @param sources the open shards, numbered as `Checkpoint.shards`
 * @param byteStart first byte, counted from the start of the tensor
 * @throws SafetensorsError when the range leaves the tensor
 * @throws FormatError when the file cannot be read
 */
export async function readTensorRange(
  sources: readonly ByteSource[],
  entry: TensorEntry,
  target: Uint8Array,
  byteStart = 0,
): Promise<void> {
  const source = sources[entry.shard];
  if (source === undefined || !isCount(byteStart) || byteStart + target.byteLength > entry.byteLength) {
    throw new SafetensorsError(
      "safetensors-range",
      `Tensor ${shown(entry.name)}: ${target.byteLength} bytes at ${byteStart} of shard ${entry.shard} were asked for, it has ${entry.byteLength} bytes and ${sources.length} shards are open.`,
    );
  }
  await source.read(target, entry.offset + byteStart);
}
