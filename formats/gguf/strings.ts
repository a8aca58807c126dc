import { isUtf8 } from "node:buffer";
import { GgufError } from "./errors.js";
import { MAX_ARRAY_ELEMENTS, MAX_HEADER_BYTES, MAX_STRING_BYTES } from "./limits.js";
import type { GgufStrings as StringList } from "./types.js";

/** Bytes of the length in front of every string. */
export const STRING_PREFIX = 8;

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A view on exactly these bytes; walking 777,000 lengths with one takes half the time of Buffer's methods. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * A u64 as a number. Values beyond 2^53 come back rounded, but never below 2^53, so comparing the
 * result with a limit needs no bigint.
 */
export function readLength(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

/**
 * UTF-8 bytes of a string.
 * @param what names the string in messages
 * @throws GgufError when the string has a lone surrogate, which UTF-8 cannot hold
 */
export function encodeUtf8(text: string, what: string): Buffer {
  const bytes = Buffer.from(text, "utf8");
  // Only U+FFFD and lone surrogates become EF BF BD; the common case skips the regular expression.
  if (bytes.includes("\uFFFD") && /\p{Surrogate}/u.test(text)) {
    throw new GgufError("gguf-text", `${what} holds half of a surrogate pair, which UTF-8 cannot encode.`);
  }
  return bytes;
}

/**
 * The string in UTF-8 bytes, a byte order mark at its front kept.
 * @param what names the string in messages
 * @throws GgufError when the bytes are not UTF-8
 */
export function decodeUtf8(bytes: Uint8Array, what: string): string {
  if (!isUtf8(bytes)) throw new GgufError("gguf-text", `${what} is not valid UTF-8.`);
  return asBuffer(bytes).toString("utf8");
}

/**
 * A list of strings in the encoding of the file; see the interface in types.ts.
 *
 * Offsets for `at` are built on its first call (4 bytes a string); iterating does not need them.
 * Strings that are not UTF-8 (byte-level vocabularies have some) decode with U+FFFD; `bytes` keeps them
 * as they were.
 */
export class GgufStrings implements StringList {
  readonly length: number;
  readonly bytes: Uint8Array;
  readonly #buffer: Buffer;
  readonly #view: DataView;
  #offsets: Uint32Array | undefined;

  private constructor(bytes: Uint8Array, length: number) {
    this.bytes = bytes;
    this.length = length;
    this.#buffer = asBuffer(bytes);
    this.#view = viewOf(bytes);
  }

  /** Encodes strings, or their UTF-8 bytes, one after another. */
  static from(values: Iterable<string | Uint8Array>): GgufStrings {
    const builder = new GgufStringsBuilder();
    for (const value of values) builder.append(value);
    return builder.build();
  }

  /**
   * Wraps (does not copy) bytes that are already in the file's encoding.
   * @throws GgufError when the bytes are not exactly `length` encoded strings
   */
  static fromEncoded(bytes: Uint8Array, length: number): GgufStrings {
    const view = viewOf(bytes);
    let offset = 0;
    let count = 0;
    while (count < length && offset + STRING_PREFIX <= bytes.length) {
      offset += STRING_PREFIX + readLength(view, offset);
      count += 1;
    }
    if (count !== length || offset !== bytes.length) {
      throw new GgufError(
        "gguf-text",
        `A list of ${bytes.length} bytes does not hold exactly ${length} strings.`,
      );
    }
    return new GgufStrings(bytes, length);
  }

  at(index: number): string {
    if (!Number.isInteger(index) || index < 0 || index >= this.length) {
      throw new RangeError(`Index ${index} is outside a list of ${this.length} strings`);
    }
    this.#offsets ??= this.#locate();
    return this.#decode(this.#offsets[index]!, this.#end(this.#offsets[index]!));
  }

  *[Symbol.iterator](): Generator<string, void> {
    for (let offset = 0; offset < this.bytes.length;) {
      const end = this.#end(offset);
      yield this.#decode(offset, end);
      offset = end;
    }
  }

  #end(offset: number): number {
    return offset + STRING_PREFIX + readLength(this.#view, offset);
  }

  #decode(offset: number, end: number): string {
    return this.#buffer.toString("utf8", offset + STRING_PREFIX, end);
  }

  #locate(): Uint32Array {
    const offsets = new Uint32Array(this.length);
    let offset = 0;
    for (let index = 0; index < this.length; index++) {
      offsets[index] = offset;
      offset = this.#end(offset);
    }
    return offsets;
  }
}

/** Blocks grow from the first to the second size, so that short lists stay small and long ones cheap. */
const FIRST_BLOCK = 1024;
const LARGEST_BLOCK = 1024 * 1024;

/** Collects strings in the encoding of the file, so that no JavaScript string has to stay alive. */
export class GgufStringsBuilder {
  readonly #pieces: Uint8Array[] = [];
  #block = Buffer.allocUnsafe(FIRST_BLOCK);
  /** The part of the block that is filled but not yet a piece. */
  #start = 0;
  #end = 0;
  #size = 0;
  #length = 0;

  /** Adds one string, given as such or as its UTF-8 bytes. */
  append(value: string | Uint8Array): this {
    const bytes = typeof value === "string" ? encodeUtf8(value, `String ${this.#length} of a list`) : value;
    if (bytes.length > MAX_STRING_BYTES) {
      throw new GgufError(
        "gguf-limit",
        `String ${this.#length} of a list has ${bytes.length} bytes, more than ${MAX_STRING_BYTES}.`,
      );
    }
    const needed = STRING_PREFIX + bytes.length;
    this.#count(needed, 1);
    if (this.#end + needed > this.#block.length) {
      this.#finishPiece();
      this.#block = Buffer.allocUnsafe(Math.max(needed, Math.min(this.#block.length * 2, LARGEST_BLOCK)));
      this.#start = this.#end = 0;
    }
    this.#block.writeUInt32LE(bytes.length, this.#end);
    this.#block.writeUInt32LE(0, this.#end + 4);
    this.#block.set(bytes, this.#end + STRING_PREFIX);
    this.#end += needed;
    return this;
  }

  /**
   * Adds `count` strings that are already in the file's encoding. The bytes are not copied: they must
   * not change before `build`.
   */
  appendEncoded(bytes: Uint8Array, count: number): this {
    this.#count(bytes.length, count);
    this.#finishPiece();
    this.#pieces.push(bytes);
    return this;
  }

  /**
   * The list so far, in a buffer of exactly its size.
   * @throws GgufError when bytes given to `appendEncoded` were not what was said of them
   */
  build(): GgufStrings {
    this.#finishPiece();
    const bytes = new Uint8Array(this.#size);
    let offset = 0;
    for (const piece of this.#pieces) {
      bytes.set(piece, offset);
      offset += piece.length;
    }
    return GgufStrings.fromEncoded(bytes, this.#length);
  }

  #count(bytes: number, count: number): void {
    this.#size += bytes;
    this.#length += count;
    if (this.#size > MAX_HEADER_BYTES || this.#length > MAX_ARRAY_ELEMENTS) {
      throw new GgufError(
        "gguf-limit",
        `A list of strings grew beyond ${MAX_ARRAY_ELEMENTS} elements or ${MAX_HEADER_BYTES} bytes.`,
      );
    }
  }

  #finishPiece(): void {
    if (this.#end > this.#start) this.#pieces.push(this.#block.subarray(this.#start, this.#end));
    this.#start = this.#end;
  }
}
