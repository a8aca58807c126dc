import { open, readFile, rm, stat, type FileHandle } from "node:fs/promises";
import { QuantizeError } from "./errors.js";

/** An input file as it was when work began. */
export interface InputIdentity {
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
  /** SHA-256 of the output's header, metadata included. */
  readonly header: string;
  readonly inputs: readonly InputIdentity[];
}

interface JournalHead extends JournalKey {
  readonly lapidaryJournal: 1;
}

/**
 * Largest journal that is read: a head of at most 1,000 shards and one line a tensor. The largest known
 * model, 833 tensors in two shards, makes 20 kB.
 */
const MAX_JOURNAL_BYTES = 16 * 2 ** 20;

/** Name of the list of what the partial file holds already. */
export function journalPath(output: string): string {
  return `${output}.journal`;
}

export async function identify(path: string): Promise<InputIdentity> {
  const { size, mtimeMs } = await stat(path);
  return { path, size, modified: Math.floor(mtimeMs) };
}

function isHead(value: unknown): value is JournalHead {
  const head = value as JournalHead | null;
  return (
    typeof head === "object" &&
    head !== null &&
    head.lapidaryJournal === 1 &&
    typeof head.version === "string" &&
    typeof head.plan === "string" &&
    typeof head.header === "string" &&
    Array.isArray(head.inputs)
  );
}

function isIdentity(value: unknown): value is InputIdentity {
  const file = value as InputIdentity | null;
  return typeof file?.path === "string" && typeof file.size === "number" && typeof file.modified === "number";
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function differenceOf(head: JournalHead, key: JournalKey): string | undefined {
  if (head.version !== key.version) return `lapidary ${head.version} began it, this is ${key.version}`;
  if (head.plan !== key.plan) return "it has another plan (types or tensors)";
  if (head.header !== key.header) return "it has other metadata";
  if (JSON.stringify(head.inputs) !== JSON.stringify(key.inputs)) return "its input files were others";
  return undefined;
}

async function readLines(output: string): Promise<string[]> {
  const path = journalPath(output);
  const size = (await stat(path).catch(() => undefined))?.size ?? 0;
  return size > 0 && size <= MAX_JOURNAL_BYTES ? (await readFile(path, "utf8")).split("\n") : [];
}

/** The finished tensors of a partial file; one JSON line at the start, then one line a checkpoint. */
export class Journal {
  readonly #file: FileHandle;
  readonly #path: string;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /**
   * Reads what an earlier run of the same work left behind.
   *
   * @param discard whether other work that was left there may be thrown away
   * @returns indices of finished tensors, or undefined when there is nothing to go on from
   * @throws QuantizeError `journal-differs`
   */
  static async finished(
    output: string,
    key: JournalKey,
    discard: boolean,
  ): Promise<ReadonlySet<number> | undefined> {
    const [first = "", ...rest] = await readLines(output);
    const head = parseLine(first);
    // A head that was cut short by a crash: no tensor can have been finished.
    if (!isHead(head)) return undefined;
    const difference = differenceOf(head, key);
    if (difference !== undefined && discard) return undefined;
    if (difference !== undefined) {
      throw new QuantizeError(
        "journal-differs",
        `an unfinished run into ${output} cannot be continued: ${difference}`,
        {
          exitCode: 2,
          advice: `Choose another output, or pass --force to begin anew (or delete ${journalPath(output)} and the .partial files).`,
        },
      );
    }
    const done = new Set<number>();
    for (const line of rest) {
      // The last line may have been cut short; its tensors are simply done again.
      const indices = parseLine(line);
      if (!Array.isArray(indices)) continue;
      for (const index of indices) if (Number.isSafeInteger(index)) done.add(index as number);
    }
    return done;
  }

  /**
   * Whether an earlier run of the same work has finished, and its files are still as it left them. It is
   * true only while the journal is kept.
   */
  static async isComplete(output: string, key: JournalKey): Promise<boolean> {
    const lines = (await readLines(output)).map((line) => parseLine(line));
    const [head] = lines;
    if (!isHead(head) || differenceOf(head, key) !== undefined) return false;
    const last = lines.findLast((line) => typeof line === "object" && line !== null && "complete" in line);
    const files = last === undefined ? undefined : last.complete;
    if (!Array.isArray(files) || files.length === 0 || !files.every((file) => isIdentity(file))) return false;
    for (const file of files) {
      const now = await identify(file.path).catch(() => undefined);
      if (now === undefined || now.size !== file.size || now.modified !== file.modified) return false;
    }
    return true;
  }

  /** Removes the journal of an earlier run, if there is one. */
  static async discard(output: string): Promise<void> {
    await rm(journalPath(output), { force: true });
  }

  /** Begins a journal, replacing one that is there. */
  static async create(output: string, key: JournalKey, done: Iterable<number>): Promise<Journal> {
    const path = journalPath(output);
    const file = await open(path, "w");
    const journal = new Journal(file, path);
    const head: JournalHead = { lapidaryJournal: 1, ...key };
    await file.appendFile(`${JSON.stringify(head)}\n`);
    await journal.add([...done]);
    return journal;
  }

  /** Notes tensors whose bytes are on the disk. */
  async add(tensors: readonly number[]): Promise<void> {
    await this.#file.appendFile(`${JSON.stringify(tensors)}\n`);
    await this.#file.datasync();
  }

  /** Notes that the files under these names are whole, just before they get the names. */
  async complete(files: readonly InputIdentity[]): Promise<void> {
    await this.#file.appendFile(`${JSON.stringify({ complete: files })}\n`);
    await this.#file.datasync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async remove(): Promise<void> {
    await this.#file.close();
    await rm(this.#path, { force: true });
  }
}
