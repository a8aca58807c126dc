import { createHash } from "node:crypto";
import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { createAtomicFile, makeFolder, writeFileAtomic } from "../../src/base/atomic-file.js";
import { decodable, decode } from "../../src/blocks/decode/decode.js";
import { decodeNBits } from "../../src/blocks/nbits/decode.js";
import { findBlockType } from "../../src/blocks/table.js";
import { type TargetType, targetName } from "../../src/pool/tiles.js";
import { RoundingError } from "./errors.js";
import { outputBytes } from "./round-rows.js";
import {
  FORMAT_VERSION,
  type RoundedTensor,
  type RoundingHeader,
  type RoundingList,
  roundingSchema,
} from "./store-schema.js";

export type { RoundedTensor, RoundingHeader } from "./store-schema.js";

const LIST = "rounding.json";
/** Bytes of the list: a tensor takes 400. */
const MAX_LIST_BYTES = 2 ** 26;
/** Most bytes of one write. */
const WRITE_BYTES = 2 ** 26;
/** Most bytes read at a time to be hashed. */
const READ_BYTES = 2 ** 22;

/** A tensor and what it is rounded to. */
export interface RoundedKey {
  readonly tensor: string;
  readonly target: TargetType;
}

/** Where one output of a rounded tensor lies in its file. */
export interface RoundedPiece {
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

function keyOf({ tensor, target }: RoundedKey): string {
  if (typeof target === "string") return `${tensor} ${target}`;
  return `${tensor} ${target.bits} ${target.block} ${target.zeroPoints}`;
}

/** What a tensor's record says of its type, as the other rooms know it. */
function targetOf({ target }: RoundedTensor): TargetType {
  return target as TargetType;
}

/** The name of a tensor's file; names of tensors hold whatever a checkpoint likes. */
function fileOf(key: RoundedKey): string {
  return `${createHash("sha256").update(keyOf(key)).digest("hex").slice(0, 16)}.bin`;
}

/** Rounded tensors in a folder: a list, and a file of bytes for each of them. */
export class RoundingStore {
  readonly folder: string;
  readonly header: RoundingHeader;
  readonly #tensors: Map<string, RoundedTensor>;
  /** Lists are written one after the other, so that the last one has all. */
  #written: Promise<void> = Promise.resolve();

  /** Use `makeRoundingStore` or `openRoundingStore`. */
  constructor(folder: string, { formatVersion: _version, tensors, ...header }: RoundingList) {
    this.folder = folder;
    this.header = header;
    this.#tensors = new Map(
      tensors.map((tensor) => [keyOf({ ...tensor, target: targetOf(tensor) }), tensor]),
    );
  }

  /** All tensors that are there. */
  get tensors(): readonly RoundedTensor[] {
    return [...this.#tensors.values()];
  }

  /** What is known of a tensor; undefined where it is not there. */
  find(key: RoundedKey): RoundedTensor | undefined {
    return this.#tensors.get(keyOf(key));
  }

  /**
   * What is known of a tensor.
   *
   * @throws RoundingError `not-rounded`
   */
  get(key: RoundedKey): RoundedTensor {
    const found = this.find(key);
    if (found !== undefined) return found;
    throw new RoundingError(
      "not-rounded",
      `${this.folder}: has no ${key.tensor} rounded to ${targetName(key.target)}.`,
      { exitCode: 2, advice: "Round it first; what is there is kept." },
    );
  }

  /**
   * Writes a tensor, in place of what was there of it. It is either in the folder whole afterwards or not at all.
   *
   * @param outputs blocks, or codes, scales and zero points
   * @throws OutputError when the disk does not take it
   */
  async put(
    record: Omit<RoundedTensor, "file" | "byteLength" | "sha256" | "target"> & RoundedKey,
    outputs: readonly Uint8Array[],
  ): Promise<RoundedTensor> {
    const { tensor, target } = record;
    const file = fileOf({ tensor, target });
    const hash = createHash("sha256");
    const output = await createAtomicFile(join(this.folder, file));
    let at = 0;
    try {
      for (const bytes of outputs) {
        for (let start = 0; start < bytes.length; start += WRITE_BYTES) {
          const piece = bytes.subarray(start, start + WRITE_BYTES);
          hash.update(piece);
          await output.write(piece, at);
          at += piece.length;
        }
      }
    } catch (error) {
      await output.abort();
      throw error;
    }
    await output.commit();
    const written = { ...record, file, byteLength: at, sha256: hash.digest("hex") } as RoundedTensor;
    this.#tensors.set(keyOf({ tensor, target }), written);
    await this.#writeList();
    return written;
  }

  /**
   * Where the outputs of a tensor lie.
   *
   * @throws RoundingError `not-rounded`
   */
  pieces(key: RoundedKey): RoundedPiece[] {
    const { file, rows, columns } = this.get(key);
    let offset = 0;
    return outputBytes(key.target, columns, rows).map((bytes) => {
      const piece = { path: join(this.folder, file), offset, bytes };
      offset += bytes;
      return piece;
    });
  }

  /**
   * Reads all of a tensor's file and compares it with what was written.
   *
   * @throws RoundingError `not-rounded`, `rounding-damaged`
   */
  async check(key: RoundedKey): Promise<void> {
    const record = this.get(key);
    await this.#withFile(record, async (handle, path) => {
      const hash = createHash("sha256");
      const bytes = new Uint8Array(Math.min(READ_BYTES, record.byteLength));
      for (let at = 0; at < record.byteLength;) {
        const piece = bytes.subarray(0, Math.min(bytes.length, record.byteLength - at));
        await readAll(handle, path, piece, at);
        hash.update(piece);
        at += piece.length;
      }
      const found = hash.digest("hex");
      if (found !== record.sha256) throw damaged(path, `has the SHA-256 ${found}, expected ${record.sha256}`);
    });
  }

  /**
   * What a reader of the format makes of rows of a tensor, such as for the layers after it.
   *
   * @returns [count, columns]
   * @throws RoundingError `not-rounded`, `rounding-damaged`
   */
  async rows(key: RoundedKey, first: number, count: number): Promise<Float32Array<ArrayBuffer>> {
    const record = this.get(key);
    const { columns, rows } = record;
    if (!(first >= 0 && count >= 1 && first + count <= rows)) {
      throw new RangeError(`rows ${first} to ${first + count} of ${rows}`);
    }
    const out = new Float32Array(count * columns);
    const strides = outputBytes(key.target, columns, 1);
    const starts = this.pieces(key).map(({ offset }) => offset);
    await this.#withFile(record, async (handle, path) => {
      const parts: Uint8Array[] = [];
      for (const [index, stride] of strides.entries()) {
        const bytes = new Uint8Array(count * stride);
        await readAll(handle, path, bytes, starts[index]! + first * stride);
        parts.push(bytes);
      }
      const [blocks, scales, zeroPoints = new Uint8Array()] = parts;
      if (typeof key.target === "string") decode(key.target, blocks!, out);
      else decodeNBits(key.target, columns, { codes: blocks!, scales: scales!, zeroPoints }, out);
    });
    return out;
  }

  async #withFile<T>(
    { file, byteLength }: RoundedTensor,
    use: (handle: FileHandle, path: string) => Promise<T>,
  ): Promise<T> {
    const path = join(this.folder, file);
    const handle = await open(path, "r").catch((cause: unknown) => {
      throw damaged(path, "cannot be opened", cause);
    });
    try {
      const { size } = await handle.stat();
      if (size !== byteLength) throw damaged(path, `has ${size} bytes, expected ${byteLength}`);
      return await use(handle, path);
    } finally {
      await handle.close();
    }
  }

  async #writeList(): Promise<void> {
    const write = async (): Promise<void> => {
      const list: RoundingList = {
        formatVersion: FORMAT_VERSION,
        ...this.header,
        tensors: [...this.tensors],
      };
      await writeFileAtomic(join(this.folder, LIST), `${JSON.stringify(list)}\n`);
    };
    const written = this.#written.then(write);
    this.#written = written.catch(() => {});
    await written;
  }
}

async function readAll(handle: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, position + done);
    if (bytesRead === 0) throw damaged(path, `ends at ${position + done} bytes`);
    done += bytesRead;
  }
}

function damaged(path: string, what: string, cause?: unknown): RoundingError {
  return new RoundingError("rounding-damaged", `${path}: ${what}.`, {
    advice: "Remove the folder and round again.",
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * Opens a folder of rounded tensors.
 *
 * @param expected what they have to be of; nothing that is left out is looked at
 * @throws RoundingError `rounding-missing` where there are none; `rounding-damaged` when the list is not what it should
 *   be; `other-rounding` when they are of something else
 */
export async function openRoundingStore(
  folder: string,
  expected: Partial<RoundingHeader> = {},
): Promise<RoundingStore> {
  const store = await findStore(folder);
  if (store === undefined) {
    throw new RoundingError("rounding-missing", `${folder}: has no ${LIST}.`, {
      exitCode: 2,
      advice: "Give the folder that a rounding has made.",
    });
  }
  checkHeader(store, expected);
  return store;
}

/**
 * A folder for rounded tensors, made where it is not there. What another run has left of the same is taken up.
 *
 * @throws RoundingError as `openRoundingStore`, OutputError when the folder cannot be made
 */
export async function makeRoundingStore(folder: string, header: RoundingHeader): Promise<RoundingStore> {
  await makeFolder(folder);
  const found = await findStore(folder);
  if (found !== undefined) {
    checkHeader(found, header);
    return found;
  }
  return new RoundingStore(folder, { formatVersion: FORMAT_VERSION, ...header, tensors: [] });
}

async function findStore(folder: string): Promise<RoundingStore | undefined> {
  const path = join(folder, LIST);
  const found = await stat(path).catch((error: unknown) => {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw damaged(path, "cannot be read", error);
  });
  if (found === undefined) return undefined;
  if (!found.isFile() || found.size > MAX_LIST_BYTES) {
    throw damaged(path, `has ${found.size} bytes, expected a file of at most ${MAX_LIST_BYTES}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    throw damaged(path, "is not JSON", cause);
  }
  const parsed = roundingSchema.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw damaged(path, `${issue?.path.join(".") || "the list"}: ${issue?.message ?? "is not as expected"}`);
  }
  for (const tensor of parsed.data.tensors) checkTensor(path, tensor);
  return new RoundingStore(folder, parsed.data);
}

/** What the form of the list alone does not say. */
function checkTensor(path: string, record: RoundedTensor): void {
  const { tensor, rows, columns, byteLength, file } = record;
  const type = typeof record.target === "string" ? findBlockType(record.target)?.name : record.target;
  if (
    type === undefined ||
    (typeof type === "string" && (type !== record.target || !decodable.includes(type)))
  ) {
    throw damaged(path, `${tensor}: is of the type ${JSON.stringify(record.target)}, which is not known`);
  }
  let expected: number;
  try {
    expected = outputBytes(type, columns, rows).reduce((sum, bytes) => sum + bytes, 0);
  } catch (cause) {
    throw damaged(path, `${tensor}: rows of ${columns} values are no whole blocks`, cause);
  }
  if (byteLength !== expected) {
    throw damaged(path, `${tensor}: has ${byteLength} bytes, expected ${expected}`);
  }
  if (file !== fileOf({ tensor, target: type }))
    throw damaged(path, `${tensor}: lies in ${file}, expected its own file`);
}

function checkHeader({ folder, header }: RoundingStore, expected: Partial<RoundingHeader>): void {
  const { checkpoint, statistics, method } = expected;
  if (checkpoint !== undefined) {
    const [found, wanted] = [header.checkpoint, checkpoint].map((files) =>
      files.map(({ file, sha256 }) => `${file} ${sha256}`).join(", "),
    );
    refuse(folder, "checkpoint", found, wanted);
  }
  if (statistics !== undefined) refuse(folder, "statistics", header.statistics, statistics);
  if (method === undefined) return;
  for (const key of new Set([...Object.keys(header.method), ...Object.keys(method)])) {
    refuse(folder, `method: ${key}`, header.method[key], method[key]);
  }
}

function refuse(folder: string, what: string, found: unknown, expected: unknown): void {
  if (found === expected) return;
  throw new RoundingError(
    "other-rounding",
    `${folder}: was rounded from another ${what}: ${String(found)}, expected ${String(expected)}.`,
    { exitCode: 2, advice: "Round into a folder of its own, or with what this one was made from." },
  );
}
