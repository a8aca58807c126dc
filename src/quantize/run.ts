import { realpath } from "node:fs/promises";
import { type OutputFiles, partialPath } from "../../formats/output-files.js";
import { checkOutput } from "../base/atomic-file.js";
import { withLock } from "../base/lock.js";
import { compileKernels } from "../blocks/kernels/load.js";
import { PoolError } from "../pool/errors.js";
import { runTiles } from "../pool/pool.js";
import type { TensorJob } from "../pool/tiles.js";
import { Checkpoints } from "./checkpoints.js";
import { differenceOf, isSameRun } from "./difference.js";
import { QuantizeError } from "./errors.js";
import {
  areUnchanged,
  type EarlierRun,
  type FileIdentity,
  identify,
  Journal,
  journalPath,
  type JournalSubject,
  readJournal,
  type TensorHash,
} from "./journal.js";
import { ProgressReport, type QuantizeProgress } from "./progress.js";
import { checkWhole, type Redo } from "./redo.js";
import { checkSpace } from "./space.js";
import { startFiles } from "./start.js";
import { checkPlaces, type GeneratedTensor, inputPaths, jobOf, journalSubject, type Work } from "./work.js";

export interface RunOptions {
  /** Worker threads; one a core when left out. */
  readonly threads?: number | undefined;
  /** Ceiling of working memory in bytes. */
  readonly memoryBytes: number;
  /** Whether files that are there may be replaced. */
  readonly overwrite?: boolean;
  /**
   * Tensors that are done again although they are finished, in what an unfinished run has left or else in the
   * whole files, which may then be replaced.
   */
  readonly redo?: Redo | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What it throws ends the run, as an abort does. */
  readonly onProgress?: (progress: QuantizeProgress) => void;
  /** Time between two checkpoints of the journal; half a second when left out. */
  readonly checkpointMs?: number;
  /** Whether the journal stays when all is done, so that `isWorkDone` knows the files; see `forgetRun`. */
  readonly keepJournal?: boolean;
}

export interface RunResult {
  readonly paths: readonly string[];
  /** Bytes of all files. */
  readonly bytes: number;
  /** Tensors that an earlier run had finished; 0 for a run from the start. */
  readonly resumed: number;
  /** Tensors that an earlier run had finished and whose bytes were not those that it wrote: done again. */
  readonly damaged: number;
  /** Finished tensors that were done again because `redo` finds them. */
  readonly redone: number;
}

/**
 * Does work: checks the disk, converts all tensors on worker threads into `.partial` files beside those that are
 * planned, and gives the files their names when they are complete and on the disk. Their folders have to be there.
 *
 * A run that is broken off (abort, crash, full disk) leaves `.partial` files and `<output>.journal`, and
 * the next run of the same work on the same inputs goes on behind the tensors that are finished and still
 * have the bytes that were written. A run that cannot succeed (a value that is not finite) leaves nothing, nor
 * does one that finished no tensor.
 *
 * `<output>.lock` keeps a second run away meanwhile.
 *
 * @throws OutputError, LockError, QuantizeError, PoolError; the signal's reason after an abort
 */
export async function runWork(work: Work, options: RunOptions): Promise<RunResult> {
  options.signal?.throwIfAborted();
  checkPlaces(work);
  return withLock(`${work.output}.lock`, work.output, () => runLocked(work, options));
}

async function runLocked(work: Work, options: RunOptions): Promise<RunResult> {
  const { output, files: planned } = work;
  const { redo, signal } = options;
  // Beside the files that are made meanwhile; if it fails, the workers' start says so.
  compileKernels().catch(() => {});
  const overwrite = options.overwrite === true || redo !== undefined;
  await checkPaths(work, overwrite);
  const key = await journalSubject(work);
  const earlier = await earlierRun(work, key, options.overwrite);
  await checkSpace(planned.map(({ path, size }) => ({ path, bytes: size })));
  const report = new ProgressReport(work.tensors, options.onProgress);
  const start = await startFiles({ work, earlier, redo, overwrite, signal, report });
  const { files, kept, damaged, redone } = start;
  // A run that goes on behind one with a pattern leaves the tensors that it finds done again.
  const head = { ...key, redo: redo?.pattern ?? null };
  const journal = await Journal.create(output, head, kept).catch(async (error: unknown) => {
    await (start.continued ? files.suspend() : files.abort());
    throw error;
  });
  const run = new Run(work, options, files, journal, new Set(kept.keys()), report);
  try {
    await run.convert();
    await checkInputs(key.inputs);
    await files.sync();
    // What is noted now holds after the renames too, which change neither size nor time.
    const whole = await Promise.all(files.parts.map(({ temporaryPath }) => identify(temporaryPath)));
    await journal.complete(whole.map((file, part) => ({ ...file, path: files.parts[part]?.path ?? output })));
    await files.commit();
    await (options.keepJournal ? journal.close() : journal.remove());
  } catch (error) {
    // The first error is the one to tell.
    await run.leave(error).catch(() => {});
    throw error;
  }
  return {
    paths: planned.map(({ path }) => path),
    bytes: planned.reduce((sum, { size }) => sum + size, 0),
    resumed: kept.size,
    damaged,
    redone,
  };
}

/**
 * The same work, left unfinished by an earlier run.
 *
 * @throws QuantizeError `journal-differs` when other work was left there that may not be thrown away
 */
async function earlierRun(
  { output, files, headDifference }: Work,
  key: JournalSubject,
  overwrite: boolean | undefined,
): Promise<EarlierRun | undefined> {
  const earlier = await readJournal(output);
  if (earlier === undefined || isSameRun(earlier.head, key)) return earlier;
  if (overwrite === true) return undefined;
  const partials = files.map(({ path }) => partialPath(path));
  const difference = await differenceOf(earlier.head, key, () => headDifference(partials));
  throw new QuantizeError(
    "journal-differs",
    `an unfinished run into ${output} cannot be continued: ${difference}`,
    {
      exitCode: 2,
      advice: `Choose another output, or pass --force to begin anew (or delete ${journalPath(output)} and the .partial files).`,
    },
  );
}

/**
 * Whether an earlier run with `keepJournal` has written just these files, and nobody has touched them since;
 * with a pattern of tensors to do again, whether it was given the same.
 */
export async function isWorkDone(work: Work, pattern?: string): Promise<boolean> {
  const earlier = await readJournal(work.output);
  if (earlier?.complete === undefined || (pattern !== undefined && earlier.head.redo !== pattern))
    return false;
  return isSameRun(earlier.head, await journalSubject(work)) && areUnchanged(earlier.complete);
}

/**
 * Finds what is wrong with doing tensors again, before anything is written: nothing is there to take the others
 * from, or what is there is of other work. `runWork` looks at that too.
 *
 * @throws QuantizeError (exit code 2)
 */
export async function checkWorkRedo(work: Work, { overwrite }: Pick<RunOptions, "overwrite">): Promise<void> {
  const earlier = await earlierRun(work, await journalSubject(work), overwrite);
  if (earlier === undefined) await checkWhole(work);
}

/** Failures that the same run would meet again. */
const HOPELESS: ReadonlySet<string> = new Set(["non-finite", "out-of-range"]);

class Run {
  readonly #work: Work;
  readonly #options: RunOptions;
  readonly #files: OutputFiles;
  readonly #journal: Journal;
  /** Indices of finished tensors. */
  readonly #done: Set<number>;
  readonly #checkpoints: Checkpoints;
  readonly #report: ProgressReport;

  constructor(
    work: Work,
    options: RunOptions,
    files: OutputFiles,
    journal: Journal,
    done: Set<number>,
    report: ProgressReport,
  ) {
    this.#work = work;
    this.#options = options;
    this.#report = report;
    this.#files = files;
    this.#journal = journal;
    this.#done = done;
    this.#checkpoints = new Checkpoints(files, journal, options.checkpointMs);
  }

  async convert(): Promise<void> {
    const { threads, memoryBytes, signal } = this.#options;
    const jobs: TensorJob[] = [];
    const indices: number[] = [];
    for (const [index, tensor] of this.#work.tensors.entries()) {
      if (tensor.kind === "generated") await this.#writeGenerated(index, tensor);
      else if (!this.#done.has(index)) {
        indices.push(index);
        jobs.push(jobOf(tensor, this.#files));
      }
    }
    this.#report.start();
    const stop = new AbortController();
    const signals = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
    await runTiles({
      jobs,
      ...(threads === undefined ? {} : { threads }),
      memoryBytes,
      signal: signals,
      onProgress: ({ bytesRead, bytesWritten, finished, tileValues }) => {
        const tensors = new Map<number, TensorHash>();
        for (const { job, hash } of finished) {
          const index = indices[job];
          if (index !== undefined) tensors.set(index, { tile: tileValues, hash });
        }
        for (const index of tensors.keys()) this.#done.add(index);
        // An error of the caller's own, in a timer, would end the process.
        try {
          if (!stop.signal.aborted) this.#report.running(bytesRead, bytesWritten, this.#done);
        } catch (error) {
          stop.abort(error);
        }
        this.#checkpoints.note(tensors, bytesWritten, (error) => stop.abort(error));
      },
    });
    await this.#checkpoints.settle();
    stop.signal.throwIfAborted();
    // Should the files not get their names, none of the work is lost.
    await this.#checkpoints.finish();
  }

  /** What to leave behind after a failure: partial files to go on from, or nothing. */
  async leave(error: unknown): Promise<void> {
    const hopeless = error instanceof PoolError && HOPELESS.has(error.code);
    const started = [...this.#done].some((index) => this.#work.tensors[index]?.kind === "stored");
    await this.#checkpoints.settle();
    if (hopeless || !started || (error instanceof QuantizeError && error.code === "input-changed")) {
      await this.#files.abort();
      await this.#journal.remove();
      return;
    }
    // A journal that misses a few tensors only costs time.
    await this.#checkpoints.finish().catch(() => {});
    await this.#files.suspend();
    await this.#journal.close();
  }

  async #writeGenerated(index: number, tensor: GeneratedTensor): Promise<void> {
    const { name, data, place } = tensor;
    const { file: part, offset } = place;
    await this.#files.writeTensorRange({ name, part, offset, byteLength: data.length }, 0, data);
    this.#done.add(index);
    this.#report.keep(tensor);
  }
}

/** Refuses to write over an input, or over a file that is there and may not be replaced. */
async function checkPaths(work: Work, overwrite: boolean): Promise<void> {
  const paths = work.files.map(({ path }) => path);
  const real = new Set(await Promise.all(inputPaths(work).map((path) => realpath(path))));
  for (const path of [...paths, ...paths.map((each) => partialPath(each)), journalPath(work.output)]) {
    const target = await realpath(path).catch(() => path);
    if (!real.has(target)) continue;
    throw new QuantizeError("output-is-input", `${path} is one of the files that are read`, {
      exitCode: 2,
      advice: "Choose another output.",
    });
  }
  for (const path of paths) await checkOutput(path, overwrite);
}

/** The bytes are of one state of the inputs, or they are of none. */
async function checkInputs(before: readonly FileIdentity[]): Promise<void> {
  for (const input of before) {
    if (await areUnchanged([input])) continue;
    throw new QuantizeError("input-changed", `${input.path} was changed while it was being read`, {
      advice: "Run the command again when nothing writes there any more.",
    });
  }
}
