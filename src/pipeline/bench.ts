import type { Throughput } from "../verify/throughput.js";
import { openGguf } from "../../formats/gguf/read.js";
import type { Reporter } from "./progress.js";

export interface BenchRequest {
  readonly files: readonly string[];
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly repetitions: number;
  readonly threads: number;
}

/** What `bench --json` prints. */
export interface BenchReport {
  readonly files: readonly ({ readonly file: string } & Throughput)[];
}

/** Mean of one kind of speed, tokens a second; undefined when it was not measured. */
export function meanSpeed(
  throughput: Pick<Throughput, "speeds">,
  kind: "prompt" | "generation",
): number | undefined {
  return throughput.speeds.find((speed) => speed.kind === kind)?.mean;
}

/** One line on speeds, for progress. */
export function outcomeOfBench(throughput: Pick<Throughput, "speeds">): string {
  return throughput.speeds.map(({ kind, mean }) => `${kind} ${mean.toFixed(1)} tokens/s`).join(", ");
}

/** Measures speed and memory of files, one after the other, each in a process of its own. */
export async function bench(
  request: BenchRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<BenchReport> {
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const { measureThroughput } = await import("../verify/throughput.js");
  const files: BenchReport["files"][number][] = [];
  // Our reader's messages on a damaged file say more than llama.cpp's, and say it before any other is timed.
  const paths = await Promise.all(request.files.map(async (file) => (await openGguf(file)).paths[0] ?? file));
  for (const [index, file] of request.files.entries()) {
    reporter.start(`bench ${file}`);
    const throughput = await measureThroughput({
      startEngine: startLlamaEngine,
      path: paths[index] ?? file,
      threads: request.threads,
      promptTokens: request.promptTokens,
      generationTokens: request.generationTokens,
      repetitions: request.repetitions,
      signal,
    });
    reporter.finish(outcomeOfBench(throughput));
    files.push({ file, ...throughput });
  }
  return { files };
}
