import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import { resolve } from "node:path";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { createGguf, type GgufOutput, partialPath, reopenGguf } from "../../formats/gguf/write.js";
import { checkOutput } from "../base/atomic-file.js";
import { withLock } from "../base/lock.js";
import { packageVersion } from "../base/paths.js";
import { rowBytes } from "../blocks/table.js";
import type { Plan, PlannedTensor } from "../plan/plan.js";
import { PoolError } from "../pool/errors.js";
import { runTiles } from "../pool/pool.js";
import type { TensorJob } from "../pool/tiles.js";
import { Checkpoints } from "./checkpoints.js";
import { QuantizeError } from "./errors.js";
import { identify, type InputIdentity, Journal, type JournalKey, journalPath } from "./journal.js";
import { layoutPlan, type Metadata, type Splitting } from "./layout.js";
import { Pace } from "./pace.js";
import { checkSpace, plannedFiles } from "./space.js";

/** A running plan, about ten times a second. */
export interface QuantizeProgress {
  /** Bytes of tensors read, those of an earlier run included. */
  readonly bytesRead: number;
  /** Bytes of tensors written, those of an earlier run included. */
  readonly bytesWritten: number;
  /** Bytes of all tensors to read; what `bytesRead` ends at. */
  readonly totalBytes: number;
  /** First tensor that is not finished, or null at the end. */
  readonly tensor: string | null;
  /** Bytes read a second, lately. */
  readonly rate: number;
  /** Seconds to go at that rate; null while there is none. */
  readonly eta: number | null;
}

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
  readonly signal?: AbortSignal | undefined;
  /** What it throws ends the run, as an abort does. */
  readonly onProgress?: (progress: QuantizeProgress) => void;
  /** Time between two checkpoints of the journal; five seconds when left out. */
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
}

/**
 * Carries a plan out: checks the disk, converts all tensors on worker threads into `<output>.partial`,
 * and gives the files their names when they are complete and on the disk.
 *
 * A run that is broken off (abort, crash, full disk) leaves `.partial` files and `<output>.journal`, and
 * the next run of the same plan on the same inputs goes on behind the tensors that are finished. A run
 * that cannot succeed (a value that is not finite) leaves nothing, nor does one that finished no tensor.
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
  const { overwrite = false } = options;
  const { layout, paths, size } = layoutPlan(options.plan, output, options.metadata, options);
  await checkPaths(inputPaths(options.plan), output, paths, overwrite);
  const key = await journalKey(options.plan, layout);
  const finished = await Journal.finished(output, key, overwrite);
  await checkSpace(plannedFiles({ layout, paths }));
  const left = finished && finished.size > 0 ? await reopenGguf(output, layout, { overwrite }) : undefined;
  // A journal must not outlive the files that it tells of.
  if (left === undefined) await Journal.discard(output);
  const files = left ?? (await createGguf(output, layout, { overwrite }));
  const done = new Set(left && finished);
  const resumed = done.size;
  const journal = await Journal.create(output, key, done).catch(async (error: unknown) => {
    await (left === undefined ? files.abort() : files.suspend());
    throw error;
  });
  const run = new Run(options, layout, files, journal, done);
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
  return { paths, bytes: size, resumed };
}

/** What has to be equal for two runs to write the same files. */
type SameRun = Pick<RunPlanOptions, "plan" | "output" | "metadata" | keyof Splitting>;

/** Whether an earlier run with `keepJournal` has written just these files, and nobody has touched them since. */
export async function isComplete(run: SameRun): Promise<boolean> {
  const { plan, metadata } = run;
  const path = resolve(run.output);
  const { layout } = layoutPlan(plan, path, metadata, run);
  return Journal.isComplete(path, await journalKey(plan, layout));
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

async function journalKey(plan: Plan, layout: GgufLayout): Promise<JournalKey> {
  return {
    version: packageVersion(),
    plan: plan.hash,
    header: hashHeaders(layout),
    inputs: await Promise.all(inputPaths(plan).map((path) => identify(path))),
  };
}

/** Failures that the same run would meet again. */
const HOPELESS: ReadonlySet<string> = new Set(["non-finite", "out-of-range"]);

class Run {
  readonly #options: RunPlanOptions;
  readonly #layout: GgufLayout;
  readonly #files: GgufOutput;
  readonly #journal: Journal;
  /** Indices of finished tensors. */
  readonly #done: Set<number>;
  readonly #checkpoints: Checkpoints;

  constructor(
    options: RunPlanOptions,
    layout: GgufLayout,
    files: GgufOutput,
    journal: Journal,
    done: Set<number>,
  ) {
    this.#options = options;
    this.#layout = layout;
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
      if (tensor.origin.kind === "generated") await this.#writeGenerated(index, tensor.origin.data);
      else if (!this.#done.has(index)) {
        indices.push(index);
        jobs.push(this.#job(tensor, index));
      }
    }
    const report = this.#reporter();
    const stop = new AbortController();
    const signals = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
    await runTiles({
      jobs,
      ...(threads === undefined ? {} : { threads }),
      memoryBytes,
      signal: signals,
      onProgress: ({ bytesRead, bytesWritten, finished }) => {
        const tensors = finished.flatMap((job) => indices[job] ?? []);
        for (const index of tensors) this.#done.add(index);
        // An error of the caller's own, in a timer, would end the process.
        try {
          if (!stop.signal.aborted) report(bytesRead, bytesWritten);
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

  async #writeGenerated(index: number, data: Uint8Array): Promise<void> {
    const tensor = this.#layout.tensors[index];
    if (tensor?.byteLength !== data.length) throw new RangeError(`generated tensor ${index} is not F32`);
    await this.#files.writeTensorRange(tensor, 0, data);
    this.#done.add(index);
  }

  #job({ name, ne, values, origin, type, importance }: PlannedTensor, index: number): TensorJob {
    const place = this.#layout.tensors[index];
    const part = this.#files.parts[place?.part ?? -1];
    if (origin.kind !== "file" || place === undefined || part === undefined)
      throw new RangeError(`tensor ${name} has no file`);
    const row = ne[0] ?? 1;
    return {
      name,
      input: origin.path,
      inputOffset: origin.offset,
      output: part.temporaryPath,
      outputOffset: place.offset,
      source: origin.type,
      target: type,
      row,
      rows: values / row,
      importance,
    };
  }

  #reporter(): (read: number, written: number) => void {
    const { plan, onProgress } = this.#options;
    if (onProgress === undefined) return () => {};
    const totalBytes = plan.tensors.reduce((sum, tensor) => sum + sourceBytes(tensor), 0);
    let earlierRead = 0;
    let earlierWritten = 0;
    for (const index of this.#done) {
      const tensor = plan.tensors[index];
      if (tensor === undefined) continue;
      earlierRead += sourceBytes(tensor);
      earlierWritten += rowBytes(tensor.type, tensor.values);
    }
    const pace = new Pace(performance.now(), earlierRead);
    let first = 0;
    return (read, written) => {
      while (this.#done.has(first)) first++;
      const bytesRead = earlierRead + read;
      const rate = pace.add(performance.now(), bytesRead);
      onProgress({
        bytesRead,
        bytesWritten: earlierWritten + written,
        totalBytes,
        tensor: plan.tensors[first]?.name ?? null,
        rate,
        eta: rate > 0 ? (totalBytes - bytesRead) / rate : null,
      });
    };
  }
}

function sourceBytes({ origin }: PlannedTensor): number {
  return origin.kind === "file" ? origin.byteLength : 0;
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
async function checkInputs(before: readonly InputIdentity[]): Promise<void> {
  for (const input of before) {
    const now = await identify(input.path).catch(() => undefined);
    if (now !== undefined && now.size === input.size && now.modified === input.modified) continue;
    throw new QuantizeError("input-changed", `${input.path} was changed while it was being read`, {
      advice: "Run the command again when nothing writes there any more.",
    });
  }
}
