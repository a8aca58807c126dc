import { type FileHandle, open, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { createAtomicFile, makeFolder, writeFileAtomic } from "../../src/base/atomic-file.js";
import { StatisticsError } from "./errors.js";
import { type Arrays, readStep, recordOf, stepArrays, stepSizes } from "./layout.js";
import {
  FORMAT_VERSION,
  type StatisticsHeader,
  type StatisticsList,
  statisticsSchema,
  type StepRecord,
} from "./schema.js";
import type { StepStatistics } from "./types.js";

export type { StatisticsHeader, StepRecord } from "./schema.js";

const LIST = "statistics.json";
/** Bytes of the list: 30 layers of 128 experts take 200 kB. */
const MAX_LIST_BYTES = 2 ** 25;
/** Most bytes of one write. */
const WRITE_BYTES = 2 ** 26;

/** Statistics in a folder: a list, and a file of numbers for each step of the walk. */
export class StatisticsStore {
  readonly folder: string;
  readonly header: StatisticsHeader;
  readonly #done: StepRecord[];

  /** Use `makeStore` or `openStore`. */
  constructor(folder: string, { formatVersion: _version, done, ...header }: StatisticsList) {
    this.folder = folder;
    this.header = header;
    this.#done = done;
  }

  /** What the steps that are done have, in their order. */
  get done(): readonly StepRecord[] {
    return this.#done;
  }

  /** Whether all steps are done. */
  get complete(): boolean {
    return this.#done.length === this.header.steps;
  }

  /** Folder for what a walk leaves between its steps; made when it is asked for. */
  async scratch(): Promise<string> {
    const folder = this.#scratch;
    await makeFolder(folder);
    return folder;
  }

  get #scratch(): string {
    return join(this.folder, "scratch");
  }

  /**
   * Writes a step: the next one, or one of those before, which is replaced together with all that follow it. It is
   * either in the folder whole afterwards or not at all.
   *
   * @throws OutputError when the disk does not take it
   */
  async append(step: StepStatistics): Promise<void> {
    if (step.index > this.#done.length || step.index >= this.header.steps) {
      throw new RangeError(`step ${step.index} comes after ${this.#done.length} of ${this.header.steps}`);
    }
    if (step.index < this.#done.length) {
      this.#done.length = step.index;
      await this.#writeList();
    }
    const file = await createAtomicFile(this.#path(step.index));
    try {
      let at = 0;
      for (const array of stepArrays(step)) {
        const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
        for (let start = 0; start < bytes.length; start += WRITE_BYTES) {
          await file.write(bytes.subarray(start, start + WRITE_BYTES), at + start);
        }
        at += bytes.length;
      }
    } catch (error) {
      await file.abort();
      throw error;
    }
    await file.commit();
    this.#done.push(recordOf(step));
    await this.#writeList();
    if (this.complete) await rm(this.#scratch, { recursive: true, force: true });
  }

  /**
   * Reads the statistics of a step.
   *
   * @throws StatisticsError `statistics-missing` where it is not done; `statistics-damaged` when its file is not of
   *   the size that the list says or has numbers in it that are not finite
   */
  async read(index: number): Promise<StepStatistics> {
    const record = this.#done[index];
    if (record === undefined) {
      throw new StatisticsError(
        "statistics-missing",
        `${this.folder}: step ${index} is not there, ${this.#done.length} of ${this.header.steps} are done`,
        { advice: "Run the calibration again: it goes on where it stopped." },
      );
    }
    const path = this.#path(index);
    const handle = await open(path, "r").catch((cause: unknown) => {
      throw damaged(path, "cannot be opened", cause);
    });
    try {
      const { doubles, floats } = stepSizes(record);
      const expected = doubles * 8 + floats * 4;
      const { size } = await handle.stat();
      if (size !== expected) throw damaged(path, `has ${size} bytes, expected ${expected}`);
      return await readStep(record, new FileArrays(handle, path));
    } finally {
      await handle.close();
    }
  }

  #path(index: number): string {
    return join(this.folder, `step-${String(index).padStart(4, "0")}.bin`);
  }

  async #writeList(): Promise<void> {
    const list: StatisticsList = { formatVersion: FORMAT_VERSION, ...this.header, done: this.#done };
    await writeFileAtomic(join(this.folder, LIST), `${JSON.stringify(list)}\n`);
  }
}

/** Arrays of an open file, one after the other. */
class FileArrays implements Arrays {
  readonly #handle: FileHandle;
  readonly #path: string;
  #at = 0;

  constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  doubles(count: number): Promise<Float64Array> {
    return this.#fill(new Float64Array(count));
  }

  floats(count: number): Promise<Float32Array> {
    return this.#fill(new Float32Array(count));
  }

  async #fill<T extends Float64Array | Float32Array>(values: T): Promise<T> {
    const bytes = new Uint8Array(values.buffer);
    for (let done = 0; done < bytes.length;) {
      const { bytesRead } = await this.#handle.read(bytes, done, bytes.length - done, this.#at + done);
      if (bytesRead === 0) throw damaged(this.#path, `ends at ${this.#at + done} bytes`);
      done += bytesRead;
    }
    const place = values.findIndex((value) => !Number.isFinite(value));
    if (place !== -1) {
      const at = this.#at + place * values.BYTES_PER_ELEMENT;
      throw damaged(this.#path, `has ${values[place]} at byte ${at}, expected a finite number`);
    }
    this.#at += bytes.length;
    return values;
  }
}

function damaged(path: string, what: string, cause?: unknown): StatisticsError {
  return new StatisticsError("statistics-damaged", `${path}: ${what}.`, {
    advice: "Remove the folder and run the calibration again.",
    ...(cause === undefined ? {} : { cause }),
  });
}

/** What statistics have to be of. */
export type ExpectedHeader = Partial<StatisticsHeader>;

/**
 * Opens a folder of statistics, whether all steps are done or not.
 *
 * @param expected what they have to be of; nothing that is left out is looked at
 * @throws StatisticsError `statistics-missing` where there are none; `statistics-damaged` when the list is not what
 *   it should be; `other-checkpoint`, `other-text` and `other-method`
 */
export async function openStore(folder: string, expected: ExpectedHeader = {}): Promise<StatisticsStore> {
  const store = await findStore(folder);
  if (store === undefined) {
    throw new StatisticsError("statistics-missing", `${folder}: has no ${LIST}.`, {
      exitCode: 2,
      advice: "Give the folder that a calibration has made.",
    });
  }
  checkHeader(store, expected);
  return store;
}

/**
 * A folder for statistics, made where it is not there. What another run has left of the same is taken up.
 *
 * @throws StatisticsError as `openStore`, OutputError when the folder cannot be made
 */
export async function makeStore(folder: string, header: StatisticsHeader): Promise<StatisticsStore> {
  await makeFolder(folder);
  const found = await findStore(folder);
  if (found !== undefined) {
    checkHeader(found, header);
    return found;
  }
  return new StatisticsStore(folder, { formatVersion: FORMAT_VERSION, ...header, done: [] });
}

async function findStore(folder: string): Promise<StatisticsStore | undefined> {
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
  const parsed = statisticsSchema.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw damaged(path, `${issue?.path.join(".") || "the list"}: ${issue?.message ?? "is not as expected"}`);
  }
  return new StatisticsStore(folder, parsed.data);
}

function checkHeader({ folder, header }: StatisticsStore, expected: ExpectedHeader): void {
  const { checkpoint, text, method, steps } = expected;
  if (checkpoint !== undefined) {
    const [mine, theirs] = [header.checkpoint, checkpoint].map((files) =>
      files.map(({ file, sha256 }) => `${file} ${sha256}`),
    ) as [string[], string[]];
    const place = theirs.findIndex((each, index) => each !== mine[index]);
    if (place !== -1 || mine.length !== theirs.length) {
      const at = Math.max(place, 0);
      throw new StatisticsError(
        "other-checkpoint",
        `${folder}: statistics of another checkpoint: SHA-256 of ${mine[at] ?? "no further file"}, expected ${theirs[at] ?? "no further file"}.`,
        { exitCode: 2, advice: "Calibrate this checkpoint in a folder of its own." },
      );
    }
  }
  differs(folder, "text", header.text, text);
  differs(
    folder,
    "method",
    { ...header.method, steps: header.steps },
    method && { ...method, steps: steps ?? header.steps },
  );
}

function differs(folder: string, what: "text" | "method", mine: object, theirs: object | undefined): void {
  if (theirs === undefined) return;
  const keys = new Set([...Object.keys(mine), ...Object.keys(theirs)]);
  for (const key of keys) {
    const [found, expected] = [mine, theirs].map((each) => (each as Record<string, unknown>)[key]);
    if (found === expected) continue;
    throw new StatisticsError(
      `other-${what}`,
      `${folder}: statistics by another ${what}: ${key} is ${String(found)}, expected ${String(expected)}.`,
      { exitCode: 2, advice: "Calibrate in a folder of its own, or with the settings of this one." },
    );
  }
}
