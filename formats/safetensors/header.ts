import type { ByteSource } from "../source.js";
import { FETCH_AGAIN, SafetensorsError, shown } from "./errors.js";
import { isObject, type JsonBounds, parseJson } from "./json.js";
import { isCount, isDtype, METADATA_KEY, nameObjection, PREFIX_BYTES, tensorBytes } from "./layout.js";
import { MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_METADATA_ENTRIES, MAX_TENSORS } from "./limits.js";
import type { TensorEntry } from "./types.js";

/** Root, tensor, list of dimensions; one level to spare for fields that we do not know. */
const HEADER_BOUNDS: JsonBounds = {
  depth: 4,
  containers: 3 * MAX_TENSORS + 2,
  keys: MAX_TENSORS + 1,
  // More than MAX_DIMENSIONS, so that a shape just above is refused with the name of its tensor.
  elements: 4 * MAX_DIMENSIONS,
};

export interface Header {
  /** By offset. */
  readonly tensors: readonly TensorEntry[];
  /** `__metadata__`, empty when there is none; without a prototype. */
  readonly metadata: Readonly<Record<string, string>>;
}

async function readHeaderBytes(source: ByteSource): Promise<Uint8Array> {
  const refuse = (reason: string): never => {
    throw new SafetensorsError("safetensors-header", `${source.name}: ${reason}.`, { advice: FETCH_AGAIN });
  };
  if (source.size < PREFIX_BYTES) {
    return refuse(`the file has ${source.size} bytes, expected at least ${PREFIX_BYTES}`);
  }
  const prefix = new Uint8Array(PREFIX_BYTES);
  await source.read(prefix, 0);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    return refuse(`the header claims ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  if (length > BigInt(source.size - PREFIX_BYTES)) {
    return refuse(`the header claims ${length} bytes, the file has ${source.size}`);
  }
  const bytes = new Uint8Array(Number(length));
  await source.read(bytes, PREFIX_BYTES);
  // The format asks for it, and it tells other files and byte order marks apart before anything is parsed.
  if (bytes[0] !== 0x7b) return refuse("the header does not start with a brace");
  return bytes;
}

function readMetadata(file: string, value: unknown): Readonly<Record<string, string>> {
  const refuse = (found: string): never => {
    throw new SafetensorsError("safetensors-metadata", `${file}: ${METADATA_KEY} ${found}.`);
  };
  const metadata = Object.create(null) as Record<string, string>;
  if (value === undefined) return metadata;
  if (!isObject(value)) return refuse(`is ${shown(value)}, expected an object`);
  const entries = Object.entries(value);
  if (entries.length > MAX_METADATA_ENTRIES) {
    return refuse(`has ${entries.length} entries, expected at most ${MAX_METADATA_ENTRIES}`);
  }
  for (const [key, text] of entries) {
    if (typeof text !== "string") return refuse(`${shown(key)} is ${shown(text)}, expected a text`);
    metadata[key] = text;
  }
  return metadata;
}

/** Checks one tensor by itself; `offset` of the result counts from the start of the file. */
function readTensor(
  file: string,
  dataStart: number,
  shard: number,
  name: string,
  info: unknown,
): TensorEntry {
  const refuse = (reason: string): never => {
    throw new SafetensorsError("safetensors-tensor", `${file}: tensor ${shown(name)} ${reason}.`, {
      advice: FETCH_AGAIN,
    });
  };
  const badName = nameObjection(name);
  if (badName !== undefined) return refuse(badName);
  if (!isObject(info)) return refuse(`is ${shown(info)}, expected an object`);
  const { dtype, shape, data_offsets: offsets } = info;
  if (!isDtype(dtype)) return refuse(`has the dtype ${shown(dtype)}, which the format does not name`);
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    return refuse(`has the shape ${shown(shape)}, expected a list of whole numbers`);
  }
  if (shape.length > MAX_DIMENSIONS) {
    return refuse(`has ${shape.length} dimensions, expected at most ${MAX_DIMENSIONS}`);
  }
  const byteLength = tensorBytes(dtype, shape);
  if (byteLength === undefined) return refuse(`has the shape ${shown(shape)}, which is too large`);
  if (!Number.isInteger(byteLength)) {
    return refuse(`of ${dtype} and shape ${shown(shape)} does not fill whole bytes`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return refuse(`has the data_offsets ${shown(offsets)}, expected two whole numbers`);
  }
  const [begin, end] = offsets as [number, number];
  if (end - begin !== byteLength) {
    return refuse(
      `has data_offsets ${shown(offsets)}, expected ${byteLength} bytes for ${dtype} and shape ${shown(shape)}`,
    );
  }
  return { name, dtype, shape, shard, offset: dataStart + begin, byteLength };
}

/** Tensors have to lie one behind the other, from the header to the end of the file. */
function checkCoverage(source: ByteSource, dataStart: number, tensors: readonly TensorEntry[]): void {
  const refuse = (reason: string): never => {
    throw new SafetensorsError("safetensors-offsets", `${source.name}: ${reason}.`, { advice: FETCH_AGAIN });
  };
  const before = (index: number): string =>
    index === 0 ? "the header" : `tensor ${shown(tensors[index - 1]!.name)}`;
  let end = dataStart;
  for (const [index, { name, offset, byteLength }] of tensors.entries()) {
    if (offset < end) refuse(`tensor ${shown(name)} overlaps ${before(index)}`);
    if (offset > end) {
      refuse(`${offset - end} bytes between ${before(index)} and tensor ${shown(name)} belong to none`);
    }
    end = offset + byteLength;
    if (end > source.size) refuse(`tensor ${shown(name)} ends at byte ${end}, the file has ${source.size}`);
  }
  if (end < source.size) {
    refuse(`${source.size - end} bytes behind ${before(tensors.length)} belong to no tensor`);
  }
}

/**
 * Reads and checks the header of one file; no tensor data is read.
 *
 * Refused is what the Rust library refuses, and what it lets pass although the format forbids it: a key
 * that is there twice, and a header that does not start with a brace. Fields of a tensor that the format
 * does not name are ignored, as there.
 *
 * @param shard number that the entries get as their `shard`
 * @throws SafetensorsError when the header is damaged, or does not describe the file byte for byte
 * @throws FormatError when the file cannot be read
 */
export async function readHeader(source: ByteSource, shard = 0): Promise<Header> {
  const bytes = await readHeaderBytes(source);
  const header = parseJson(bytes, `${source.name}: the header`, HEADER_BOUNDS);
  const dataStart = PREFIX_BYTES + bytes.byteLength;
  const tensors: TensorEntry[] = [];
  for (const name of Object.keys(header)) {
    if (name !== METADATA_KEY) tensors.push(readTensor(source.name, dataStart, shard, name, header[name]));
  }
  // An empty tensor may share its offset with the one behind it.
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  checkCoverage(source, dataStart, tensors);
  return { tensors, metadata: readMetadata(source.name, header[METADATA_KEY]) };
}
