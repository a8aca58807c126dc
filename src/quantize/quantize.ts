import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import { resolve } from "node:path";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { type GgufOutput, partialPath } from "../../formats/gguf/write.js";
import { checkOutput } from "../base/atomic-file.js";
import { withLock } from "../base/lock.js";
import { packageVersion } from "../base/paths.js";
import { compileKernels } from "../blocks/kernels/load.js";
import type { Plan, PlannedTensor } from "../plan/plan.js";
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
import { layoutPlan, type Metadata, type OutputLayout, type Splitting } from "./layout.js";
import { ProgressReport, type QuantizeProgress } from "./progress.js";
import { checkWhole, findTensors } from "./redo.js";
import { checkSpace, plannedFiles } from "./space.js";
import { jobOf, startFiles } from "./start.js";

export type { QuantizeProgress } from "./progress.js";

export interface RunPlanOptions extends Splitting {
  readonly plan: Plan;
  /** Path of the model, or of what its parts are named after. */
  readonly output: string;
  readonly metadata: Metadata;
  /** Worker threads; one a core when left out. */
  readonly threads?: number | undefined;
  /** Ceiling of working memory in bytes. */
  readonly memoryBytes: number;
  /** Whether files that are there may be replaced. */
  readonly overwrite?: boolean;
  /**
   * Regular expression over names in GGUF: tensors that it finds are done again although they are finished, in
   * what an unfinished run has left or else in the whole files, which may then be replaced.
   */
  readonly redo?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What it throws ends the run, as an abort does. */
  readonly onProgress?: (progress: QuantizeProgress) => void;
  /** Time between two checkpoints of the journal; half a second when left out. */
  readonly checkpointMs?: number;
  /** Whether the journal stays when all is done, so that `isComplete` knows the files; see `forgetRun`. */
  readonly keepJournal?: boolean;
}

export interface RunPlanResult {
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
 * Carries a plan out: checks the disk, converts all tensors on worker threads into `<output>.partial`,
 * and gives the files their names when they are complete and on the disk.
 *
 * A run that is broken off (abort, crash, full disk) leaves `.partial` files and `<output>.journal`, and
 * the next run of the same plan on the same inputs goes on behind the tensors that are finished and still
 * have the bytes that were written. A run that cannot succeed (a value that is not finite) leaves nothing, nor
 * does one that finished no tensor.
 *
 * `<output>.lock` keeps a second run away meanwhile.
 *
 * @throws OutputError, LockError, QuantizeError, PoolError, GgufError; the signal's reason after an abort
 */
export async function runPlan(options: RunPlanOptions): Promise<RunPlanResult> {
  options.signal?.throwIfAborted();
  const output = resolve(options.output);
  return withLock(`${output}.lock`, output, () => runLocked(options, output));
}

async function runLocked(options: RunPlanOptions, output: string): Promise<RunPlanResult> {
  const { plan, metadata, redo } = options;
  // Beside the files that are made meanwhile; if it fails, the workers' start says so.
  compileKernels().catch(() => {});
  const overwrite = options.overwrite === true || redo !== undefined;
  const laidOut = layoutPlan(plan, output, metadata, options);
  const { layout, paths, size } = laidOut;
  const again = redo === undefined ? undefined : { pattern: redo, tensors: findTensors(plan, redo) };
  await checkPaths(inputPaths(plan), output, paths, overwrite);
  const key = await journalSubject(plan, layout);
  const earlier = await earlierRun({ ...options, output }, laidOut, key);
  await checkSpace(plannedFiles(laidOut));
  const report = new ProgressReport(plan, options.onProgress);
  const { signal } = options;
  const start = await startFiles({
    plan,
    output,
    metadata,
    laidOut,
    earlier,
    redo: again,
    overwrite,
    signal,
    report,
  });
  const { files, kept, damaged, redone } = start;
  // A run that goes on behind one with a pattern leaves the tensors that it finds done again.
  const head = { ...key, redo: redo ?? null };
  const journal = await Journal.create(output, head, kept).catch(async (error: unknown) => {
    await (start.continued ? files.suspend() : files.abort());
    throw error;
  });
  const run = new Run(options, laidOut, files, journal, new Set(kept.keys()), report);
  try {
    await run.convert();
    await checkInputs(key.inputs);
    await files.sync();
    // What is noted now holds after the renames too, which change neither size nor time.
    const whole = await Promise.all(files.parts.map(({ temporaryPath }) => identify(temporaryPath)));
    await journal.complete(whole.map((file, part) => ({ ...file, path: paths[part] ?? output })));
    await files.commit();
    await (options.keepJournal ? journal.close() : journal.remove());
  } catch (error) {
    // The first error is the one to tell.
    await run.leave(error).catch(() => {});
    throw error;
  }
  return { paths, bytes: size, resumed: kept.size, damaged, redone };
}

/**
 * The same work, left unfinished by an earlier run.
 *
 * @throws QuantizeError `journal-differs` when other work was left there that may not be thrown away
 */
async function earlierRun(
  { output, metadata, overwrite }: Pick<RunPlanOptions, "output" | "metadata" | "overwrite">,
  { layout, paths }: OutputLayout,
  key: JournalSubject,
): Promise<EarlierRun | undefined> {
  const earlier = await readJournal(output);
  if (earlier === undefined || isSameRun(earlier.head, key)) return earlier;
  if (overwrite === true) return undefined;
  const partials = paths.map((path) => partialPath(path));
  const difference = await differenceOf(earlier.head, key, partials, { layout, metadata });
  throw new QuantizeError(
    "journal-differs",
    `an unfinished run into ${output} cannot be continued: ${difference}`,
    {
      exitCode: 2,
      advice: `Choose another output, or pass --force to begin anew (or delete ${journalPath(output)} and the .partial files).`,
    },
  );
}

/** What has to be equal for two runs to write the same files. */
type SameRun = Pick<RunPlanOptions, "plan" | "output" | "metadata" | "redo" | keyof Splitting>;

/**
 * Whether an earlier run with `keepJournal` has written just these files, and nobody has touched them since;
 * with `redo`, whether it was given the same.
 */
export async function isComplete(run: SameRun): Promise<boolean> {
  const { plan, metadata, redo } = run;
  const path = resolve(run.output);
  const earlier = await readJournal(path);
  if (earlier?.complete === undefined || (redo !== undefined && earlier.head.redo !== redo)) return false;
  const { layout } = layoutPlan(plan, path, metadata, run);
  return isSameRun(earlier.head, await journalSubject(plan, layout)) && areUnchanged(earlier.complete);
}

/**
 * Finds what is wrong with doing tensors again, before anything is written: nothing is there to take the others
 * from, or what is there is of other work. `runPlan` looks at that too.
 *
 * @throws QuantizeError (exit code 2)
 */
export async function checkRedo(run: SameRun & Pick<RunPlanOptions, "overwrite">): Promise<void> {
  const output = resolve(run.output);
  const laidOut = layoutPlan(run.plan, output, run.metadata, run);
  const key = await journalSubject(run.plan, laidOut.layout);
  const earlier = await earlierRun({ ...run, output }, laidOut, key);
  if (earlier === undefined) await checkWhole(laidOut, run.metadata);
}

/** Removes the journal that a run with `keepJournal` has left. */
export async function forgetRun(output: string): Promise<void> {
  await Journal.discard(resolve(output));
}

function inputPaths(plan: Plan): string[] {
  return [
    ...new Set(plan.tensors.flatMap(({ origin }) => (origin.kind === "file" ? [resolve(origin.path)] : []))),
  ];
}

async function journalSubject(plan: Plan, layout: GgufLayout): Promise<JournalSubject> {
  const { importance } = plan;
  return {
    version: packageVersion(),
    plan: plan.hash,
    header: hashHeaders(layout),
    inputs: await Promise.all(inputPaths(plan).map((path) => identify(path))),
    mix: plan.mix,
    // It has been read; what happens to it afterwards makes no difference.
    importance: importance === null ? null : await identify(resolve(importance)).catch(() => null),
  };
}

/** Failures that the same run would meet again. */
const HOPELESS: ReadonlySet<string> = new Set(["non-finite", "out-of-range"]);

class Run {
  readonly #options: RunPlanOptions;
  readonly #laidOut: OutputLayout;
  readonly #files: GgufOutput;
  readonly #journal: Journal;
  /** Indices of finished tensors. */
  readonly #done: Set<number>;
  readonly #checkpoints: Checkpoints;
  readonly #report: ProgressReport;

  constructor(
    options: RunPlanOptions,
    laidOut: OutputLayout,
    files: GgufOutput,
    journal: Journal,
    done: Set<number>,
    report: ProgressReport,
  ) {
    this.#options = options;
    this.#laidOut = laidOut;
    this.#report = report;
    this.#files = files;
    this.#journal = journal;
    this.#done = done;
    this.#checkpoints = new Checkpoints(files, journal, options.checkpointMs);
  }

  async convert(): Promise<void> {
    const { plan, threads, memoryBytes, signal } = this.#options;
    const jobs: TensorJob[] = [];
    const indices: number[] = [];
    for (const [index, tensor] of plan.tensors.entries()) {
      if (tensor.origin.kind === "generated") await this.#writeGenerated(index, tensor, tensor.origin.data);
      else if (!this.#done.has(index)) {
        indices.push(index);
        jobs.push(jobOf(plan, this.#laidOut, this.#files, index));
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
    const started = [...this.#done].some(
      (index) => this.#options.plan.tensors[index]?.origin.kind === "file",
    );
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

  async #writeGenerated(index: number, planned: PlannedTensor, data: Uint8Array): Promise<void> {
    const tensor = this.#laidOut.layout.tensors[index];
    if (tensor?.byteLength !== data.length) throw new RangeError(`generated tensor ${index} is not F32`);
    await this.#files.writeTensorRange(tensor, 0, data);
    this.#done.add(index);
    this.#report.keep(planned);
  }
}

function hashHeaders(layout: GgufLayout): string {
  const hash = createHash("sha256");
  for (const { header } of layout.parts) hash.update(header);
  return hash.digest("hex");
}

/** Refuses to write over an input, or over a file that is there and may not be replaced. */
async function checkPaths(
  inputs: readonly string[],
  output: string,
  paths: readonly string[],
  overwrite: boolean,
): Promise<void> {
  const real = new Set(await Promise.all(inputs.map((path) => realpath(path))));
  for (const path of [...paths, ...paths.map((each) => partialPath(each)), journalPath(output)]) {
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
