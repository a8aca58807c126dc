import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { builtUrl } from "../../base/paths.js";
import type { BenchOptions, BenchResult, EngineInfo } from "../../engines/types.js";
import { VerifyError } from "../errors.js";

/** A text model to time. */
export interface OnnxBench extends Omit<BenchOptions, "signal"> {
  /** Paths of the graphs. */
  readonly embed: string;
  readonly decoder: string;
  /** In place of the file's own; null for that. */
  readonly accuracyLevel: number | null;
  readonly vocabulary: number;
  readonly threads: number;
}

export interface OnnxBenchResult extends BenchResult {
  readonly engine: EngineInfo;
}

export type OnnxBenchReply =
  | { readonly kind: "result"; readonly result: OnnxBenchResult }
  | { readonly kind: "failure"; readonly message: string };

/**
 * Speed and memory of one text model in ONNX Runtime, in a process of its own, whose memory is then that of this one
 * model.
 *
 * @throws VerifyError with the runtime's reason when it fails; the signal's reason after an abort
 */
export async function benchOnnx(options: OnnxBench, signal?: AbortSignal): Promise<OnnxBenchResult> {
  signal?.throwIfAborted();
  const child = fork(fileURLToPath(builtUrl(import.meta.url, "./bench-child.js")), {
    execArgv: [],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const stop = (): void => void child.kill("SIGKILL");
  signal?.addEventListener("abort", stop, { once: true });
  try {
    child.send(options);
    const reply = await new Promise<OnnxBenchReply>((resolve, reject) => {
      child.once("message", (message) => resolve(message as OnnxBenchReply));
      child.once("error", reject);
      child.once("exit", (code, killed) =>
        resolve({
          kind: "failure",
          message: `${options.decoder}: ONNX Runtime's process ended with ${killed ?? `code ${code}`}.`,
        }),
      );
    });
    signal?.throwIfAborted();
    if (reply.kind === "result") return reply.result;
    throw new VerifyError("bench-failed", reply.message);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
