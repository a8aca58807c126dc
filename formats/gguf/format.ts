import type { GgufScalarType } from "./types.js";

/** "GGUF" as a little-endian u32. */
export const GGUF_MAGIC = 0x46554747;

/** The version we write; version 2 has the same layout. */
export const GGUF_VERSION = 3;

/** Metadata key that sets the alignment of tensor data; the default holds without it. */
export const ALIGNMENT_KEY = "general.alignment";
export const DEFAULT_ALIGNMENT = 32;

/** Bytes of one value in the file; for a string the bytes of its length prefix alone. */
export const VALUE_BYTES: Readonly<Record<GgufScalarType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  u64: 8,
  i64: 8,
  f64: 8,
};

/** Arrays that hold a type's values as the file does: little-endian, like every processor that Node 20 runs llama.cpp on. */
export const TYPED_ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
} as const;

/** A name from a file, quoted and cut short for a message. */
export function shown(name: string): string {
  return JSON.stringify(name.length > 100 ? `${name.slice(0, 100)}…` : name);
}
