import { open, readFile, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { outputFailure } from "../base/atomic-file.js";
import { isTileSize } from "../pool/hash.js";

/** A file as it was when work began. */
export interface FileIdentity {
  readonly path: string;
  readonly size: number;
  /** Whole milliseconds. */
  readonly modified: number;
}

/** Everything that must be the same for work to go on where it stopped. */
export interface JournalKey {
  /** Version of lapidary: another one may encode differently. */
  readonly version: string;
  readonly plan: string;
  /** SHA-256 of the heads of the files: for GGUF their headers, metadata included. */
  readonly header: string;
  readonly inputs: readonly FileIdentity[];
}

/** A key, and what tells people in which way another one differs. */
export interface JournalSubject extends JournalKey {
  readonly mix: string;
  readonly importance: FileIdentity | null;
}

/** Hash of a tensor's bytes on the disk. */
export interface TensorHash {
  /** Most values in each of the tiles that the hash is made of. */
  readonly tile: number;
  readonly hash: string;
}

/** First line of a journal. */
export interface JournalHead extends JournalSubject {
  readonly lapidaryJournal: 2;
  /** Pattern of the tensors that the run was to do again; finished ones among them were done since. */
  readonly redo: string | null;
}

/** What an earlier run left. */
export interface EarlierRun {
  readonly head: JournalHead;
  /** Finished tensors by their index. */
  readonly finished: ReadonlyMap<number, TensorHash>;
  /** The files under their final names, where all of them were whole. */
  readonly complete: readonly FileIdentity[] | undefined;
}

/**
 * Largest journal that is read: a head of at most 1,000 shards and 25 bytes a tensor. The largest known
 * model, 833 tensors in two shards, makes 25 kB.
 */
const MAX_JOURNAL_BYTES = 16 * 2 ** 20;

/** Name of the list of what the partial file holds already. */
export function journalPath(output: string): string {
  return `${output}.journal`;
}

/** Name of a journal until its first lines are on the disk. */
function newJournalPath(output: string): string {
  return `${journalPath(output)}.new`;
}

export async function identify(path: string): Promise<FileIdentity> {
  const { size, mtimeMs } = await stat(path);
  return { path, size, modified: Math.floor(mtimeMs) };
}

function isIdentity(value: unknown): value is FileIdentity {
  const file = value as FileIdentity | null;
  return typeof file?.path === "string" && typeof file.size === "number" && typeof file.modified === "number";
}

function isHead(value: unknown): value is JournalHead {
  const head = value as JournalHead | null;
  return (
    typeof head === "object" &&
    head !== null &&
    // A journal of version 1 has no hashes; it counts as none.
    head.lapidaryJournal === 2 &&
    typeof head.version === "string" &&
    typeof head.plan === "string" &&
    typeof head.header === "string" &&
    Array.isArray(head.inputs) &&
    head.inputs.every((file) => isIdentity(file)) &&
    typeof head.mix === "string" &&
    (head.importance === null || isIdentity(head.importance)) &&
    (head.redo === null || typeof head.redo === "string")
  );
}

function parseLine(line: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    // The last line may have been cut short; its tensors are simply done again.
    return {};
  }
}

function* entriesOf({ tile, done }: Record<string, unknown>): Generator<[index: number, hash: TensorHash]> {
  if (typeof tile !== "number" || !isTileSize(tile) || !Array.isArray(done)) return;
  for (const entry of done as unknown[]) {
    if (!Array.isArray(entry)) continue;
    const [index, hash] = entry as unknown[];
    if (Number.isSafeInteger(index) && typeof hash === "string") yield [index as number, { tile, hash }];
  }
}

/**
 * Reads what an earlier run into the same output has left, whatever it was making.
 *
 * @returns undefined where there is no journal, or one whose head was cut short: no tensor can have been finished
 */
export async function readJournal(output: string): Promise<EarlierRun | undefined> {
  const path = journalPath(output);
  const size = (await stat(path).catch(() => undefined))?.size ?? 0;
  if (size === 0 || size > MAX_JOURNAL_BYTES) return undefined;
  const [head, ...lines] = (await readFile(path, "utf8")).split("\n").map((line) => parseLine(line));
  if (!isHead(head)) return undefined;
  const complete = lines.findLast((line) => "complete" in line)?.["complete"];
  const whole = Array.isArray(complete) && complete.length > 0 && complete.every((file) => isIdentity(file));
  return {
    head,
    finished: new Map(lines.flatMap((line) => [...entriesOf(line)])),
    complete: whole ? complete : undefined,
  };
}

/** Whether files are still as they were. */
export async function areUnchanged(files: readonly FileIdentity[]): Promise<boolean> {
  for (const file of files) {
    const now = await identify(file.path).catch(() => undefined);
    if (now === undefined || changeBetween(file, now) !== undefined) return false;
  }
  return true;
}

/** How two states of one file differ, for messages. */
export function changeBetween(before: FileIdentity, now: FileIdentity): string | undefined {
  if (before.size !== now.size) return `${now.path} had ${before.size} bytes, now it has ${now.size}`;
  if (before.modified !== now.modified) {
    return `${now.path} was changed: it was of ${timeOf(before)}, now it is of ${timeOf(now)}`;
  }
  return undefined;
}

function timeOf({ modified }: FileIdentity): string {
  const time = new Date(modified);
  return Number.isNaN(time.getTime()) ? `${modified} ms` : time.toISOString();
}

/** Finished tensors as lines: tensors whose hashes are of tiles of one size share one. */
function linesOf(finished: ReadonlyMap<number, TensorHash>): string {
  const byTile = new Map<number, [index: number, hash: string][]>();
  for (const [index, { tile, hash }] of finished) {
    const entries = byTile.get(tile) ?? [];
    entries.push([index, hash]);
    byTile.set(tile, entries);
  }
  return [...byTile].map(([tile, done]) => `${JSON.stringify({ tile, done })}\n`).join("");
}

/** The finished tensors of a partial file; one JSON line at the start, then one line a checkpoint. */
export class Journal {
  readonly #file: FileHandle;
  readonly #output: string;

  private constructor(file: FileHandle, output: string) {
    this.#file = file;
    this.#output = output;
  }

  /** Removes the journal of an earlier run, if there is one. */
  static async discard(output: string): Promise<void> {
    await rm(journalPath(output), { force: true });
    await rm(newJournalPath(output), { force: true });
  }

  /**
   * Begins a journal. One that is there is replaced in one step: whenever the process is killed, either of
   * them is there, whole.
   *
   * @throws OutputError
   */
  static async create(
    output: string,
    head: JournalSubject & Pick<JournalHead, "redo">,
    finished: ReadonlyMap<number, TensorHash>,
  ): Promise<Journal> {
    const path = newJournalPath(output);
    const whole: JournalHead = { lapidaryJournal: 2, ...head };
    try {
      const file = await open(path, "w");
      try {
        await file.writeFile(`${JSON.stringify(whole)}\n${linesOf(finished)}`);
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(path, journalPath(output));
      return new Journal(await open(journalPath(output), "a"), output);
    } catch (error) {
      throw outputFailure(journalPath(output), error);
    }
  }

  /** Notes tensors whose bytes are on the disk. */
  async add(finished: ReadonlyMap<number, TensorHash>): Promise<void> {
    await this.#append(linesOf(finished));
  }

  /** Notes that the files under these names are whole, just before they get the names. */
  async complete(files: readonly FileIdentity[]): Promise<void> {
    await this.#append(`${JSON.stringify({ complete: files })}\n`);
  }

  async #append(text: string): Promise<void> {
    await this.#file.appendFile(text);
    await this.#file.datasync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async remove(): Promise<void> {
    await this.#file.close();
    await Journal.discard(this.#output);
  }
}
