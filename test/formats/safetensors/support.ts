import { FormatError } from "../../../formats/errors.js";
import type { ByteSource } from "../../../formats/source.js";

/** A file in memory. `largest` is the longest read that was asked of it. */
export class MemorySource implements ByteSource {
  readonly name: string;
  readonly #bytes: Uint8Array;
  largest = 0;
  closed = false;

  constructor(bytes: Uint8Array, name = "memory.safetensors") {
    this.#bytes = bytes;
    this.name = name;
  }

  get size(): number {
    return this.#bytes.byteLength;
  }

  read(target: Uint8Array, position: number): Promise<void> {
    this.largest = Math.max(this.largest, target.byteLength);
    if (position + target.byteLength > this.size)
      return Promise.reject(new FormatError("file-range", "beyond"));
    target.set(this.#bytes.subarray(position, position + target.byteLength));
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }
}

/**
 * A .safetensors file, by hand: the writer refuses most of what tests need.
 *
 * @param header text, or something to make JSON of
 * @param dataBytes bytes of data behind the header
 * @param length length of the header to claim
 */
export function rawFile(header: unknown, dataBytes = 0, length?: bigint): Buffer {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(text.byteLength));
  return Buffer.concat([prefix, text, Buffer.alloc(dataBytes, 7)]);
}
