import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { builtUrl } from "../../base/paths.js";
import { EngineError } from "../errors.js";
import type {
  BenchOptions,
  Engine,
  EngineInfo,
  LoadOptions,
  ScoreOptions,
  Window,
  WindowScores,
} from "../types.js";
import { LogTail } from "./log-tail.js";
import { locateLlama, type Installation } from "./platform.js";
import { markerLine, type CallName, type Calls, type Failure, type Reply } from "./protocol.js";

/** How long a failure waits for the log that explains it, which comes by another pipe. */
const LOG_PATIENCE_MS = 1000;

export interface StartOptions {
  /** Finds the libraries; `locateLlama` when left out. */
  readonly locate?: () => Installation;
}

interface Pending {
  readonly call: CallName;
  /** Log lines read when the call was made: its own come after. */
  readonly logStart: number;
  readonly onWindow: ((scores: WindowScores) => void) | undefined;
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onWindow?: (scores: WindowScores) => void;
}

/** A child process with llama.cpp in it. */
class LlamaEngine implements Engine {
  readonly #child: ChildProcess;
  readonly #log = new LogTail();
  readonly #pending = new Map<number, Pending>();
  readonly #ended: Promise<unknown>;
  #nextId = 1;
  /** Why no more calls can be made. */
  #end: EngineError | undefined;
  #info: EngineInfo | undefined;

  constructor() {
    this.#child = fork(fileURLToPath(builtUrl(import.meta.url, "./child.js")), {
      serialization: "advanced",
      execArgv: [],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      // ggml would start a debugger on a failed assertion to print where it happened.
      env: { ...process.env, GGML_NO_BACKTRACE: "1" },
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding("utf8").on("data", (chunk: string) => this.#log.push(chunk));
    }
    this.#child.on("message", (reply: Reply) => this.#receive(reply));
    this.#child.on("error", (cause) => {
      this.#fail(
        new EngineError("engine-start", `llama.cpp's process does not start: ${cause.message}.`, { cause }),
      );
    });
    // "close" comes after "exit" and the last of the log.
    this.#ended = once(this.#child, "close").catch(() => undefined);
    this.#child.on("close", (code, signal) => this.#closed(code, signal));
  }

  async open(installation: Installation): Promise<void> {
    this.#info = await this.#call("open", { installation });
  }

  async info(): Promise<EngineInfo> {
    if (this.#info === undefined)
      throw this.#end ?? new EngineError("engine-closed", "llama.cpp is not loaded yet.");
    return this.#info;
  }

  load(path: string, options: LoadOptions): Promise<Calls["load"]["result"]> {
    return this.#call("load", { path, options });
  }

  tokenize(handle: number, text: string, options: { special: boolean; bos: boolean }): Promise<Int32Array> {
    return this.#call("tokenize", { handle, text, special: options.special, bos: options.bos });
  }

  async score(
    handles: readonly number[],
    windows: readonly Window[],
    options: ScoreOptions,
  ): Promise<WindowScores[]> {
    const scores: WindowScores[] = [];
    await this.#call(
      "score",
      { handles, windows, visitor: options.visitor.href },
      {
        signal: options.signal,
        onWindow(window) {
          scores.push(window);
          options.onWindow?.(scores.length);
        },
      },
    );
    return scores;
  }

  bench(handle: number, options: BenchOptions): Promise<Calls["bench"]["result"]> {
    const { signal, ...counts } = options;
    return this.#call("bench", { handle, options: counts }, { signal });
  }

  peakMemory(): Promise<number> {
    return this.#call("peakMemory", {});
  }

  async unload(handle: number): Promise<void> {
    await this.#call("unload", { handle });
  }

  async close(): Promise<void> {
    this.#fail(new EngineError("engine-closed", "The engine was closed."));
    // There is nothing to save in there, and freeing gigabytes before the end of a process is wasted time.
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  #call<N extends CallName>(
    call: N,
    request: Calls[N]["request"],
    { signal, onWindow }: CallOptions = {},
  ): Promise<Calls[N]["result"]> {
    if (this.#end !== undefined) return Promise.reject(this.#end);
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    const id = this.#nextId++;
    const abort = (): void => {
      // llama.cpp cannot be interrupted everywhere, and nothing in its process is worth keeping after this.
      this.#pending.get(id)?.reject(signal?.reason);
      this.#pending.delete(id);
      this.#fail(new EngineError("engine-closed", "The engine was stopped when a call to it was aborted."));
      this.#child.kill("SIGKILL");
    };
    signal?.addEventListener("abort", abort, { once: true });
    return new Promise<Calls[N]["result"]>((resolve, reject) => {
      this.#pending.set(id, { call, logStart: this.#log.count, onWindow, resolve, reject });
      // A failed write means that the process is gone, which "close" reports with its reason.
      this.#child.send({ id, call, ...request }, () => undefined);
    }).finally(() => signal?.removeEventListener("abort", abort));
  }

  #receive(reply: Reply): void {
    const pending = this.#pending.get(reply.id);
    if (pending === undefined) return;
    switch (reply.kind) {
      case "window":
        pending.onWindow?.(reply.scores);
        return;
      case "success":
        this.#pending.delete(reply.id);
        pending.resolve(reply.result as never);
        return;
      case "failure":
        void this.#explain(reply, pending);
        return;
    }
  }

  /** Rejects a call with what the child said, and what llama.cpp said in its log where that is the reason. */
  async #explain(failure: Failure, pending: Pending): Promise<void> {
    await this.#log.reached(markerLine(failure.id), LOG_PATIENCE_MS);
    const reason = failure.logged ? this.#log.reason(pending.logStart) : "";
    const message = reason === "" ? failure.message : `${failure.message.replace(/\.$/, "")}: ${reason}`;
    this.#pending.delete(failure.id);
    pending.reject(
      new EngineError(failure.code, message, {
        exitCode: failure.exitCode,
        ...(failure.advice === undefined ? {} : { advice: failure.advice }),
      }),
    );
  }

  #closed(code: number | null, signal: NodeJS.Signals | null): void {
    this.#log.flush();
    const how = signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`;
    const calls = [...new Set([...this.#pending.values()].map(({ call }) => call))].join(", ");
    const from = Math.min(...[...this.#pending.values()].map(({ logStart }) => logStart), this.#log.count);
    const reason = this.#log.reason(from);
    this.#fail(
      new EngineError(
        "engine-crashed",
        `llama.cpp's process ${how}${calls === "" ? "" : ` during ${calls}`}${reason === "" ? "." : `: ${reason}`}`,
        signal === "SIGKILL"
          ? {
              advice:
                "The system ends a process this way when memory runs out; close other programs or use a smaller model.",
            }
          : {},
      ),
    );
  }

  /** Refuses all further calls and rejects those under way; only the first reason counts. */
  #fail(error: EngineError): void {
    this.#end ??= error;
    for (const { reject } of this.#pending.values()) reject(this.#end);
    this.#pending.clear();
  }
}

/**
 * Starts llama.cpp in a process of its own.
 *
 * The process ends with `close`, with this process, or when a call is aborted. If it crashes, the calls
 * under way and all later ones are rejected with an error that says how it ended.
 *
 * @throws EngineError when there is no llama.cpp for this machine or it is not one that is known
 */
export async function startLlamaEngine(options: StartOptions = {}): Promise<Engine> {
  const installation = (options.locate ?? locateLlama)();
  const engine = new LlamaEngine();
  try {
    await engine.open(installation);
  } catch (error) {
    await engine.close();
    throw error;
  }
  return engine;
}
