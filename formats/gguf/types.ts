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

/** One metadata value with its type. 64-bit integers are bigint; long arrays stay typed arrays. */
export type GgufValue =
  | { readonly type: "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64"; readonly value: number }
  | { readonly type: "u64" | "i64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | GgufArray;

export type GgufArray =
  | {
      readonly type: "array";
      readonly of: "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64";
      readonly value: ArrayLike<number>;
    }
  | { readonly type: "array"; readonly of: "u64" | "i64"; readonly value: ArrayLike<bigint> }
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
