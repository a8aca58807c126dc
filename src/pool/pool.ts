import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { compileKernels } from "../blocks/kernels/load.js";
import { builtUrl } from "../base/paths.js";
import { Control, type WorkerFailure, type WorkerMessage, type WorkerOrder } from "./control.js";
import { PoolError } from "./errors.js";
import { hashOfChecksums } from "./hash.js";
import { splitMemory } from "./memory.js";
import { targetName, Tiling, type TensorJob } from "./tiles.js";

/** How often the main thread looks at what the workers have done. */
const LOOK_INTERVAL_MS = 100;

/**
 * How long workers may take to end after they were told to stop. A tile takes at most a second even of a
 * slow type on a slow disk; a worker that hangs in a dead network mount is ended by force.
 */
const STOP_GRACE_MS = 5000;

/** A job whose output is written. */
export interface FinishedJob {
  /** Index in the list of jobs. */
  readonly job: number;
  /** Of its outputs, cut into tiles of this run's size: `OutputReader` gives the same for the same bytes. */
  readonly hash: string;
}

/** What is done so far. */
export interface PoolProgress {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Jobs that were finished since the last report, in order. */
  readonly finished: readonly FinishedJob[];
  /** Most values in a tile; the same in all reports of a run. */
  readonly tileValues: number;
}

export interface RunOptions {
  readonly jobs: readonly TensorJob[];
  /** Number of workers; as many as the machine runs at once when left out. */
  readonly threads?: number;
  /** Ceiling of the workers' memory in bytes. */
  readonly memoryBytes: number;
  readonly signal?: AbortSignal;
  /** Called about ten times a second, and once at the end. */
  readonly onProgress?: (progress: PoolProgress) => void;
}

/**
 * Reads, converts and writes all jobs on worker threads. Each worker takes the next tile from a shared
 * counter, reads it into its own WebAssembly memory, converts it and writes it at its offsets; no data
 * crosses threads and the main thread stays free. Output files must exist.
 *
 * After a failure or an abort nothing is written any more when the promise settles.
 *
 * @throws PoolError `memory-too-small`, `non-finite`, `out-of-range`, `off-lattice`, `input-truncated`, `read-failed`, `write-failed`,
 * `disk-full`, `worker-failed`; the signal's reason after an abort
 */
export async function runTiles(options: RunOptions): Promise<void> {
  const { jobs, memoryBytes, signal, onProgress } = options;
  signal?.throwIfAborted();
  const shared = sharedBytes(jobs);
  const split = splitMemory({
    memoryBytes: memoryBytes - shared,
    threads: options.threads ?? availableParallelism(),
    shared,
  });
  const tiling = new Tiling(jobs, split.tileValues);
  const control = new Control({ jobs: jobs.length, tiles: tiling.total });
  const order: WorkerOrder = {
    kernels: await compileKernels(),
    jobs,
    tileValues: split.tileValues,
    shared: control.shared,
  };
  const watch = new Watch(control, tiling, jobs.length, split.tileValues, onProgress);
  const stop = (): void => control.stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    const workers = Math.min(split.threads, tiling.total);
    const results = await Promise.allSettled(
      Array.from({ length: workers }, () => runWorker(order, control)),
    );
    const failed = results.find((result) => result.status === "rejected");
    watch.end();
    if (failed !== undefined) throw failed.reason;
    signal?.throwIfAborted();
    if (watch.open > 0)
      throw new PoolError("worker-failed", "the worker threads ended before their work was done");
  } finally {
    signal?.removeEventListener("abort", stop);
    watch.end();
  }
}

/** Bytes of importance and factors that lie in memory beside the workers. */
function sharedBytes(jobs: readonly TensorJob[]): number {
  return jobs.reduce(
    (sum, { importance, factors }) =>
      sum +
      (importance?.byteLength ?? 0) +
      (factors?.columns?.byteLength ?? 0) +
      (factors?.rows?.byteLength ?? 0),
    0,
  );
}

/** Looks at the shared counters and reports what changed. */
class Watch {
  readonly #control: Control;
  readonly #tiling: Tiling;
  readonly #tileValues: number;
  readonly #report: RunOptions["onProgress"];
  readonly #open: Set<number>;
  readonly #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(
    control: Control,
    tiling: Tiling,
    jobs: number,
    tileValues: number,
    report: RunOptions["onProgress"],
  ) {
    this.#control = control;
    this.#tiling = tiling;
    this.#tileValues = tileValues;
    this.#report = report;
    this.#open = new Set(Array.from({ length: jobs }, (_, job) => job));
    if (report !== undefined) this.#timer = setInterval(() => this.#look(), LOOK_INTERVAL_MS);
  }

  #look(): void {
    const complete = [...this.#open].filter(
      (job) => this.#control.tilesDone(job) === this.#tiling.tilesOf(job),
    );
    for (const job of complete) this.#open.delete(job);
    const { bytesRead, bytesWritten } = this.#control;
    const finished = complete.map((job) => ({ job, hash: this.#hashOf(job) }));
    this.#report?.({ bytesRead, bytesWritten, finished, tileValues: this.#tileValues });
  }

  #hashOf(job: number): string {
    const first = this.#tiling.firstOf(job);
    return hashOfChecksums(this.#control.checksums(first, this.#tiling.tilesOf(job)));
  }

  /** Number of jobs that are not finished. */
  get open(): number {
    return this.#open.size;
  }

  /** Reports for the last time. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#timer);
    this.#look();
  }
}

/** Runs one worker to its end; any failure stops the others too. */
function runWorker(order: WorkerOrder, control: Control): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(builtUrl(import.meta.url, "./worker.js"), {
      workerData: order,
      // Flags of a loader or a test runner mean nothing to a worker that imports built files only.
      execArgv: [],
      // Its JavaScript heap holds the list of jobs; the tile lies in WebAssembly memory, which this does not limit.
      resourceLimits: { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4 },
    });
    let failure: Error | undefined;
    const grace = setInterval(() => {
      if (!control.stopped) return;
      clearInterval(grace);
      setTimeout(() => void worker.terminate(), STOP_GRACE_MS).unref();
    }, LOOK_INTERVAL_MS);
    worker.on("message", (message: WorkerMessage) => {
      if (message.kind === "done") {
        // Its files are closed; to take its thread apart needs some 10 ms more.
        clearInterval(grace);
        worker.unref();
        resolve();
        return;
      }
      failure = describe(message, order.jobs);
      control.stop();
    });
    worker.on("error", (error) => {
      failure ??= new PoolError("worker-failed", `a worker thread failed: ${error.message}`, {
        cause: error,
      });
      control.stop();
    });
    worker.on("exit", (code) => {
      clearInterval(grace);
      if (failure === undefined && code !== 0 && !control.stopped) {
        failure = new PoolError(
          "worker-failed",
          `a worker thread ended with code ${code} before its work was done`,
        );
        control.stop();
      }
      if (failure === undefined) resolve();
      else reject(failure);
    });
  });
}

/** `tensor blk.0.ffn_up.weight in model.safetensors: the value at row 3, column 17`. */
function place(failure: { job: number; index: number }, job: TensorJob | undefined): string {
  if (job === undefined) return `value ${failure.index} of tensor ${failure.job}`;
  const row = Math.floor(failure.index / job.row);
  const column = (job.inputColumn ?? 0) + (failure.index % job.row);
  return `tensor ${job.name} in ${job.input}: the value at row ${row}, column ${column}`;
}

function describe(failure: WorkerFailure, jobs: readonly TensorJob[]): PoolError {
  const job = jobs[failure.job];
  const tensor = `tensor ${job?.name ?? failure.job}`;
  switch (failure.kind) {
    case "non-finite":
      return new PoolError(
        "non-finite",
        `${place(failure, job)} is ${failure.value}, expected finite numbers only`,
        {
          advice:
            "The file is damaged or the training went wrong: download it again, or use another checkpoint.",
        },
      );
    case "overflow":
      return new PoolError(
        "out-of-range",
        `${place(failure, job)} is ${failure.value}, which ${job === undefined ? "the target type" : targetName(job.target)} cannot hold`,
        { advice: job?.target === "BF16" ? "Choose F32." : "Choose BF16 or F32, whose range is larger." },
      );
    case "off-lattice":
      return new PoolError(
        "off-lattice",
        `${place(failure, job)} begins a block that lies on no lattice, although all of the tensor did when it was looked at`,
        { advice: "Something changed the file; run the command again, or pass --no-keep-lattice." },
      );
    case "truncated":
      return new PoolError(
        "input-truncated",
        `${failure.path} ends at byte ${failure.position}, inside ${tensor}: the file was cut while it was being read`,
      );
    case "read":
      return new PoolError(
        "read-failed",
        `reading ${tensor} from ${failure.path} failed: ${failure.message}`,
      );
    case "write":
      return describeWrite(failure, tensor);
  }
  return unreachable(failure);
}

/** A kind of failure that the switch above does not know would not compile here. */
function unreachable(failure: never): PoolError {
  return new PoolError("worker-failed", `a worker thread failed with ${JSON.stringify(failure)}`);
}

function describeWrite(
  { path, code, message }: { path: string; code: string; message: string },
  tensor: string,
): PoolError {
  if (code !== "ENOSPC" && code !== "EDQUOT") {
    return new PoolError("write-failed", `writing ${tensor} to ${path} failed: ${message}`);
  }
  return new PoolError("disk-full", `the disk became full while ${tensor} was being written to ${path}`, {
    advice: "Free some space and run the same command again.",
  });
}
