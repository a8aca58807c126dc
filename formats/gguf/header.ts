import { padTo } from "../padding.js";
import type { ByteSource } from "../source.js";
import { ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GGUF_MAGIC, shown, TYPED_ARRAYS, VALUE_BYTES } from "./format.js";
import { HeaderReader } from "./header-reader.js";
import {
  MAX_DIMENSIONS,
  MAX_KEY_BYTES,
  MAX_METADATA_KEYS,
  MAX_STRING_BYTES,
  MAX_TENSOR_NAME_BYTES,
  MAX_TENSORS,
} from "./limits.js";
import { tensorBytes, tensorTypeById } from "./tensor-types.js";
import {
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufFile,
  type GgufMetadata,
  type GgufNumberType,
  type GgufTensor,
  type GgufValue,
} from "./types.js";

/** Length, one byte of key, type, one byte of value. */
const SMALLEST_ENTRY = 8 + 1 + 4 + 1;
/** Length, one byte of name, dimension count, one dimension, type, offset. */
const SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8;

async function readArray(reader: HeaderReader, what: string): Promise<GgufArray> {
  const id = await reader.u32(`the element type of ${what}`);
  const of = GGUF_VALUE_TYPES[id];
  if (of === undefined) throw reader.error("gguf-metadata", `${what} is an array of unknown type ${id}`);
  if (of === "array") {
    throw reader.error("gguf-metadata", `${what} is an array of arrays, which no reader of GGUF accepts`);
  }
  const count = await reader.arrayCount(VALUE_BYTES[of], what);
  const type = "array";
  if (of === "string") return { type, of, value: await reader.strings(count, what) };
  const bytes = await reader.bytes(count * VALUE_BYTES[of], what);
  if (of === "bool") return { type, of, value: Array.from(bytes, (byte) => asBool(reader, byte, what)) };
  // The table ties each type to an array of its values.
  return { type, of, value: new TYPED_ARRAYS[of](bytes.buffer) } as GgufArray;
}

function asBool(reader: HeaderReader, byte: number, what: string): boolean {
  if (byte > 1) throw reader.error("gguf-metadata", `${what} has a boolean of value ${byte}, not 0 or 1`);
  return byte === 1;
}

const NUMBERS: Readonly<Record<GgufNumberType, (bytes: Buffer) => number>> = {
  u8: (bytes) => bytes.readUInt8(),
  i8: (bytes) => bytes.readInt8(),
  u16: (bytes) => bytes.readUInt16LE(),
  i16: (bytes) => bytes.readInt16LE(),
  u32: (bytes) => bytes.readUInt32LE(),
  i32: (bytes) => bytes.readInt32LE(),
  f32: (bytes) => bytes.readFloatLE(),
  f64: (bytes) => bytes.readDoubleLE(),
};

async function readValue(reader: HeaderReader, what: string): Promise<GgufValue> {
  const id = await reader.u32(`the type of ${what}`);
  const type = GGUF_VALUE_TYPES[id];
  if (type === undefined) throw reader.error("gguf-metadata", `${what} has unknown type ${id}`);
  if (type === "array") return readArray(reader, what);
  if (type === "string") return { type, value: await reader.string(MAX_STRING_BYTES, what) };
  const bytes = await reader.view(VALUE_BYTES[type], what);
  if (type === "bool") return { type, value: asBool(reader, bytes.readUInt8(), what) };
  if (type === "u64") return { type, value: bytes.readBigUInt64LE() };
  if (type === "i64") return { type, value: bytes.readBigInt64LE() };
  return { type, value: NUMBERS[type](bytes) };
}

/** Names end up in C strings, where a NUL byte would cut them short and could make two of them equal. */
function checkName(reader: HeaderReader, name: string, what: string): void {
  if (name === "") throw reader.error("gguf-name", `${what} is empty`);
  if (name.includes("\0")) throw reader.error("gguf-name", `${what}, ${shown(name)}, holds a NUL byte`);
}

async function readMetadata(reader: HeaderReader, count: number): Promise<Map<string, GgufValue>> {
  const metadata = new Map<string, GgufValue>();
  for (let index = 0; index < count; index++) {
    const what = `metadata key ${index}`;
    const key = await reader.string(MAX_KEY_BYTES, what);
    checkName(reader, key, what);
    if (metadata.has(key)) throw reader.error("gguf-name", `metadata key ${shown(key)} occurs twice`);
    metadata.set(key, await readValue(reader, `metadata value ${shown(key)}`));
  }
  return metadata;
}

function alignmentOf(reader: HeaderReader, metadata: GgufMetadata): number {
  const entry = metadata.get(ALIGNMENT_KEY);
  if (entry === undefined) return DEFAULT_ALIGNMENT;
  if (entry.type !== "u32" || entry.value === 0 || (entry.value & (entry.value - 1)) !== 0) {
    const found = entry.type === "u32" ? String(entry.value) : `of type ${entry.type}`;
    throw reader.error("gguf-alignment", `${ALIGNMENT_KEY} is ${found}, expected a u32 power of two`);
  }
  return entry.value;
}

/** Reads one tensor's description; its offset is still relative to the data section. */
async function readTensor(reader: HeaderReader, index: number): Promise<GgufTensor> {
  const what = `the name of tensor ${index}`;
  const name = await reader.string(MAX_TENSOR_NAME_BYTES, what);
  checkName(reader, name, what);
  const dimensions = await reader.u32(`the dimension count of tensor ${name}`);
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw reader.error(
      "gguf-tensor-shape",
      `tensor ${shown(name)} has ${dimensions} dimensions, expected 1 to ${MAX_DIMENSIONS}`,
    );
  }
  const ne: number[] = [];
  for (let d = 0; d < dimensions; d++) ne.push(await reader.size(`dimension ${d} of tensor ${name}`));
  const id = await reader.u32(`the type of tensor ${name}`);
  const type = tensorTypeById(id);
  if (!type) {
    throw reader.error(
      "gguf-tensor-type",
      `tensor ${shown(name)} has type id ${id}, which is unknown or retired`,
    );
  }
  const offset = await reader.size(`the offset of tensor ${name}`);
  return {
    name,
    type: type.name,
    ne,
    part: 0,
    offset,
    byteLength: tensorBytes(type.name, ne, reader.label(`tensor ${shown(name)}`)),
  };
}

function checkVersion(reader: HeaderReader, version: number): void {
  if ((version & 0xffff) === 0 && version !== 0) {
    throw reader.error(
      "gguf-version",
      "the file is big-endian, expected little-endian",
      "Convert it with gguf_convert_endian.py from llama.cpp.",
    );
  }
  if (version !== 2 && version !== 3) {
    throw reader.error(
      "gguf-version",
      `the file is GGUF version ${version}, expected 2 or 3`,
      version === 1 ? "Make the file again with a current llama.cpp." : undefined,
    );
  }
}

/**
 * Reads and checks the header of one GGUF file; the source stays open.
 *
 * Every count is compared with the bytes left before anything is allocated, and tensors must lie one
 * after another with only their padding between, as llama.cpp demands.
 * @throws GgufError when the file is not GGUF, is damaged, or claims more than limits.ts allows
 */
export async function readGguf(source: ByteSource): Promise<GgufFile> {
  const reader = new HeaderReader(source);
  if (source.size < 4 || (await reader.u32("the magic number")) !== GGUF_MAGIC) {
    throw reader.error("gguf-magic", 'the file does not begin with "GGUF"', "Give a GGUF file.");
  }
  const version = await reader.u32("the version");
  checkVersion(reader, version);
  const tensorCount = await reader.size("the tensor count");
  const keyCount = await reader.size("the metadata count");
  if (keyCount > MAX_METADATA_KEYS || tensorCount > MAX_TENSORS) {
    throw reader.error(
      "gguf-limit",
      `${keyCount} metadata keys and ${tensorCount} tensors are announced, at most ${MAX_METADATA_KEYS} and ${MAX_TENSORS} are read`,
    );
  }
  reader.expect(keyCount * SMALLEST_ENTRY + tensorCount * SMALLEST_TENSOR, "the header");

  const metadata = await readMetadata(reader, keyCount);
  const alignment = alignmentOf(reader, metadata);
  const described: GgufTensor[] = [];
  const names = new Set<string>();
  for (let index = 0; index < tensorCount; index++) {
    const tensor = await readTensor(reader, index);
    if (names.has(tensor.name)) throw reader.error("gguf-name", `tensor ${shown(tensor.name)} occurs twice`);
    names.add(tensor.name);
    described.push(tensor);
  }

  // Without tensors there is no data section to align.
  const dataStart = tensorCount > 0 ? padTo(reader.position, alignment) : reader.position;
  let end = 0;
  const tensors = described.map((tensor) => {
    if (tensor.offset !== end) {
      throw reader.error(
        "gguf-tensor-offset",
        `tensor ${shown(tensor.name)} has offset ${tensor.offset}, expected ${end} right after the one before it`,
      );
    }
    const offset = dataStart + tensor.offset;
    if (!(offset + tensor.byteLength <= source.size)) {
      throw reader.error(
        "gguf-truncated",
        `tensor ${shown(tensor.name)} ends at byte ${offset + tensor.byteLength}, but the file has ${source.size}`,
        "The file is cut off or damaged; copy or download it again.",
      );
    }
    end = padTo(tensor.offset + tensor.byteLength, alignment);
    return { ...tensor, offset };
  });
  return { version, byteOrder: "LE", alignment, metadata, tensors, dataStart };
}
