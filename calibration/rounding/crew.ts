import { Worker } from "node:worker_threads";
import { builtUrl } from "../../src/base/paths.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { Gate } from "../../src/engines/onnx/gate.js";
import { loadRuntime, RUNTIME_PACKAGE } from "../../src/engines/onnx/runtime.js";
import { RoundingError } from "./errors.js";
import type { RoundTask, Task, TaskResults, ThreadReply, ThreadRequest, ThreadSetup } from "./protocol.js";
import { DEFAULT_DAMPING, type Factor, sharedFactor } from "./reverse-ldl.js";

/** How long an exit of the process waits for products under way; the largest one takes some seconds. */
const EXIT_PATIENCE_MS = 10_000;

interface Pending {
  readonly task: Task;
  readonly resolve: (result: TaskResults[Task["kind"]]) => void;
  readonly reject: (error: unknown) => void;
}

/** One thread, which does one task at a time. */
class Member {
  readonly #worker: Worker;
  readonly #gate = new Gate();
  readonly ended: Promise<void>;
  #current: Pending | undefined;
  #nextId = 1;

  constructor(
    setup: Omit<ThreadSetup, "gate">,
    onIdle: (member: Member) => void,
    onEnd: (error: Error) => void,
  ) {
    this.#worker = new Worker(builtUrl(import.meta.url, "./worker.js"), {
      workerData: { ...setup, gate: this.#gate.shared } satisfies ThreadSetup,
      // Flags of a loader or a test runner mean nothing to a worker that imports built files only.
      execArgv: [],
    });
    const onExit = (): void => {
      this.#gate.stop();
      this.#gate.waitForReturn(EXIT_PATIENCE_MS);
    };
    process.on("exit", onExit);
    this.#worker.on("message", (reply: ThreadReply) => {
      const pending = this.#current;
      this.#current = undefined;
      if (pending === undefined) return;
      if (reply.kind === "success") pending.resolve(reply.result);
      else {
        const { code, message, exitCode, advice } = reply;
        pending.reject(
          new RoundingError(code, message, { exitCode, ...(advice === undefined ? {} : { advice }) }),
        );
      }
      onIdle(this);
    });
    const failed = (cause: Error): void => {
      onEnd(new RoundingError("rounding-failed", `A rounding thread failed: ${cause.message}.`, { cause }));
    };
    this.#worker.on("error", failed);
    this.#worker.on("messageerror", failed);
    this.ended = new Promise((resolve) => {
      this.#worker.on("exit", (code) => {
        process.off("exit", onExit);
        onEnd(new RoundingError("rounding-failed", `A rounding thread ended with exit code ${code}.`));
        resolve();
      });
    });
  }

  start(pending: Pending): void {
    const { task } = pending;
    this.#current = pending;
    const moved =
      task.kind === "factor"
        ? [task.matrix.buffer]
        : task.rowForm === null
          ? []
          : [task.rowForm.matrix.buffer];
    this.#worker.postMessage({ id: this.#nextId++, task } satisfies ThreadRequest, moved);
  }

  /** Ends the thread as soon as the runtime has returned. */
  stop(error: unknown): void {
    this.#current?.reject(error);
    this.#current = undefined;
    this.#gate.stop();
    this.#worker.postMessage({ end: true } satisfies ThreadRequest, []);
  }
}

export interface CrewOptions {
  readonly threads: number;
  /** Package or URL of the module to load as ONNX Runtime; onnxruntime-node when left out. */
  readonly module?: string;
}

/** Threads that factor and round. */
export class Crew {
  readonly threads: number;
  readonly #members: Member[];
  readonly #idle: Member[];
  readonly #waiting: Pending[] = [];
  /** Why no more tasks are taken. */
  #end: unknown;

  private constructor(setup: Omit<ThreadSetup, "gate">, threads: number) {
    this.threads = threads;
    this.#members = Array.from(
      { length: threads },
      () =>
        new Member(
          setup,
          (member) => this.#takeNext(member),
          (error) => this.#stop(error),
        ),
    );
    this.#idle = [...this.#members];
  }

  /**
   * Starts the threads; `close` has to be called.
   *
   * @throws EngineError when ONNX Runtime is not installed or does not load, with the line that installs it
   */
  static async start({ threads, module = RUNTIME_PACKAGE.name }: CrewOptions): Promise<Crew> {
    // Here first: the error is the same for all threads.
    await loadRuntime(module);
    return new Crew({ kernels: await compileKernels(), runtime: module }, threads);
  }

  /**
   * Factors a form over columns with all threads of the machine.
   *
   * @param matrix [size, size]; moved away
   */
  async factor(
    matrix: Float32Array<ArrayBuffer>,
    damping: number = DEFAULT_DAMPING,
  ): Promise<Factor<SharedArrayBuffer>> {
    const factor = sharedFactor(Math.sqrt(matrix.length));
    const result = await this.#do({ kind: "factor", matrix, factor, damping, threads: this.threads });
    return { ...factor, damping: result.damping };
  }

  /** Rounds rows of a matrix; a matrix of the form over its rows is moved away. */
  round(task: Omit<RoundTask, "kind">): Promise<TaskResults["round"]> {
    return this.#do({ kind: "round", ...task });
  }

  /** Lets nothing more happen; what is under way is rejected with `reason`. */
  async close(
    reason: unknown = new RoundingError("rounding-ended", "The rounding threads were ended."),
  ): Promise<void> {
    this.#stop(reason);
    await Promise.all(this.#members.map(({ ended }) => ended));
  }

  #do<T extends Task>(task: T): Promise<TaskResults[T["kind"]]> {
    if (this.#end !== undefined) return Promise.reject(this.#end);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ task, resolve: resolve as Pending["resolve"], reject });
      const member = this.#idle.pop();
      if (member !== undefined) this.#takeNext(member);
    });
  }

  #takeNext(member: Member): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#idle.push(member);
    else member.start(next);
  }

  #stop(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    for (const member of this.#members) member.stop(error);
  }
}
