import type { TensorValue } from "../../src/engines/onnx/types.js";
import { StatisticsError } from "./errors.js";
import type { MatrixInput } from "./inputs.js";
import { type MomentPlan, MomentSum, type Piece, piecesOf } from "./moments.js";
import { outputOf } from "./probe.js";
import type { ExpertStatistics, InputStatistics } from "./types.js";

/** Outputs of a run by name. */
export type Fetched = Readonly<Record<string, TensorValue>>;

function floatsOf(fetched: Fetched, name: string): Float32Array {
  const value = fetched[name];
  if (value?.type !== "float32") throw new RangeError(`the run gave no floats under ${name}`);
  return value.data;
}

function integersOf(fetched: Fetched, name: string): BigInt64Array {
  const value = fetched[name];
  if (value?.type !== "int64") throw new RangeError(`the run gave no integers under ${name}`);
  return value.data;
}

/** sum[at + i] += each row of `values`, in double precision. */
function addRows(sum: Float64Array, columns: number, values: Float32Array, at = 0): void {
  for (let row = 0; row < values.length; row += columns) {
    for (let column = 0; column < columns; column++) sum[at + column]! += values[row + column]!;
  }
}

/** The sums of one input over all batches. */
export class InputSums {
  readonly input: MatrixInput;
  readonly #plan: MomentPlan | undefined;
  readonly #pieces: readonly Piece[];
  readonly #crossPieces: readonly Piece[];
  /** One, or one an expert. */
  readonly #moments: readonly MomentSum[];
  readonly #cross: MomentSum | null;
  readonly #sum: Float64Array;
  readonly #squares: Float64Array;
  readonly #tokens: Float64Array;

  /** @param cross whether moments between two models are summed as well */
  constructor(input: MatrixInput, plan: MomentPlan | undefined, cross: boolean) {
    this.input = input;
    this.#plan = plan;
    const rows = Math.max(1, input.experts);
    this.#sum = new Float64Array(rows * input.columns);
    this.#squares = new Float64Array(rows * input.columns);
    this.#tokens = new Float64Array(rows);
    this.#pieces = plan === undefined ? [] : piecesOf(plan, true);
    this.#crossPieces = plan === undefined ? [] : piecesOf(plan, false);
    this.#moments = plan === undefined ? [] : Array.from({ length: rows }, () => new MomentSum(plan));
    this.#cross = cross && plan !== undefined && input.experts === 0 ? new MomentSum(plan) : null;
  }

  /** Outputs that `add` looks for. */
  get outputs(): string[] {
    const { name, experts } = this.input;
    return [
      outputOf.sum(name),
      outputOf.squares(name),
      ...(experts === 0 ? [] : [outputOf.count(name)]),
      ...this.#pieces.map((_, index) => outputOf.moments(name, index)),
    ];
  }

  /** Outputs that `addCross` looks for. */
  get crossOutputs(): string[] {
    if (this.#cross === null) return [];
    return this.#crossPieces.map((_, index) => outputOf.moments(this.input.name, index));
  }

  /**
   * Adds what a batch gave.
   *
   * @param tokens of the batch
   * @param inUse name of the list of experts in use
   */
  add(fetched: Fetched, tokens: number, inUse: string): void {
    const { name, columns, experts } = this.input;
    const [sum, squares] = [outputOf.sum(name), outputOf.squares(name)].map((each) =>
      floatsOf(fetched, each),
    ) as [Float32Array, Float32Array];
    if (experts > 0) {
      this.#addExperts(fetched, inUse, sum, squares);
      return;
    }
    addRows(this.#sum, columns, sum);
    addRows(this.#squares, columns, squares);
    this.#tokens[0]! += tokens;
    const [moments] = this.#moments;
    if (moments === undefined) return;
    for (const [index, piece] of this.#pieces.entries()) {
      moments.add(piece, floatsOf(fetched, outputOf.moments(name, index)));
    }
    moments.count(this.#rowsOf(tokens));
  }

  /** Adds the moments between both models of a batch. */
  addCross(fetched: Fetched, tokens: number): void {
    if (this.#cross === null) return;
    for (const [index, piece] of this.#crossPieces.entries()) {
      this.#cross.add(piece, floatsOf(fetched, outputOf.moments(this.input.name, index)));
    }
    this.#cross.count(this.#rowsOf(tokens));
  }

  #rowsOf(tokens: number): number {
    return Math.ceil(tokens / (this.#plan?.stride ?? 1));
  }

  #addExperts(fetched: Fetched, inUse: string, sum: Float32Array, squares: Float32Array): void {
    const { name, columns } = this.input;
    const counts = integersOf(fetched, outputOf.count(name));
    for (const [turn, id] of integersOf(fetched, inUse).entries()) {
      const expert = Number(id);
      const own = [turn * columns, (turn + 1) * columns] as const;
      addRows(this.#sum, columns, sum.subarray(...own), expert * columns);
      addRows(this.#squares, columns, squares.subarray(...own), expert * columns);
      this.#tokens[expert]! += Number(counts[turn]);
      const moments = this.#moments[expert];
      if (moments === undefined) continue;
      for (const [index, piece] of this.#pieces.entries()) {
        const size = piece.rows * piece.columns;
        const values = floatsOf(fetched, outputOf.moments(name, index));
        moments.add(piece, values.subarray(turn * size, (turn + 1) * size));
      }
      moments.count(Number(counts[turn]));
    }
  }

  /**
   * What all batches gave together.
   *
   * @throws StatisticsError `not-finite`
   */
  finish(): InputStatistics {
    const { name, weights, columns, experts } = this.input;
    const bad = [this.#sum, this.#squares].some((values) => !values.every((value) => Number.isFinite(value)));
    if (bad) {
      throw new StatisticsError("not-finite", `what ${weights[0]!.name} reads is not finite on this text`, {
        advice: "The checkpoint is damaged: fetch it anew.",
      });
    }
    const moments = this.#moments.map((each) => each.finish(true));
    const common = { input: name, weights: weights.map((weight) => weight.name), columns };
    const tokens = this.#tokens.reduce((sum, each) => sum + each, 0);
    if (experts === 0) {
      const cross = this.#cross?.finish(false) ?? null;
      const [sum, sumSquares] = [this.#sum, this.#squares];
      return { ...common, tokens, sum, sumSquares, moments: moments[0] ?? null, cross, experts: null };
    }
    const own: ExpertStatistics = {
      tokens: this.#tokens,
      sum: this.#sum,
      sumSquares: this.#squares,
      moments: this.#plan === undefined ? null : moments,
    };
    return {
      ...common,
      tokens,
      sum: overExperts(this.#sum, columns),
      sumSquares: overExperts(this.#squares, columns),
      moments: null,
      cross: null,
      experts: own,
    };
  }
}

function overExperts(values: Float64Array, columns: number): Float64Array {
  const sum = new Float64Array(columns);
  for (const [index, value] of values.entries()) sum[index % columns]! += value;
  return sum;
}
