import { padTo } from "../padding.js";
import { GgufError } from "./errors.js";
import { GGUF_MAGIC, GGUF_VERSION, shown, TYPED_ARRAYS } from "./format.js";
import { MAX_ARRAY_ELEMENTS, MAX_HEADER_BYTES, MAX_STRING_BYTES } from "./limits.js";
import { encodeUtf8, GgufStrings } from "./strings.js";
import { tensorType } from "./tensor-types.js";
import {
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufBigintType,
  type GgufNumberType,
  type GgufTensor,
  type GgufValue,
} from "./types.js";

const INTEGERS: Readonly<Record<string, readonly [minimum: number | bigint, maximum: number | bigint]>> = {
  u8: [0, 0xff],
  i8: [-0x80, 0x7f],
  u16: [0, 0xffff],
  i16: [-0x8000, 0x7fff],
  u32: [0, 0xffffffff],
  i32: [-0x80000000, 0x7fffffff],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
};

function checkNumber(type: GgufNumberType | GgufBigintType, value: number | bigint, what: string): void {
  const range = INTEGERS[type];
  const fits = range
    ? typeof value === typeof range[0] &&
      (typeof value === "bigint" || Number.isInteger(value)) &&
      value >= range[0] &&
      value <= range[1]
    : typeof value === "number" &&
      (type === "f64" || !Number.isFinite(value) || Number.isFinite(Math.fround(value)));
  if (!fits) throw new GgufError("gguf-value", `${what} is ${String(value)}, which does not fit in ${type}.`);
}

/** Numbers of one type as the file holds them; typed arrays of that type are taken as they are. */
function encodeNumbers(
  type: GgufNumberType | GgufBigintType,
  values: ArrayLike<number | bigint>,
  what: string,
): Uint8Array {
  const Typed = TYPED_ARRAYS[type];
  if (values instanceof Typed) return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const typed = new Typed(values.length);
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    checkNumber(type, value, what);
    // checkNumber has tied the kind of the value to the kind of the array.
    (typed as { [index: number]: number | bigint })[index] = value;
  }
  return new Uint8Array(typed.buffer);
}

function encodeU32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function encodeU64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** A string with its length in front. */
function encodeString(text: string, what: string): Buffer[] {
  const bytes = encodeUtf8(text, what);
  if (bytes.length > MAX_STRING_BYTES) {
    throw new GgufError("gguf-limit", `${what} has ${bytes.length} bytes, more than ${MAX_STRING_BYTES}.`);
  }
  return [encodeU64(bytes.length), bytes];
}

function typeId(type: (typeof GGUF_VALUE_TYPES)[number]): Buffer {
  return encodeU32(GGUF_VALUE_TYPES.indexOf(type));
}

function encodeElements(array: GgufArray, what: string): Uint8Array {
  const { length } = array.value;
  if (length > MAX_ARRAY_ELEMENTS) {
    throw new GgufError("gguf-limit", `${what} has ${length} elements, more than ${MAX_ARRAY_ELEMENTS}.`);
  }
  // Strings are checked, then written from their flat bytes as a whole.
  if (array.of === "string") return GgufStrings.fromEncoded(array.value.bytes, length).bytes;
  if (array.of === "bool") return Uint8Array.from(array.value, Number);
  return encodeNumbers(array.of, array.value, what);
}

/** A metadata value with its type in front. */
function encodeValue(value: GgufValue, what: string): Uint8Array[] {
  const id = typeId(value.type);
  if (value.type === "array") {
    return [id, typeId(value.of), encodeU64(value.value.length), encodeElements(value, what)];
  }
  if (value.type === "string") return [id, ...encodeString(value.value, what)];
  if (value.type === "bool") return [id, Buffer.from([Number(value.value)])];
  return [id, encodeNumbers(value.type, [value.value], what)];
}

/** A tensor as the header describes it: its offset counts from the start of the data. */
export type TensorInfo = Pick<GgufTensor, "name" | "type" | "ne" | "offset">;

/**
 * The header of one file, padded so that tensor data can follow. Names have been checked by the caller.
 * @throws GgufError when a value does not fit in its type or a limit is passed
 */
export function encodeHeader(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly TensorInfo[],
  alignment: number,
): Buffer {
  const pieces: Uint8Array[] = [
    encodeU32(GGUF_MAGIC),
    encodeU32(GGUF_VERSION),
    encodeU64(tensors.length),
    encodeU64(metadata.size),
  ];
  for (const [key, value] of metadata) {
    pieces.push(...encodeString(key, `Metadata key ${shown(key)}`));
    pieces.push(...encodeValue(value, `Metadata value ${shown(key)}`));
  }
  for (const { name, type, ne, offset } of tensors) {
    pieces.push(...encodeString(name, `Tensor name ${shown(name)}`));
    pieces.push(
      encodeU32(ne.length),
      ...ne.map(encodeU64),
      encodeU32(tensorType(type).id),
      encodeU64(offset),
    );
  }
  const size = padTo(
    pieces.reduce((sum, piece) => sum + piece.length, 0),
    alignment,
  );
  if (size > MAX_HEADER_BYTES) {
    throw new GgufError("gguf-limit", `The header would have ${size} bytes, more than ${MAX_HEADER_BYTES}.`);
  }
  // concat fills what the pieces leave over with zeros.
  return Buffer.concat(pieces, size);
}
