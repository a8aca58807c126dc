import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import { BackwardWalk } from "./backward.js";
import { StatisticsError } from "./errors.js";
import { rowsName } from "./gradient-probe.js";
import type { MomentOptions, WalkProgress } from "./options.js";
import type { InputStatistics, Moments, StepStatistics } from "./types.js";

export interface CurvatureOptions {
  readonly engine: OnnxEngine;
  readonly checkpoint: CheckpointParts;
  /** Token ids, two or more each; those of one length one after the other run together. */
  readonly windows: readonly Int32Array[];
  readonly threads: number;
  /**
   * What the gradients are of: −log p of tokens that are drawn from the model's own distribution at each position,
   * whose second moments are the curvature of the KL divergence; or of those that the text goes on with.
   */
  readonly labels: "drawn" | "text";
  /** A whole number from 0 to 2^32 − 1: the same tokens are drawn for the same one. */
  readonly seed: number;
  /** Second moments of gradients and inputs; null for their diagonals alone. */
  readonly moments: MomentOptions | null;
  /** Bytes for all that is of the size of logits: they are made of so many tokens at once as fit. */
  readonly logitMemory: number;
  /** An existing folder for states; what is put there is removed in the end. */
  readonly scratch: string;
  /** Bytes of states that are held in memory; beyond that they go to the scratch folder. */
  readonly stateMemory: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: WalkProgress) => void;
}

/**
 * Runs text through a checkpoint and goes back through it with the gradients of Σ −log p(token), step by step: the
 * output matrix first, then the layers from the last to the first. All positions count but the last of each window.
 *
 * Of each matrix, whose product y = W · x has the gradient g at a position, a step has the statistics of two kinds of
 * rows, under the names of `rowsName`: of g, and of |g| · x. See `curvatureOf` for what they are good for. Of the output
 * matrix there are no moments of g: they would be as large as the vocabulary, squared.
 *
 * @throws StatisticsError, EngineError with the runtime's own reason, OutputError for the scratch folder, and the
 *   signal's reason
 */
export async function* walkBack(options: CurvatureOptions): AsyncGenerator<StepStatistics, void> {
  const walk = new BackwardWalk(options);
  try {
    await walk.forward();
    for (let index = 0; index < walk.steps; index++) yield await walk.back(index);
  } finally {
    await walk.end();
  }
}

/**
 * The curvature of the KL divergence along a matrix W, [out, in], as the product of two factors: rounding it to W + E
 * costs about ½ tr(G · E · H · Eᵀ) nats per token, on the mean over the positions that were looked at. That is its
 * second-order estimate with the Fisher information for the Hessian, which it is where labels are drawn, and with the
 * expectation of g·gᵀ ⊗ x·xᵀ taken factor by factor (Martens and Grosse, "Optimizing Neural Networks with
 * Kronecker-factored Approximate Curvature", 2015). Positions count in H by the squares of their gradients, so that
 * tr(G) · H is exact.
 */
export interface Curvature {
  /** Which rows of the matrix it is of, from the first; all that `gradientSquares` has values for. */
  readonly firstRow: number;
  /** G: Σ g·gᵀ over all positions divided by their number; null where moments were not asked for. */
  readonly gradients: Moments | null;
  /** Its diagonal, [out]. */
  readonly gradientSquares: Float64Array;
  /** H: Σ |g|²·x·xᵀ / Σ |g|²; null where moments were not asked for. */
  readonly inputs: Moments | null;
  /** Its diagonal, [in]. */
  readonly inputSquares: Float64Array;
}

/**
 * The curvature along a matrix from what a step of `walkBack` has of it; undefined where it has nothing. Of the
 * projection of per-layer embeddings each layer has its own rows.
 *
 * @param weight name of the matrix without the prefix
 * @throws StatisticsError `no-gradients` when all gradients are zero
 */
export function curvatureOf(step: StepStatistics, weight: string): Curvature | undefined {
  const find = (kind: "gradients" | "inputs"): InputStatistics | undefined => {
    const name = rowsName(kind, { weight });
    return step.statistics.find(({ input }) => input === name || input.startsWith(`${name}:`));
  };
  const [gradients, inputs] = [find("gradients"), find("inputs")];
  if (gradients === undefined || inputs === undefined) return undefined;
  const total = gradients.sumSquares.reduce((sum, value) => sum + value, 0);
  if (!(total > 0)) {
    throw new StatisticsError("no-gradients", `all gradients of ${weight} are zero on this text`);
  }
  const firstRow = Number(gradients.input.slice(rowsName("gradients", { weight }).length + 1));
  return {
    firstRow,
    gradients: scaled(gradients, total / gradients.tokens),
    gradientSquares: gradients.sumSquares.map((value) => value / gradients.tokens),
    inputs: scaled(inputs, sumOf(inputs.sumSquares) / total),
    inputSquares: inputs.sumSquares.map((value) => value / total),
  };
}

function sumOf(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** Moments with a given trace: where only some rows were looked at, they stand for all. */
function scaled({ moments }: InputStatistics, trace: number): Moments | null {
  if (moments === null) return null;
  const { columns, values } = moments;
  let own = 0;
  for (let column = 0; column < columns; column++) {
    const { start, width, place } = blockAt(moments, column);
    own += values[start + place * (width + 1)]!;
  }
  const factor = own > 0 ? trace / own : 0;
  return { ...moments, values: values.map((value) => value * factor) };
}

/** The block on the diagonal that a column is in: where its values start, how wide it is, and the column's place in it. */
function blockAt({ columns, blockWidth }: Moments, column: number) {
  const first = column - (column % blockWidth);
  return { start: first * blockWidth, width: Math.min(blockWidth, columns - first), place: column - first };
}

/**
 * ½ tr(G · E · H · Eᵀ), in nats per token; of blocks on a diagonal where G or H is nothing but those, and of the
 * diagonal alone where there are no moments. Takes out · in · (in + out) steps.
 *
 * @param error E, [out, in], row by row: those rows that the curvature is of
 */
export function estimateDivergence(curvature: Curvature, error: Float32Array): number {
  const { gradients, gradientSquares, inputs, inputSquares } = curvature;
  const [out, columns] = [gradientSquares.length, inputSquares.length];
  if (error.length !== out * columns) {
    throw new RangeError(`there are ${error.length} errors, expected ${out} rows of ${columns}`);
  }
  const right = multiplied(error, columns, inputs, inputSquares);
  const left = multiplied(transposed(error, columns), out, gradients, gradientSquares);
  let sum = 0;
  for (let row = 0; row < out; row++) {
    for (let column = 0; column < columns; column++) {
      sum += right[row * columns + column]! * left[column * out + row]!;
    }
  }
  return sum / 2;
}

function transposed(values: Float32Array, columns: number): Float32Array {
  const rows = values.length / columns;
  const result = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result[column * rows + row] = values[row * columns + column]!;
    }
  }
  return result;
}

/** Σ a[j] · b[start + j]. Four sums side by side take a third of the time of one, which waits for its last addition. */
function dot(a: Float32Array, b: Float32Array, start: number): number {
  const fours = a.length - (a.length % 4);
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let j = 0; j < fours; j += 4) {
    s0 += a[j]! * b[start + j]!;
    s1 += a[j + 1]! * b[start + j + 1]!;
    s2 += a[j + 2]! * b[start + j + 2]!;
    s3 += a[j + 3]! * b[start + j + 3]!;
  }
  for (let j = fours; j < a.length; j++) s0 += a[j]! * b[start + j]!;
  return s0 + s1 + s2 + s3;
}

/** E · M for a symmetric M, in its blocks or by its diagonal: [rows, columns] each. */
function multiplied(
  error: Float32Array,
  columns: number,
  moments: Moments | null,
  diagonal: Float64Array,
): Float64Array {
  const result = new Float64Array(error.length);
  if (moments === null) {
    for (let at = 0; at < error.length; at++) result[at] = error[at]! * diagonal[at % columns]!;
    return result;
  }
  for (let column = 0; column < columns; column++) {
    const { start, width, place } = blockAt(moments, column);
    const own = moments.values.subarray(start + place * width, start + (place + 1) * width);
    for (let at = column; at < error.length; at += columns) {
      result[at] = dot(own, error, at - place);
    }
  }
  return result;
}
