import { isUtf8 } from "node:buffer";
import type { ByteSource } from "../source.js";
import { ImatrixError } from "./errors.js";
import type { StoredEntry, SummedMatrix } from "./types.js";
import { checkValues, MAX_VALUES_BYTES, shared } from "./values.js";

/** Real: 530 entries of names below 48 bytes. */
const MAX_ENTRIES = 65_536;
const MAX_NAME_BYTES = 1024;
/** A list of files; a path has at most 4,096 bytes on Linux. */
const MAX_DATASET_BYTES = 2 ** 16;

/** Walks through a file from front to back. */
class Cursor {
  readonly #source: ByteSource;
  #position = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  get left(): number {
    return this.#source.size - this.#position;
  }

  async take(target: Uint8Array, what: string): Promise<void> {
    if (target.length > this.left) throw this.error(`ends inside ${what}`);
    await this.#source.read(target, this.#position);
    this.#position += target.length;
  }

  /** A signed 32-bit number within bounds. */
  async count(least: number, most: number, what: string): Promise<number> {
    const bytes = new Uint8Array(4);
    await this.take(bytes, what);
    const value = new DataView(bytes.buffer).getInt32(0, true);
    if (value >= least && value <= most) return value;
    throw this.error(`${what} is ${value}, expected ${least} to ${most}`);
  }

  async text(most: number, what: string): Promise<string> {
    const bytes = new Uint8Array(await this.count(1, most, `the length of ${what}`));
    await this.take(bytes, what);
    if (!isUtf8(bytes) || bytes.includes(0)) throw this.error(`${what} is no text`);
    return Buffer.from(bytes).toString("utf8");
  }

  error(problem: string): ImatrixError {
    return new ImatrixError(
      "imatrix-damaged",
      `${this.#source.name}: ${problem}, at byte ${this.#position}.`,
      { advice: "Give an importance matrix of llama-imatrix, GGUF or .dat." },
    );
  }
}

async function readEntry(source: ByteSource, cursor: Cursor, number: number): Promise<StoredEntry> {
  const name = await cursor.text(MAX_NAME_BYTES, `the name of entry ${number}`);
  const calls = await cursor.count(0, 2 ** 31 - 1, `the number of calls of ${name}`);
  const most = Math.min(Math.floor(cursor.left / 4), MAX_VALUES_BYTES / 4);
  const values = shared(await cursor.count(1, most, `the number of values of ${name}`));
  await cursor.take(new Uint8Array(values.buffer), `the values of ${name}`);
  checkValues(source.name, name, values);
  // The mean square times the number of calls, which are windows.
  return { name, columns: values.length, sums: values, counts: Float64Array.of(calls) };
}

/**
 * The format of llama-imatrix before it was GGUF: a count, then name, calls and values of each entry; the
 * number of windows and the text's name may follow. Stacked experts lie in one list.
 *
 * @throws ImatrixError `imatrix-damaged`, `imatrix-value`
 */
export async function readLegacy(source: ByteSource): Promise<SummedMatrix> {
  const cursor = new Cursor(source);
  if (source.size > 2 * MAX_VALUES_BYTES) throw cursor.error(`${source.size} bytes are too many`);
  const count = await cursor.count(1, MAX_ENTRIES, "the number of entries");
  const entries = new Map<string, StoredEntry>();
  for (let number = 1; number <= count; number++) {
    const entry = await readEntry(source, cursor, number);
    if (entries.has(entry.name)) throw cursor.error(`${entry.name} is there twice`);
    entries.set(entry.name, entry);
  }
  const chunks = cursor.left > 0 ? await cursor.count(0, 2 ** 31 - 1, "the number of windows") : 0;
  const datasets = cursor.left > 4 ? [await cursor.text(MAX_DATASET_BYTES, "the name of the text")] : [];
  return { path: source.name, format: "legacy", datasets, chunks, chunkTokens: null, entries };
}
