import { open, readFile, rm, stat, type FileHandle } from "node:fs/promises";
import { hostname } from "node:os";
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
  /** Who writes it, so that two runs into one file are noticed. */
  readonly host: string;
  readonly pid: number;
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

/** Whether another process that is still alive writes the journal. */
function isHeld({ host, pid }: JournalHead): boolean {
  if (host !== hostname() || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

function isHead(value: unknown): value is JournalHead {
  const head = value as JournalHead | null;
  return (
    typeof head === "object" &&
    head !== null &&
    head.lapidaryJournal === 1 &&
    typeof head.host === "string" &&
    Number.isSafeInteger(head.pid) &&
    typeof head.version === "string" &&
    typeof head.plan === "string" &&
    typeof head.header === "string" &&
    Array.isArray(head.inputs)
  );
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
   * @throws QuantizeError `output-in-use`, `journal-differs`
   */
  static async finished(
    output: string,
    key: JournalKey,
    discard: boolean,
  ): Promise<ReadonlySet<number> | undefined> {
    const path = journalPath(output);
    const size = (await stat(path).catch(() => undefined))?.size;
    if (size === undefined) return undefined;
    const text = size <= MAX_JOURNAL_BYTES ? await readFile(path, "utf8") : "";
    const [first = "", ...rest] = text.split("\n");
    const head = parseLine(first);
    // A head that was cut short by a crash: no tensor can have been finished.
    if (!isHead(head)) return undefined;
    if (isHeld(head)) {
      throw new QuantizeError("output-in-use", `process ${head.pid} is writing ${output} right now`, {
        exitCode: 2,
        advice: `Wait for it; if there is no such run, delete ${path}.`,
      });
    }
    const difference = differenceOf(head, key);
    if (difference !== undefined && discard) return undefined;
    if (difference !== undefined) {
      throw new QuantizeError(
        "journal-differs",
        `an unfinished run into ${output} cannot be continued: ${difference}`,
        {
          exitCode: 2,
          advice: `Choose another output, or pass --force to begin anew (or delete ${path} and the .partial files).`,
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

  /** Removes the journal of an earlier run, if there is one. */
  static async discard(output: string): Promise<void> {
    await rm(journalPath(output), { force: true });
  }

  /** Begins a journal, replacing one that is there. */
  static async create(output: string, key: JournalKey, done: Iterable<number>): Promise<Journal> {
    const path = journalPath(output);
    const file = await open(path, "w");
    const journal = new Journal(file, path);
    const head: JournalHead = { lapidaryJournal: 1, host: hostname(), pid: process.pid, ...key };
    await file.appendFile(`${JSON.stringify(head)}\n`);
    await journal.add([...done]);
    return journal;
  }

  /** Notes tensors whose bytes are on the disk. */
  async add(tensors: readonly number[]): Promise<void> {
    await this.#file.appendFile(`${JSON.stringify(tensors)}\n`);
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
