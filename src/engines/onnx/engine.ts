import { Worker } from "node:worker_threads";
import { builtUrl } from "../../base/paths.js";
import { EngineError } from "../errors.js";
import { Gate } from "./gate.js";
import type { CallName, Calls, Reply, Request, WorkerSetup } from "./protocol.js";
import { RUNTIME_PACKAGE } from "./runtime.js";
import { packed } from "./tensors.js";
import type {
  Feed,
  GenerateOptions,
  Generation,
  OnnxEngine,
  OpenedModel,
  OpenOptions,
  RunOptions,
  TensorValue,
} from "./types.js";

/**
 * How long an exit of the process waits for the runtime to return; a pass over a prompt takes seconds. After
 * that the process ends with an abort, see gate.ts.
 */
const EXIT_PATIENCE_MS = 10_000;

export interface StartOptions {
  /** Package or URL of the module to load as ONNX Runtime; onnxruntime-node when left out. */
  readonly module?: string;
}

interface Pending {
  readonly call: CallName;
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Buffers that go to the thread without being copied. */
  readonly buffers?: readonly ArrayBuffer[];
}

/** A thread with ONNX Runtime in it. */
class OnnxThreadEngine implements OnnxEngine {
  readonly #worker: Worker;
  readonly #gate = new Gate();
  readonly #pending = new Map<number, Pending>();
  readonly #ended: Promise<void>;
  #nextId = 1;
  /** Why no more calls can be made. */
  #end: EngineError | undefined;
  #info: Calls["load"]["result"] | undefined;

  constructor() {
    this.#worker = new Worker(builtUrl(import.meta.url, "./worker.js"), {
      workerData: { gate: this.#gate.shared } satisfies WorkerSetup,
      // Flags of a loader or a test runner mean nothing to a worker that imports built files only.
      execArgv: [],
    });
    const onExit = (): void => {
      this.#gate.stop();
      this.#gate.waitForReturn(EXIT_PATIENCE_MS);
    };
    process.on("exit", onExit);
    this.#worker.on("message", (reply: Reply) => this.#receive(reply));
    const onError = (cause: Error): void => {
      this.#fail(
        new EngineError("engine-crashed", `ONNX Runtime's thread failed: ${cause.message}.`, { cause }),
      );
    };
    this.#worker.on("error", onError);
    // A message that cannot be read, for instance because there is no memory for it.
    this.#worker.on("messageerror", onError);
    this.#ended = new Promise((resolve) => {
      this.#worker.on("exit", (code) => {
        process.off("exit", onExit);
        const calls = [...new Set([...this.#pending.values()].map(({ call }) => call))].join(", ");
        this.#fail(
          new EngineError(
            "engine-crashed",
            `ONNX Runtime's thread ended with exit code ${code}${calls === "" ? "" : ` during ${calls}`}.`,
          ),
        );
        resolve();
      });
    });
  }

  async load(module: string): Promise<void> {
    this.#info = await this.#call("load", { module });
  }

  async info(): Promise<Calls["load"]["result"]> {
    if (this.#info === undefined) {
      throw this.#end ?? new EngineError("engine-closed", "ONNX Runtime is not loaded yet.");
    }
    return this.#info;
  }

  async open({ signal, ...options }: OpenOptions): Promise<OpenedModel> {
    if (typeof options.model === "string") return this.#call("open", { options }, { signal });
    // Sent as it is, a view would take the whole buffer behind it along.
    const model = options.model.slice();
    return this.#call("open", { options: { ...options, model } }, { signal, buffers: [model.buffer] });
  }

  async run(session: number, options: RunOptions): Promise<Record<string, TensorValue>> {
    const { signal, transfer = false, feeds, ...rest } = options;
    const buffers = new Set<ArrayBuffer>();
    const sent: Record<string, Feed> = {};
    for (const [name, feed] of Object.entries(feeds)) {
      if ("kept" in feed) {
        sent[name] = feed;
        continue;
      }
      const { value, buffer } = packed(feed, transfer);
      buffers.add(buffer);
      sent[name] = value;
    }
    return this.#call(
      "run",
      { session, options: { ...rest, feeds: sent } },
      { signal, buffers: [...buffers] },
    );
  }

  async drop(names: readonly string[]): Promise<void> {
    await this.#call("drop", { names });
  }

  generate({ signal, ...options }: GenerateOptions): Promise<Generation> {
    return this.#call("generate", { options }, { signal });
  }

  peakMemory(): Promise<number> {
    return this.#call("peakMemory", {});
  }

  async close(session?: number): Promise<void> {
    if (session !== undefined) {
      await this.#call("closeSession", { session });
      return;
    }
    this.#stop(new EngineError("engine-closed", "The engine was closed."));
    await this.#ended;
  }

  #call<N extends CallName>(
    call: N,
    request: Calls[N]["request"],
    { signal, buffers = [] }: CallOptions = {},
  ): Promise<Calls[N]["result"]> {
    if (this.#end !== undefined) return Promise.reject(this.#end);
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    const id = this.#nextId++;
    const abort = (): void => {
      this.#pending.get(id)?.reject(signal?.reason);
      this.#pending.delete(id);
      this.#stop(new EngineError("engine-closed", "The engine was stopped when a call to it was aborted."));
    };
    signal?.addEventListener("abort", abort, { once: true });
    return new Promise<Calls[N]["result"]>((resolve, reject) => {
      this.#pending.set(id, { call, resolve, reject });
      this.#post({ id, call, ...request } as Request, buffers);
    }).finally(() => signal?.removeEventListener("abort", abort));
  }

  #post(request: Request, buffers: readonly ArrayBuffer[] = []): void {
    this.#worker.postMessage(request, buffers);
  }

  #receive(reply: Reply): void {
    const pending = this.#pending.get(reply.id);
    if (pending === undefined) return;
    this.#pending.delete(reply.id);
    if (reply.kind === "success") {
      pending.resolve(reply.result as never);
      return;
    }
    const { code, message, exitCode, advice } = reply;
    pending.reject(new EngineError(code, message, { exitCode, ...(advice === undefined ? {} : { advice }) }));
  }

  /** Ends the thread as soon as the runtime has returned; calls are rejected at once. */
  #stop(error: EngineError): void {
    this.#fail(error);
    this.#gate.stop();
    this.#post({ id: 0, call: "end" });
  }

  /** Refuses all further calls and rejects those under way; only the first reason counts. */
  #fail(error: EngineError): void {
    this.#end ??= error;
    for (const { reject } of this.#pending.values()) reject(this.#end);
    this.#pending.clear();
  }
}

/**
 * Starts ONNX Runtime in a thread of its own, so that this one stays free.
 *
 * The thread ends with `close`, or when a call is aborted; where the runtime is in the middle of something,
 * as soon as it returns from that. If the thread dies, the calls under way and all later ones are rejected
 * with an error that says how; a crash inside the library ends the whole process.
 *
 * @throws EngineError when ONNX Runtime is not installed or does not load, with the line that installs it
 */
export async function startOnnxEngine(options: StartOptions = {}): Promise<OnnxEngine> {
  const engine = new OnnxThreadEngine();
  try {
    await engine.load(options.module ?? RUNTIME_PACKAGE.name);
  } catch (error) {
    await engine.close();
    throw error;
  }
  return engine;
}
