import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { createAtomicFile } from "../../src/base/atomic-file.js";
import type { BoundWeight } from "../../src/gemma4/bind.js";
import { HEAD_NAME } from "../../src/gemma4/weights.js";
import { FeedbackKernels } from "../../src/blocks/kernels/feedback-kernels.js";
import { type TargetType, targetName } from "../../src/pool/tiles.js";
import type { StatisticsHeader, StatisticsStore } from "../statistics/store.js";
import type { InputStatistics, Moments, StepStatistics } from "../statistics/types.js";
import type { LayerStep, Replacement } from "../statistics/walk.js";
import { Crew } from "./crew.js";
import { RoundingError } from "./errors.js";
import { divideMatrix } from "./memory.js";
import { inputMetric, scaledMoments, traceOf } from "./metric.js";
import { type ColumnForm, factorMetric, type RoundedMatrix, roundMatrix } from "./round-matrix.js";
import { outputBytes } from "./round-rows.js";
import type { MatrixSource } from "./source.js";
import type { RoundingStore } from "./store.js";
import type { Effort } from "./types.js";

/** An expert that fewer tokens were routed to is rounded by what all experts of its layer have read. */
const MIN_EXPERT_TOKENS = 64;

/** Rows of a replaced matrix that are decoded at once. */
const DECODED_ROWS = 256;

/** A tensor to be rounded. */
export interface RoundingRequest {
  /** Name in the checkpoint without the prefix. A table that is the output matrix as well is rounded as that. */
  readonly tensor: string;
  readonly target: TargetType;
  readonly effort: Effort;
}

/** What gradients say of a matrix; see `curvatureOf` for the units. */
export interface MatrixCurvature {
  /** G; null where it is not known. */
  readonly gradients: Moments | null;
  /** Second moments of the inputs, weighted by each token's gradient; null where they are not known. */
  readonly inputs: Moments | null;
}

/** What the values of a tensor are multiplied by before they are rounded: powers of two. */
export interface TensorScales {
  readonly columns?: Float32Array<SharedArrayBuffer> | undefined;
  readonly rows?: Float32Array<SharedArrayBuffer> | undefined;
}

export interface RoundingProgress {
  readonly tensor: string;
  /** Tensors that are done, of `total`; those of an earlier run included. */
  readonly done: number;
  readonly total: number;
  /** Values of tensors that are done, of `totalValues`. */
  readonly values: number;
  readonly totalValues: number;
}

export interface RoundingOptions {
  /**
   * Statistics of the inputs: of a folder, or a walk. In the sequential order the latter gets what was rounded in
   * return, so that the next steps read what the rounded layers give.
   */
  readonly steps: AsyncIterable<StepStatistics | LayerStep>;
  /** From `bindCheckpoint`. */
  readonly weights: readonly BoundWeight[];
  readonly shards: readonly { readonly path: string }[];
  /** Whether steps get what was rounded in return. */
  readonly order: "parallel" | "sequential";
  readonly requests: readonly RoundingRequest[];
  readonly store: RoundingStore;
  readonly threads: number;
  /** Bytes, without what the walk needs. */
  readonly memory: number;
  /** An existing folder for rounded weights on their way to a walk. */
  readonly scratch: string;
  readonly curvature?: ((tensor: string) => Promise<MatrixCurvature | undefined>) | undefined;
  readonly scales?: ((tensor: string) => TensorScales | undefined) | undefined;
  /** Part of the mean of the inputs' moments that is added to their diagonal. */
  readonly damping?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RoundingProgress) => void) | undefined;
}

/** The steps of statistics in a folder, one at a time in memory. */
export async function* storedSteps(store: StatisticsStore): AsyncGenerator<StepStatistics, void> {
  for (let index = 0; index < store.header.steps; index++) yield await store.read(index);
}

/** What statistics are of, as one hash. */
export function statisticsIdentity({ checkpoint, text, method, steps }: StatisticsHeader): string {
  const files = checkpoint.map(({ file, sha256 }) => [file, sha256]);
  const settings = Object.entries(method).toSorted(([a], [b]) => (a < b ? -1 : 1));
  const parts = ["lapidary-statistics", 1, files, [text.sha256, text.windows, text.tokens], settings, steps];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

/**
 * Rounds tensors with feedback into a store, input by input. Tensors that are in the store already are left as they
 * are.
 *
 * @throws RoundingError `unknown-weight`, `no-feedback` and `no-moments` for a tensor that cannot be rounded like that,
 *   `memory-too-small`, `non-finite`, `input-truncated`, `rounding-damaged`; EngineError, OutputError; the signal's
 *   reason after an abort
 */
export async function roundTensors(options: RoundingOptions): Promise<void> {
  options.signal?.throwIfAborted();
  const run = new Run(options, await Crew.start({ threads: options.threads }));
  const abort = (): void => void run.crew.close(options.signal?.reason);
  options.signal?.addEventListener("abort", abort, { once: true });
  try {
    for await (const step of options.steps) {
      options.signal?.throwIfAborted();
      await run.step(step);
    }
    run.checkAll();
  } finally {
    options.signal?.removeEventListener("abort", abort);
    await run.end();
  }
}

/** A matrix of a tensor: the tensor itself, or one of its stack. */
interface Matrix {
  readonly source: MatrixSource;
  readonly moments: Moments;
}

class Run {
  readonly crew: Crew;
  readonly #options: RoundingOptions;
  /** By name of the weight that reads the input. */
  readonly #open: Map<string, RoundingRequest[]>;
  readonly #weights: ReadonlyMap<string, BoundWeight>;
  readonly #totalValues: number;
  #done = 0;
  #values = 0;
  /** Files that the walk may still read. */
  #files: string[] = [];

  constructor(options: RoundingOptions, crew: Crew) {
    this.#options = options;
    this.crew = crew;
    this.#weights = new Map(options.weights.map((bound) => [bound.weight.name, bound]));
    const tied = !this.#weights.has(HEAD_NAME);
    this.#open = new Map();
    let total = 0;
    for (const request of options.requests) {
      const { weight } = this.#boundOf(request.tensor);
      checkTarget(request);
      const isHead = tied && weight.role === "embedding";
      const name = isHead ? HEAD_NAME : request.tensor;
      this.#open.set(name, [...(this.#open.get(name) ?? []), request]);
      total += weight.shape.reduce((product, size) => product * size, 1);
    }
    this.#totalValues = total;
  }

  #boundOf(tensor: string): BoundWeight {
    const found = this.#weights.get(tensor);
    if (found !== undefined) return found;
    throw new RoundingError("unknown-weight", `${tensor} is to be rounded, but is no weight of the model.`);
  }

  async step(step: StepStatistics | LayerStep): Promise<void> {
    await this.#forgetFiles();
    const replaced = new Map<string, Replacement>();
    const bytes = momentBytes(step);
    for (const input of step.statistics) {
      const requests = input.weights.flatMap((name) => this.#open.get(name) ?? []);
      const open = requests.filter((request) => this.#options.store.find(request) === undefined);
      await this.#roundInput(input, open, this.#options.memory - bytes);
      for (const request of requests) this.#note(request);
      for (const name of input.weights) this.#open.delete(name);
      if (this.#options.order === "sequential" && step.kind === "layer") {
        for (const request of requests) replaced.set(request.tensor, await this.#decoded(request));
      }
    }
    if ("replace" in step && replaced.size > 0) step.replace(replaced);
  }

  /** @throws RoundingError where a tensor was not rounded because nothing is known of what it reads */
  checkAll(): void {
    const [requests] = this.#open.values();
    if (requests === undefined) return;
    throw new RoundingError(
      "no-moments",
      `${requests[0]!.tensor} is to be rounded with feedback, but the statistics have nothing of what it reads.`,
      { exitCode: 2, advice: "Round it by search." },
    );
  }

  async end(): Promise<void> {
    await this.crew.close();
    await this.#forgetFiles();
  }

  async #forgetFiles(): Promise<void> {
    for (const path of this.#files.splice(0)) await rm(path, { force: true });
  }

  #note({ tensor }: RoundingRequest): void {
    this.#done++;
    this.#values += this.#boundOf(tensor).weight.shape.reduce((product, size) => product * size, 1);
    this.#options.onProgress?.({
      tensor,
      done: this.#done,
      total: this.#options.requests.length,
      values: this.#values,
      totalValues: this.#totalValues,
    });
  }

  /** Rounds matrices that read the same. */
  async #roundInput(
    input: InputStatistics,
    requests: readonly RoundingRequest[],
    memory: number,
  ): Promise<void> {
    const { threads } = this.crew;
    const { moments } = input;
    const byCurvature = this.#options.curvature !== undefined;
    const sizes = requests.map((request) => byteLengthOf(request, this.#boundOf(request.tensor)));
    const all = sizes.reduce((sum, size) => sum + size, 0);
    // Side by side where they share a form and there is memory for all threads at once.
    const together =
      moments !== null &&
      !byCurvature &&
      requests.every(({ tensor }) => {
        const { rows, columns } = this.#sourceOf(tensor, 0);
        const shape = { rows, columns, blockWidth: moments.blockWidth, byteLength: all };
        return divideMatrix(tensor, shape, { memory, threads }).threads === threads;
      });
    if (!together) {
      for (const request of requests) await this.#roundTensor(input, request, undefined, memory);
      return;
    }
    if (requests.length === 0) return;
    const own = scaledMoments(moments, this.#options.scales?.(requests[0]!.tensor)?.columns);
    const form = await factorMetric(this.crew, inputMetric(own, null), this.#options.damping);
    await Promise.all(
      requests.map((request, index) => this.#roundTensor(input, request, form, memory - all + sizes[index]!)),
    );
  }

  /** Rounds a tensor and puts it into the store. */
  async #roundTensor(
    input: InputStatistics,
    request: RoundingRequest,
    form: ColumnForm | undefined,
    memory: number,
  ): Promise<void> {
    const { tensor, target, effort } = request;
    const matrices = this.#matricesOf(input, tensor);
    const [{ source: first }] = matrices as [Matrix];
    const { rows, columns } = first;
    const all = matrices.length * rows;
    const pieces = outputBytes(target, columns, rows);
    const stacked = matrices.length > 1 ? pieces.map((bytes) => new Uint8Array(bytes * matrices.length)) : [];
    const known = matrices.length > 1 ? undefined : await this.#options.curvature?.(tensor);
    const fits = known?.gradients?.columns === rows;
    const scales = this.#options.scales?.(tensor);
    const gradients = fits && known?.gradients ? scaledMoments(known.gradients, scales?.rows) : null;
    const weighted = fits && known?.inputs ? scaledMoments(known.inputs, scales?.columns) : null;
    const used = memory - stacked.reduce((sum, { length }) => sum + length, 0);
    let loss = 0;
    let result: RoundedMatrix | undefined;
    let damping = { columns: 0, rows: null as number | null };
    for (const [index, { source, moments }] of matrices.entries()) {
      this.#options.signal?.throwIfAborted();
      const own =
        form ?? (await factorMetric(this.crew, inputMetric(moments, weighted), this.#options.damping));
      result = await roundMatrix(this.crew, { source, target, effort, form: own, gradients, memory: used });
      loss += (result.loss * traceOf(moments)) / (Math.max(1, moments.tokens) * columns);
      damping = { ...result.damping, columns: Math.max(damping.columns, result.damping.columns) };
      for (const [piece, output] of stacked.entries())
        output.set(result.outputs[piece]!, index * pieces[piece]!);
    }
    const divergence =
      gradients === null || weighted === null
        ? null
        : 0.5 * result!.loss * (traceOf(gradients) / rows) * (traceOf(weighted) / columns);
    await this.#options.store.put(
      {
        tensor,
        target,
        method: "gptq",
        effort,
        rows: all,
        columns,
        damping,
        groupRows: result!.groupRows,
        loss,
        divergence,
      },
      matrices.length > 1 ? stacked : result!.outputs,
    );
  }

  /** The matrices of a tensor with what they read. */
  #matricesOf({ input, moments, experts }: InputStatistics, tensor: string): Matrix[] {
    const missing = new RoundingError(
      "no-moments",
      `${tensor} is to be rounded with feedback, but the statistics have no second moments of ${input}.`,
      { exitCode: 2, advice: "Calibrate with moments, or round it by search." },
    );
    if (experts === null) {
      if (moments === null) throw missing;
      const { columns } = this.#options.scales?.(tensor) ?? {};
      return [{ source: this.#sourceOf(tensor, 0), moments: scaledMoments(moments, columns) }];
    }
    if (experts.moments === null) throw missing;
    let all: Moments | undefined;
    return experts.moments.map((own, index) => {
      const starved = experts.tokens[index]! < MIN_EXPERT_TOKENS;
      if (starved) all ??= sumOf(experts.moments!);
      const factors = this.#options.scales?.(tensor)?.columns;
      const mine = factors?.subarray(index * own.columns, (index + 1) * own.columns);
      return { source: this.#sourceOf(tensor, index), moments: scaledMoments(starved ? all! : own, mine) };
    });
  }

  /** A matrix of a tensor in its shard. */
  #sourceOf(tensor: string, index: number): MatrixSource {
    const { weight, entry } = this.#boundOf(tensor);
    const [rows = 1, columns = 1] = weight.shape.slice(-2);
    const type = entry.dtype as MatrixSource["type"];
    const scales = this.#options.scales?.(tensor);
    return {
      name: entry.name,
      path: this.#options.shards[entry.shard]!.path,
      offset: entry.offset + index * rows * columns * (type === "F32" ? 4 : 2),
      type,
      rows,
      columns,
      columnScales: scales?.columns,
      rowScales: scales?.rows?.subarray(index * rows, (index + 1) * rows),
    };
  }

  /** The values that a reader makes of a rounded tensor, without what they were multiplied with, in a file. */
  async #decoded(request: RoundingRequest): Promise<Replacement> {
    const { store, scratch } = this.#options;
    const { rows, columns } = store.get(request);
    const path = join(scratch, `rounded-${this.#files.length}.f32`);
    const file = await createAtomicFile(path, 4 * rows * columns);
    try {
      for (let first = 0; first < rows; first += DECODED_ROWS) {
        const values = await store.rows(request, first, Math.min(DECODED_ROWS, rows - first));
        undo(values, first, columns, rows, this.#options.scales?.(request.tensor));
        await file.write(new Uint8Array(values.buffer), 4 * first * columns);
      }
    } catch (error) {
      await file.abort();
      throw error;
    }
    await file.commit();
    this.#files.push(path);
    return { path };
  }
}

function checkTarget({ tensor, target }: RoundingRequest): void {
  if (FeedbackKernels.supports(target)) return;
  throw new RoundingError(
    "no-feedback",
    `${tensor} is to be rounded to ${targetName(target)} with feedback, for which there is none.`,
    {
      exitCode: 2,
      advice: "Choose a block type of few bits.",
    },
  );
}

/** Divides rows of a tensor, or of a stack, by what they were multiplied with: exactly, as these are powers of two. */
function undo(
  values: Float32Array,
  first: number,
  columns: number,
  rows: number,
  { columns: byColumn, rows: byRow }: TensorScales = {},
): void {
  if (byColumn === undefined && byRow === undefined) return;
  // A stack has factors of columns for each of its matrices.
  const perMatrix = byColumn === undefined ? rows : (rows * columns) / byColumn.length;
  for (let index = 0; index < values.length; index++) {
    const row = first + Math.floor(index / columns);
    const column = Math.floor(row / perMatrix) * columns + (index % columns);
    values[index]! /= (byColumn?.[column] ?? 1) * (byRow?.[row] ?? 1);
  }
}

function byteLengthOf({ target }: RoundingRequest, { weight }: BoundWeight): number {
  const columns = weight.shape.at(-1) ?? 1;
  const rows = weight.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return outputBytes(target, columns, rows).reduce((sum, bytes) => sum + bytes, 0);
}

/** Bytes of all moments of a step. */
function momentBytes({ statistics }: StepStatistics): number {
  const all = statistics.flatMap(({ moments, cross, experts }) => [
    moments,
    cross,
    ...(experts?.moments ?? []),
  ]);
  return all.reduce((sum, moments) => sum + (moments?.values.byteLength ?? 0), 0);
}

function sumOf(moments: readonly Moments[]): Moments {
  const [first] = moments as [Moments];
  const values = new Float32Array(first.values.length);
  let tokens = 0;
  for (const each of moments) {
    for (let index = 0; index < values.length; index++) values[index]! += each.values[index]!;
    tokens += each.tokens;
  }
  return { ...first, values, tokens };
}
