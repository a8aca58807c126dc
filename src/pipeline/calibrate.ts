import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.js";
import type { CalibrationText } from "../../calibration/text/calibration-text.js";
import type { TextMode } from "../../calibration/text/modes.js";
import { parseSource } from "../../calibration/text/sources.js";
import type { StatisticsHeader, StatisticsStore } from "../../calibration/statistics/store.js";
import type { StepStatistics } from "../../calibration/statistics/types.js";
import type { WalkProgress } from "../../calibration/statistics/walk.js";
import type { SummedEntry } from "../../formats/imatrix/types.js";
import type { OnnxEngine } from "../engines/onnx/types.js";
import type { CheckpointParts } from "../gemma4/graph/files.js";
import { checkpointParts, openCheckpointFolder, withScratch } from "./calibrated.js";
import { checkpointCalibration } from "./calibration-text.js";
import { hashFiles, type HashedFile } from "./hash.js";
import type { Reporter } from "./progress.js";
import type { CheckpointSource } from "./source.js";
import { statisticsFolders } from "./statistics-folders.js";

/** File with what was calibrated on. */
const SUMMARY = "calibration.json";

/** The share of the memory that states between layers, and moments, may take; the rest is the runtime's. */
export const STATE_SHARE = 1 / 4;
export const MOMENT_SHARE = 1 / 2;
/** Tokens drawn from the model's distribution are the same in every run. */
const SEED = 1;

/** What `calibrate` is asked for. */
export interface CalibrateRequest {
  /** Folder of a checkpoint. */
  readonly source: string;
  /** Texts, each as `PATH`, `PATH=WEIGHT` or `default`. */
  readonly sources: readonly string[];
  /** Folder for the statistics. */
  readonly out: string;
  readonly context: number;
  readonly windows?: number | undefined;
  readonly mode: TextMode;
  /** What will be measured on. */
  readonly evaluation?: string | undefined;
  /**
   * `importance`: sums of squares for each column; `moments`: second moments too; `gradients`: those of the gradients
   * besides, which take a way back through the model.
   */
  readonly depth: "importance" | "moments" | "gradients";
  readonly threads: number;
  readonly memory: number;
}

/** An expert that saw few tokens. */
export interface StarvedExpert {
  readonly layer: number;
  readonly expert: number;
  readonly tokens: number;
}

export interface CalibrateReport {
  readonly kind: "calibration";
  readonly checkpoint: string;
  readonly out: string;
  readonly depth: CalibrateRequest["depth"];
  readonly text: Omit<CalibrationText, "windows" | "warnings"> & {
    readonly windows: number;
    readonly tokens: number;
  };
  readonly warnings: readonly string[];
  /** Importance matrix in the format of llama-imatrix. */
  readonly imatrix: string;
  readonly tensors: number;
  /** Experts of layers that saw less than a tenth of what their layer's experts saw on average. */
  readonly starved: readonly StarvedExpert[];
  /** Of this run; steps that were there already cost nothing. */
  readonly seconds: number;
}

/** Seconds that are left, on the mean pace of the steps so far; the steps of a model are nearly alike. */
class Ahead {
  readonly #reporter: Reporter;
  readonly #started = performance.now();
  #first: number | undefined;

  constructor(reporter: Reporter) {
    this.#reporter = reporter;
  }

  report({ index, steps, tokens, total }: WalkProgress): void {
    this.#first ??= index;
    const done = index - this.#first + (total > 0 ? tokens / total : 1);
    const seconds = (performance.now() - this.#started) / 1000;
    const left = done > 0 ? (seconds / done) * (steps - this.#first - done) : null;
    const rate = done > 0 ? done / seconds : 0;
    this.#reporter.progress({
      done: index + (total > 0 ? tokens / total : 1),
      total: steps,
      unit: "steps",
      pace: { rate, left },
    });
  }
}

/**
 * Runs text through a checkpoint and keeps what its matrices read, in a folder: an importance matrix, and as much as
 * was asked for of what rounding with feedback and allocation want. A run that was stopped goes on behind the last
 * step that is whole.
 *
 * @throws PipelineError `no-source`; TextError, StatisticsError, EngineError and OutputError
 */
export async function calibrate(
  request: CalibrateRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<CalibrateReport> {
  const started = performance.now();
  const source = await openCheckpointFolder(request.source);
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  const { sources, context, windows, mode, evaluation, threads } = request;
  const text = await checkpointCalibration(request.source, {
    sources: sources.map((spec) => parseSource(spec)),
    context,
    windows,
    mode,
    evaluation,
    threads,
  });
  for (const warning of text.warnings) reporter.warn(warning);
  const shards = source.checkpoint.shards.map(({ path }) => path);
  const checkpoint = await hashFiles("hash of the checkpoint", shards, reporter, signal);
  const engine = await startOnnxEngine();
  try {
    const parts = await checkpointParts(source);
    const run = { request, source, parts, text, checkpoint, engine, reporter, signal };
    const inputs = await walkInputs(run);
    if (request.depth === "gradients") await walkGradients(run);
    await writeWindows(request.out, text);
    const { entries, starved } = await summarize(source, inputs);
    const { imatrix } = statisticsFolders(request.out);
    const { writeImatrix } = await import("../../formats/imatrix/write.js");
    const matrix = {
      datasets: text.sources.map(({ name }) => name),
      chunks: text.windows.length,
      chunkTokens: context,
      entries,
    };
    await writeImatrix(imatrix, matrix, { overwrite: true });
    const report: CalibrateReport = {
      kind: "calibration",
      checkpoint: source.name,
      out: request.out,
      depth: request.depth,
      text: {
        context: text.context,
        sources: text.sources,
        scripts: text.scripts,
        hash: text.hash,
        mode: text.mode,
        windows: text.windows.length,
        tokens: countTokens(text),
      },
      warnings: text.warnings,
      imatrix,
      tensors: entries.length,
      starved,
      seconds: (performance.now() - started) / 1000,
    };
    const { seconds: _seconds, ...kept } = report;
    await writeFileAtomic(join(request.out, SUMMARY), `${JSON.stringify(kept, null, 2)}\n`);
    return report;
  } finally {
    await engine.close();
  }
}

function countTokens({ windows }: CalibrationText): number {
  return windows.reduce((sum, { tokens }) => sum + tokens.length, 0);
}

/** Keeps the windows one after the other, as 32-bit token ids: the sequential order of rounding runs them again. */
async function writeWindows(folder: string, { windows, context }: CalibrationText): Promise<void> {
  const all = new Int32Array(windows.length * context);
  for (const [index, { tokens }] of windows.entries()) all.set(tokens, index * context);
  await writeFileAtomic(statisticsFolders(folder).windows, new Uint8Array(all.buffer));
}

/** What both ways through the model need. */
interface Run {
  readonly request: CalibrateRequest;
  readonly source: CheckpointSource;
  readonly parts: CheckpointParts;
  readonly text: CalibrationText;
  readonly checkpoint: readonly HashedFile[];
  readonly engine: OnnxEngine;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

function headerOf({ checkpoint, text }: Run, steps: number, method: StatisticsHeader["method"]) {
  return {
    checkpoint: checkpoint.map(({ file, bytes, sha256 }) => ({ file, bytes, sha256 })),
    text: { sha256: text.hash, windows: text.windows.length, tokens: countTokens(text) },
    method: { ...method, context: text.context, mode: text.mode },
    steps,
  };
}

async function walkInputs(run: Run): Promise<StatisticsStore> {
  const { request, parts, text, engine, reporter, signal } = run;
  const { makeStore } = await import("../../calibration/statistics/store.js");
  const { walkLayers } = await import("../../calibration/statistics/walk.js");
  const moments = request.depth !== "importance";
  const header = headerOf(run, parts.config.layers.length + 2, { order: "parallel", moments });
  const store = await makeStore(statisticsFolders(request.out).inputs, header);
  if (store.complete) return store;
  reporter.start("statistics of inputs");
  const ahead = new Ahead(reporter);
  for await (const step of walkLayers({
    engine,
    checkpoint: parts,
    windows: text.windows.map(({ tokens }) => tokens),
    threads: request.threads,
    order: "parallel",
    moments: moments ? { memory: request.memory * MOMENT_SHARE } : null,
    scratch: await store.scratch(),
    stateMemory: request.memory * STATE_SHARE,
    resumable: true,
    done: store.done.length,
    signal,
    onProgress: (progress) => ahead.report(progress),
  })) {
    if (step.index >= store.done.length) await store.append(step);
  }
  reporter.finish(`${store.done.length} steps, ${countTokens(text)} tokens`);
  return store;
}

async function walkGradients(run: Run): Promise<void> {
  const { request, parts, text, engine, reporter, signal } = run;
  const { makeStore } = await import("../../calibration/statistics/store.js");
  const { walkBack } = await import("../../calibration/statistics/curvature.js");
  const header = headerOf(run, parts.config.layers.length + 1, { labels: "drawn", seed: SEED });
  const store = await makeStore(statisticsFolders(request.out).gradients, header);
  if (store.complete) return;
  reporter.start("statistics of gradients");
  const ahead = new Ahead(reporter);
  await withScratch(async (scratch) => {
    for await (const step of walkBack({
      engine,
      checkpoint: parts,
      windows: text.windows.map(({ tokens }) => tokens),
      threads: request.threads,
      labels: "drawn",
      seed: SEED,
      moments: { memory: request.memory * MOMENT_SHARE },
      logitMemory: request.memory * STATE_SHARE,
      scratch,
      stateMemory: request.memory * STATE_SHARE,
      signal,
      onProgress: (progress) => ahead.report(progress),
    })) {
      await store.append(step);
    }
  });
  reporter.finish(`${store.done.length} steps`);
}

/** Entries of the importance matrix, and the experts that saw too little. */
async function summarize(
  { bound }: CheckpointSource,
  store: StatisticsStore,
): Promise<{ entries: SummedEntry[]; starved: StarvedExpert[] }> {
  const names = new Map(bound.weights.map(({ weight }) => [weight.name, weight.gguf]));
  const entries: SummedEntry[] = [];
  const starved: StarvedExpert[] = [];
  for (let index = 0; index < store.done.length; index++) {
    const step = await store.read(index);
    for (const statistics of step.statistics) {
      for (const weight of statistics.weights) {
        const name = names.get(weight);
        if (name !== undefined) entries.push(entryOf(name, statistics));
      }
    }
    starved.push(...starvedOf(step));
  }
  return { entries, starved };
}

function entryOf(
  name: string,
  { columns, tokens, sumSquares, experts }: StepStatistics["statistics"][number],
) {
  return experts === null
    ? { name, columns, sums: sumSquares, counts: Float32Array.of(tokens) }
    : { name, columns, sums: experts.sumSquares, counts: Float32Array.from(experts.tokens) };
}

/** An expert with less than this share of the mean of its layer says little. */
const STARVED_SHARE = 0.1;

function starvedOf({ layer, statistics }: StepStatistics): StarvedExpert[] {
  const experts = statistics.find((each) => each.experts !== null)?.experts;
  if (experts == null || layer === null) return [];
  const mean = experts.tokens.reduce((sum, value) => sum + value, 0) / experts.tokens.length;
  return [...experts.tokens].flatMap((tokens, expert) =>
    tokens < STARVED_SHARE * mean ? [{ layer, expert, tokens }] : [],
  );
}
