/** Value types of GGUF metadata, by the id in the file. */
export const GGUF_VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;

export type GgufScalarType = Exclude<(typeof GGUF_VALUE_TYPES)[number], "array">;

/** Types whose values are JavaScript numbers. */
export type GgufNumberType = Exclude<GgufScalarType, GgufBigintType | "bool" | "string">;

/** Types whose values are bigint. */
export type GgufBigintType = "u64" | "i64";

/** One metadata value with its type. 64-bit integers are bigint; long arrays stay typed arrays. */
export type GgufValue =
  | { readonly type: GgufNumberType; readonly value: number }
  | { readonly type: GgufBigintType; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | GgufArray;

export type GgufArray =
  | { readonly type: "array"; readonly of: GgufNumberType; readonly value: ArrayLike<number> }
  | { readonly type: "array"; readonly of: GgufBigintType; readonly value: ArrayLike<bigint> }
  | { readonly type: "array"; readonly of: "bool"; readonly value: readonly boolean[] }
  | { readonly type: "array"; readonly of: "string"; readonly value: GgufStrings };

/**
 * A list of strings as the file holds it: 262,144 tokens and 514,906 merges stay in two flat buffers
 * (about 16 MB) instead of 800,000 JavaScript strings (over 100 MB).
 */
export interface GgufStrings {
  readonly length: number;
  /** The elements exactly as in the file: u64 byte length, then UTF-8 bytes, one after another. */
  readonly bytes: Uint8Array;
  at(index: number): string;
  [Symbol.iterator](): Iterator<string>;
}

/** Metadata in file order. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>;

export interface GgufTensor {
  readonly name: string;
  /** ggml's type name, such as `Q4_0`. */
  readonly type: string;
  /** Dimensions in ggml's order: fastest first. */
  readonly ne: readonly number[];
  /** Index of the part (file) that holds the data; 0 for a file that is not split. */
  readonly part: number;
  /** Byte offset of the data from the start of its file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** The header of one GGUF file, checked; no tensor data is held. */
export interface GgufFile {
  /** 2 or 3; both lay out their bytes in the same way. */
  readonly version: number;
  /** Always little-endian: big-endian files are refused. */
  readonly byteOrder: "LE";
  /** Every tensor's data begins at a multiple of this. */
  readonly alignment: number;
  readonly metadata: GgufMetadata;
  /** In the order of their data. */
  readonly tensors: readonly GgufTensor[];
  /** Offset of the first tensor's data from the start of the file. */
  readonly dataStart: number;
}

/** A model in one GGUF file or in all parts of a split one, headers checked. */
export interface GgufModel {
  /** One path for each part; `GgufTensor.part` is an index into this list. */
  readonly paths: readonly string[];
  /** Size of each part in bytes. */
  readonly sizes: readonly number[];
  readonly version: number;
  readonly alignment: number;
  /** Metadata of the first part, without the `split.*` keys. */
  readonly metadata: GgufMetadata;
  /** Tensors of all parts, part by part. */
  readonly tensors: readonly GgufTensor[];
}
