import type { Throughput } from "../verify/throughput.js";
import { openGguf } from "../../formats/gguf/read.js";
import { checkNoFolder, findPackages, isOnnxPath, type OnnxPackage } from "./onnx-package.js";
import type { Reporter } from "./progress.js";

export interface BenchRequest {
  /** GGUF files, and packages for ONNX Runtime: their folders, or decoders in them. */
  readonly files: readonly string[];
  /** Accuracy levels of packages; that of the file and 0 when left out. */
  readonly accuracyLevels?: readonly number[] | undefined;
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly repetitions: number;
  readonly threads: number;
}

/** What `bench --json` prints. */
export interface BenchReport {
  readonly files: readonly ({ readonly file: string; readonly accuracyLevel: number | null } & Throughput)[];
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
  // Our reader's messages on a damaged file say more than a runtime's, and say it before any other is timed.
  const subjects: Subject[] = [];
  for (const file of request.files) subjects.push(...(await subjectsOf(file, request, signal)));
  const files: BenchReport["files"][number][] = [];
  for (const { file, accuracyLevel, measure } of subjects) {
    reporter.start(`bench ${file}${accuracyLevel === null ? "" : ` at accuracy level ${accuracyLevel}`}`);
    const throughput = await measure();
    reporter.finish(outcomeOfBench(throughput));
    files.push({ file, accuracyLevel, ...throughput });
  }
  return { files };
}

/** Something to time. */
interface Subject {
  readonly file: string;
  readonly accuracyLevel: number | null;
  readonly measure: () => Promise<Throughput>;
}

async function subjectsOf(file: string, request: BenchRequest, signal: AbortSignal): Promise<Subject[]> {
  if (await isOnnxPath(file)) {
    const packages = await findPackages(file);
    const subjects = await Promise.all(packages.map((found) => packageSubjects(found, request, signal)));
    return subjects.flat();
  }
  await checkNoFolder(file);
  const path = (await openGguf(file)).paths[0] ?? file;
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const { measureThroughput } = await import("../verify/throughput.js");
  const measure = (): Promise<Throughput> =>
    measureThroughput({ ...request, startEngine: startLlamaEngine, path, signal });
  return [{ file, accuracyLevel: null, measure }];
}

async function packageSubjects(
  found: OnnxPackage,
  request: BenchRequest,
  signal: AbortSignal,
): Promise<Subject[]> {
  const { describePackage } = await import("./verify-onnx.js");
  const { benchOnnx } = await import("../verify/onnx/bench.js");
  const { level, model } = await describePackage(found);
  const levels = level === null ? [null] : [...new Set(request.accuracyLevels ?? [level, 0])];
  const { embed, decoder, config } = found;
  return levels.map((accuracyLevel) => ({
    file: found.path,
    accuracyLevel,
    measure: async () => {
      const options = { ...request, embed, decoder, accuracyLevel, vocabulary: config.vocabulary };
      const result = await benchOnnx(options, signal);
      return { ...result, model };
    },
  }));
}
