import { join } from "node:path";
import { type AtomicFile, createAtomicFile, writeFileAtomic } from "../../src/base/atomic-file.js";
import { SafetensorsError, shown } from "./errors.js";
import { isCount, METADATA_KEY, nameObjection, PREFIX_BYTES, tensorBytes } from "./layout.js";
import { MAX_DIMENSIONS, MAX_HEADER_BYTES } from "./limits.js";
import { INDEX_FILE } from "./read.js";
import type { Dtype } from "./types.js";

export interface NewTensor {
  readonly name: string;
  readonly dtype: Dtype;
  /** Outermost dimension first; empty for a scalar. */
  readonly shape: readonly number[];
}

export interface NewCheckpoint {
  /** In the order in which they will lie in the file. */
  readonly tensors: readonly NewTensor[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Gives the bytes of one tensor, little-endian and row by row, in as many chunks as it likes. */
export type FillTensor = (name: string, write: (chunk: Uint8Array) => Promise<void>) => Promise<void>;

export interface WriteOptions {
  /** A tensor for which nothing is written becomes a hole in the file, which reads as zeros; else it is refused. */
  readonly sparse?: boolean;
}

interface Placed extends NewTensor {
  readonly byteLength: number;
}

function place(path: string, tensors: readonly NewTensor[]): Placed[] {
  const names = new Set<string>([METADATA_KEY]);
  return tensors.map((tensor) => {
    const { name, dtype, shape } = tensor;
    const refuse = (reason: string): never => {
      throw new SafetensorsError("safetensors-tensor", `${path}: tensor ${shown(name)} ${reason}.`);
    };
    const badName = nameObjection(name);
    if (badName !== undefined) return refuse(badName);
    if (names.has(name)) return refuse("has a name that is taken");
    names.add(name);
    const byteLength = tensorBytes(dtype, shape);
    if (!shape.every(isCount) || shape.length > MAX_DIMENSIONS || !isCount(byteLength)) {
      return refuse(`cannot have the shape ${shown(shape)} with ${dtype}`);
    }
    return { name, dtype, shape, byteLength };
  });
}

/** The length and the JSON header, padded with spaces so that the data starts at a multiple of 8. */
function encodeHeader(
  path: string,
  tensors: readonly Placed[],
  metadata: NewCheckpoint["metadata"],
): Uint8Array {
  const rows: string[] = [];
  if (metadata !== undefined) rows.push(`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`);
  let begin = 0;
  for (const { name, dtype, shape, byteLength } of tensors) {
    const info = { dtype, shape, data_offsets: [begin, begin + byteLength] };
    rows.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`);
    begin += byteLength;
  }
  const text = new TextEncoder().encode(`{${rows.join(",")}}`);
  const length = Math.ceil(text.byteLength / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new SafetensorsError(
      "safetensors-header",
      `${path}: the header would have ${length} bytes, expected at most ${MAX_HEADER_BYTES}.`,
    );
  }
  const bytes = new Uint8Array(PREFIX_BYTES + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, PREFIX_BYTES);
  return bytes;
}

async function writeTensor(
  file: AtomicFile,
  { name, byteLength }: Placed,
  start: number,
  fill: FillTensor,
  sparse: boolean,
): Promise<void> {
  let written = 0;
  const refuse = (bytes: number): never => {
    throw new SafetensorsError(
      "safetensors-fill",
      `${file.path}: tensor ${shown(name)} was given ${bytes} bytes, expected ${byteLength}.`,
    );
  };
  await fill(name, async (chunk) => {
    if (written + chunk.byteLength > byteLength) refuse(written + chunk.byteLength);
    const position = start + written;
    written += chunk.byteLength;
    await file.write(chunk, position);
  });
  if (written !== byteLength && !(sparse && written === 0)) refuse(written);
}

/**
 * Writes one .safetensors file, tensor by tensor; it appears under its name when it is complete. What was
 * there is replaced.
 *
 * @param fill called for each tensor in turn; every `write` has to be awaited
 * @throws SafetensorsError when the format cannot hold a tensor, or `fill` gives too few or too many bytes
 * @throws OutputError when the file cannot be written
 */
export async function writeSafetensors(
  path: string,
  { tensors, metadata }: NewCheckpoint,
  fill: FillTensor,
  { sparse = false }: WriteOptions = {},
): Promise<void> {
  const placed = place(path, tensors);
  const header = encodeHeader(path, placed, metadata);
  const size = placed.reduce((sum, { byteLength }) => sum + byteLength, header.byteLength);
  const file = await createAtomicFile(path, size);
  try {
    await file.write(header, 0);
    let start = header.byteLength;
    for (const tensor of placed) {
      await writeTensor(file, tensor, start, fill, sparse);
      start += tensor.byteLength;
    }
  } catch (error) {
    await file.abort();
    throw error;
  }
  await file.commit();
}

/** Cuts a list of tensors where a shard would pass `maxShardBytes`; a larger tensor gets a shard of its own. */
function intoShards(tensors: readonly Placed[], maxShardBytes: number): Placed[][] {
  const shards: Placed[][] = [];
  let room = 0;
  for (const tensor of tensors) {
    const last = shards.at(-1);
    if (last === undefined || tensor.byteLength > room) {
      shards.push([tensor]);
      room = maxShardBytes - tensor.byteLength;
    } else {
      last.push(tensor);
      room -= tensor.byteLength;
    }
  }
  return shards;
}

/**
 * Writes shards and their index, named as the transformers library names them.
 *
 * @param folder has to exist
 * @param maxShardBytes bytes of tensor data in one shard
 * @returns names of the shards
 * @throws as writeSafetensors
 */
export async function writeShardedSafetensors(
  folder: string,
  { tensors, metadata }: NewCheckpoint,
  maxShardBytes: number,
  fill: FillTensor,
  options: WriteOptions = {},
): Promise<string[]> {
  const shards = intoShards(place(folder, tensors), maxShardBytes);
  const files: string[] = [];
  const weightMap: [string, string][] = [];
  let totalSize = 0;
  for (const [index, held] of shards.entries()) {
    const number = String(index + 1).padStart(5, "0");
    const file = `model-${number}-of-${String(shards.length).padStart(5, "0")}.safetensors`;
    const contents = metadata === undefined ? { tensors: held } : { tensors: held, metadata };
    await writeSafetensors(join(folder, file), contents, fill, options);
    files.push(file);
    for (const { name, byteLength } of held) {
      weightMap.push([name, file]);
      totalSize += byteLength;
    }
  }
  const index = { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(weightMap) };
  await writeFileAtomic(join(folder, INDEX_FILE), `${JSON.stringify(index, null, 2)}\n`);
  return files;
}
