import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { MatrixCurvature, RoundingRequest, TensorScales } from "../../calibration/rounding/run.js";
import type { RoundingStore } from "../../calibration/rounding/store.js";
import type { Effort } from "../../calibration/rounding/types.js";
import type { StatisticsStore } from "../../calibration/statistics/store.js";
import type { StepStatistics } from "../../calibration/statistics/types.js";
import type { Plan } from "../plan/plan.js";
import { roundable, withRounded } from "../plan/rounded.js";
import { MOMENT_SHARE, STATE_SHARE } from "./calibrate.js";
import { checkpointParts, withScratch } from "./calibrated.js";
import { PipelineError } from "./errors.js";
import { hashFiles } from "./hash.js";
import type { Reporter } from "./progress.js";
import type { CheckpointSource } from "./source.js";
import { statisticsFolders } from "./statistics-folders.js";

/** How tensors are rounded with feedback of errors. */
export interface FeedbackOptions {
  /** Folder that `calibrate` has made, with moments. */
  readonly statistics: string;
  /** 0: feedback alone; 1: scales are fitted again; 2: codes too. */
  readonly effort: Effort;
  /** Each layer is rounded by what the rounded layers before it give, which runs the text once more. */
  readonly sequential: boolean;
}

interface RoundOptions extends FeedbackOptions {
  readonly threads: number;
  readonly memory: number;
}

/** A rounding that is known but not done. */
export interface PreparedRounding {
  /** The plan with the bytes of all tensors that are rounded already. */
  plan(): Plan;
  /** Whether any tensor is still to be rounded. */
  readonly open: boolean;
  /** Rounds what is open. */
  run(reporter: Reporter, signal: AbortSignal): Promise<void>;
}

/**
 * Finds what of a plan is to be rounded with feedback, and what of that an earlier run has left.
 *
 * @throws StatisticsError where the statistics are not whole, or of another checkpoint; RoundingError
 */
export async function prepareRounding(
  source: CheckpointSource,
  plan: Plan,
  options: RoundOptions,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<PreparedRounding> {
  const { openStore } = await import("../../calibration/statistics/store.js");
  const { statisticsIdentity } = await import("../../calibration/rounding/run.js");
  const { makeRoundingStore } = await import("../../calibration/rounding/store.js");
  const shards = source.checkpoint.shards.map(({ path }) => path);
  const hashed = await hashFiles("hash of the checkpoint", shards, reporter, signal);
  const checkpoint = hashed.map(({ file, bytes, sha256 }) => ({ file, bytes, sha256 }));
  const folders = statisticsFolders(options.statistics);
  const inputs = await openStore(folders.inputs, { checkpoint });
  if (!inputs.complete || inputs.header.method["moments"] !== true) {
    throw new PipelineError(
      "no-moments",
      `${options.statistics}: ${inputs.complete ? "has no second moments, which rounding with feedback needs" : "the calibration is not finished"}.`,
      { exitCode: 2, advice: "Run lapidary calibrate with --depth moments or gradients." },
    );
  }
  const gradients = await openStore(folders.gradients, { checkpoint }).catch((error: unknown) => {
    if ((error as { code?: string }).code === "statistics-missing") return undefined;
    throw error;
  });
  const requests = requestsOf(source, plan, options.effort);
  const { sequential, effort } = options;
  const curved = gradients?.complete === true;
  // In the sequential order a tensor's bytes depend on the types of all before it.
  const types = sequential ? requests.map(({ tensor, target }) => `${tensor} ${target as string}`) : [];
  const balance = plan.tensors.flatMap(({ name, factors }) =>
    factors === undefined ? [] : [[name, factors.columns, factors.rows].map((each) => bytesOf(each))],
  );
  const method = {
    balance: hashOf(balance),
    order: sequential ? "sequential" : "parallel",
    effort,
    curved,
    types: hashOf(types),
  };
  const store = await makeRoundingStore(join(options.statistics, "rounded", hashOf(method).slice(0, 16)), {
    checkpoint,
    statistics: statisticsIdentity(inputs.header),
    method,
  });
  const names = new Map(source.bound.weights.map(({ weight }) => [weight.gguf, weight.name]));
  const open = (): RoundingRequest[] => requests.filter((request) => store.find(request) === undefined);
  return {
    get open() {
      return open().length > 0;
    },
    plan: () =>
      withRounded(plan, ({ name, type }) => {
        const tensor = names.get(name);
        const found = tensor === undefined ? undefined : store.find({ tensor, target: type });
        if (tensor === undefined || found === undefined) return undefined;
        return { pieces: store.pieces({ tensor, target: type }), sha256: found.sha256, effort };
      }),
    run: () => round({ source, plan, inputs, gradients, store, requests, options, reporter, signal }),
  };
}

/** Of factors, something that JSON can hold. */
function bytesOf(value: string | Float32Array | undefined): string | null {
  if (typeof value === "string" || value === undefined) return value ?? null;
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64");
}

function hashOf(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}

function requestsOf({ bound }: CheckpointSource, plan: Plan, effort: Effort): RoundingRequest[] {
  const names = new Map(bound.weights.map(({ weight }) => [weight.gguf, weight.name]));
  return roundable(plan).flatMap(({ name, type }) => {
    const tensor = names.get(name);
    return tensor === undefined ? [] : [{ tensor, target: type, effort }];
  });
}

interface Run {
  readonly source: CheckpointSource;
  readonly plan: Plan;
  readonly inputs: StatisticsStore;
  readonly gradients: StatisticsStore | undefined;
  readonly store: RoundingStore;
  readonly requests: readonly RoundingRequest[];
  readonly options: RoundOptions;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

async function round(run: Run): Promise<void> {
  const { source, plan, inputs, gradients, store, requests, options, reporter, signal } = run;
  const { roundTensors, storedSteps } = await import("../../calibration/rounding/run.js");
  reporter.start("rounding with feedback");
  let tensors = 0;
  await withScratch(async (scratch) => {
    const { steps, end } = options.sequential
      ? await walkedSteps(run, scratch)
      : { steps: storedSteps(inputs), end: async () => {} };
    try {
      await roundTensors({
        steps,
        order: options.sequential ? "sequential" : "parallel",
        weights: source.bound.weights,
        shards: source.checkpoint.shards,
        requests,
        store,
        threads: options.threads,
        memory: options.memory,
        scratch,
        scales: scalesOf(source, plan),
        curvature: gradients?.complete === true ? curvatures(gradients) : undefined,
        signal,
        onProgress: ({ done, values, totalValues }) => {
          tensors = done;
          reporter.progress({ done: values, total: totalValues, unit: "values" });
        },
      });
    } finally {
      await end();
    }
  });
  reporter.finish(`${tensors} tensors`);
}

/** What the values of tensors are multiplied with before they are rounded. */
function scalesOf({ bound }: CheckpointSource, { tensors }: Plan) {
  const names = new Map(bound.weights.map(({ weight }) => [weight.gguf, weight.name]));
  const factors = new Map(tensors.map((tensor) => [names.get(tensor.name), tensor.factors]));
  return (tensor: string): TensorScales | undefined => factors.get(tensor);
}

/** Steps of a walk that sees what was rounded before. */
async function walkedSteps({ source, inputs, options, signal }: Run, scratch: string) {
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  const { walkLayers } = await import("../../calibration/statistics/walk.js");
  const windows = await readWindows(options.statistics, inputs);
  const engine = await startOnnxEngine();
  const steps = walkLayers({
    engine,
    checkpoint: await checkpointParts(source),
    windows,
    threads: options.threads,
    order: "sequential",
    moments: { memory: options.memory * MOMENT_SHARE },
    scratch,
    stateMemory: options.memory * STATE_SHARE,
    signal,
  });
  return { steps, end: () => engine.close() };
}

/** The windows that statistics were taken on. */
async function readWindows(folder: string, { header }: StatisticsStore): Promise<Int32Array[]> {
  const { windows: path } = statisticsFolders(folder);
  const { windows, tokens } = header.text;
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw new PipelineError("no-windows", `${path}: cannot be read.`, {
      cause,
      advice: "Run lapidary calibrate again: it keeps what is there.",
    });
  });
  if (bytes.length !== 4 * tokens || tokens % windows !== 0) {
    throw new PipelineError("no-windows", `${path}: has ${bytes.length} bytes, expected ${4 * tokens}.`, {
      advice: "Run lapidary calibrate again: it keeps what is there.",
    });
  }
  const all = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const length = tokens / windows;
  return Array.from({ length: windows }, (_, index) => all.slice(index * length, (index + 1) * length));
}

/** What gradients say of tensors, a step at a time in memory: those of one step are asked for in a row. */
function curvatures(store: StatisticsStore) {
  let held: { readonly index: number; readonly step: StepStatistics } | undefined;
  const places = new Map(
    store.done.flatMap(({ index, inputs }) =>
      inputs.map(({ input }) => [input.split(":", 2).join(":"), index] as const),
    ),
  );
  return async (tensor: string): Promise<MatrixCurvature | undefined> => {
    const { curvatureOf } = await import("../../calibration/statistics/curvature.js");
    const { rowsName } = await import("../../calibration/statistics/gradient-probe.js");
    const index = places.get(rowsName("gradients", { weight: tensor }));
    if (index === undefined) return undefined;
    if (held?.index !== index) held = { index, step: await store.read(index) };
    return curvatureOf(held.step, tensor);
  };
}
