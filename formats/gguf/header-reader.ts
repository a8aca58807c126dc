import type { ByteSource } from "../source.js";
import { GgufError } from "./errors.js";
import { MAX_ARRAY_ELEMENTS, MAX_HEADER_BYTES, MAX_STRING_BYTES } from "./limits.js";
import {
  decodeUtf8,
  GgufStringsBuilder,
  readLength,
  STRING_PREFIX,
  viewOf,
  type GgufStrings,
} from "./strings.js";

/** Bytes asked from the source at once: one request covers the header of any model without a vocabulary. */
const CHUNK = 1024 * 1024;

/** Reads a header front to back through a window on the source, checking every length before use. */
export class HeaderReader {
  readonly #source: ByteSource;
  #window = Buffer.alloc(0);
  #view = viewOf(this.#window);
  #windowStart = 0;
  #cursor = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Offset in the file of the next byte. */
  get position(): number {
    return this.#windowStart + this.#cursor;
  }

  get remaining(): number {
    return this.#source.size - this.position;
  }

  /** `what` with the name of this file in front, for messages. */
  label(what: string): string {
    return `${this.#source.name}: ${what}`;
  }

  /** An error about this file; `message` follows its name. */
  error(code: string, message: string, advice?: string): GgufError {
    return new GgufError(code, this.label(`${message}.`), advice === undefined ? {} : { advice });
  }

  /** Refuses a claim of `bytes` more header bytes that the file, or the bound on headers, cannot hold. */
  expect(bytes: number, what: string): void {
    if (bytes > this.remaining) {
      throw this.error(
        "gguf-truncated",
        `${what} needs ${bytes} bytes at offset ${this.position}, but only ${this.remaining} are left`,
        "The file is cut off or damaged; copy or download it again.",
      );
    }
    if (this.position + bytes > MAX_HEADER_BYTES) {
      throw this.error("gguf-limit", `${what} makes the header larger than ${MAX_HEADER_BYTES} bytes`);
    }
  }

  async u8(what: string): Promise<number> {
    const at = await this.#take(1, what);
    return this.#view.getUint8(at);
  }

  async u32(what: string): Promise<number> {
    const at = await this.#take(4, what);
    return this.#view.getUint32(at, true);
  }

  /** A u64 that has to be a number: a count, a dimension, an offset. */
  async size(what: string): Promise<number> {
    const at = await this.#take(8, what);
    const value = readLength(this.#view, at);
    if (!Number.isSafeInteger(value)) throw this.error("gguf-limit", `${what} is beyond 2^53`);
    return value;
  }

  /** `count` bytes as a view that stays valid until the next call. */
  async view(count: number, what: string): Promise<Buffer> {
    const start = await this.#take(count, what);
    return this.#window.subarray(start, start + count);
  }

  async string(maximum: number, what: string): Promise<string> {
    const length = await this.size(`the length of ${what}`);
    if (length > maximum) {
      throw this.error("gguf-limit", `${what} has ${length} bytes, more than ${maximum}`);
    }
    return decodeUtf8(await this.view(length, what), this.label(what));
  }

  /** `count` bytes copied into a buffer of their own, read without passing through the window. */
  async bytes(count: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
    this.expect(count, what);
    const target = new Uint8Array(count);
    const ready = Math.min(count, this.#window.length - this.#cursor);
    target.set(this.#window.subarray(this.#cursor, this.#cursor + ready));
    if (ready < count) {
      await this.#source.read(target.subarray(ready), this.position + ready);
      this.#slide(Buffer.alloc(0), this.position + count);
    } else {
      this.#cursor += count;
    }
    return target;
  }

  /** The number of elements of an array, refused when they cannot fit in the rest of the file. */
  async arrayCount(minimumBytes: number, what: string): Promise<number> {
    const count = await this.size(`the length of ${what}`);
    if (count > MAX_ARRAY_ELEMENTS) {
      throw this.error("gguf-limit", `${what} has ${count} elements, more than ${MAX_ARRAY_ELEMENTS}`);
    }
    this.expect(count * minimumBytes, what);
    return count;
  }

  /**
   * `count` strings, kept in the file's encoding. Whole runs of the window are copied at once: a
   * vocabulary of 262,144 tokens costs a walk over lengths, not 262,144 calls.
   */
  async strings(count: number, what: string): Promise<GgufStrings> {
    const builder = new GgufStringsBuilder();
    for (let read = 0; read < count;) {
      const window = this.#window;
      const view = this.#view;
      const first = read;
      let end = this.#cursor;
      let next = end + STRING_PREFIX;
      while (read < count && next <= window.length) {
        const length = readLength(view, end);
        if (length > MAX_STRING_BYTES) {
          throw this.error(
            "gguf-limit",
            `string ${read} of ${what} has ${length} bytes, more than ${MAX_STRING_BYTES}`,
          );
        }
        next += length;
        if (next > window.length) break;
        read += 1;
        end = next;
        next += STRING_PREFIX;
      }
      builder.appendEncoded(window.subarray(this.#cursor, end), read - first);
      this.#cursor = end;
      if (read < count) await this.#fill(next - end, `string ${read} of ${what}`);
    }
    return builder.build();
  }

  /** Moves past `count` bytes that are in the window and returns where in the window they start. */
  async #take(count: number, what: string): Promise<number> {
    if (this.#cursor + count > this.#window.length) await this.#fill(count, what);
    const start = this.#cursor;
    this.#cursor += count;
    return start;
  }

  /** Slides the window, into memory of its own, so that it begins at the cursor and holds at least `count` bytes. */
  async #fill(count: number, what: string): Promise<void> {
    this.expect(count, what);
    const position = this.position;
    const rest = this.#window.subarray(this.#cursor);
    const window = Buffer.allocUnsafe(Math.min(Math.max(CHUNK, count), this.remaining));
    window.set(rest);
    await this.#source.read(window.subarray(rest.length), position + rest.length);
    this.#slide(window, position);
  }

  #slide(window: Buffer<ArrayBuffer>, start: number): void {
    this.#window = window;
    this.#view = viewOf(window);
    this.#windowStart = start;
    this.#cursor = 0;
  }
}
