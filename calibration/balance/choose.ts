import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { blockType } from "../../src/blocks/table.js";
import { type Fold, type FoldPart, foldsOf } from "../../src/gemma4/folds.js";
import { energiesOf, errorOf, JUDGED_VALUES, type JudgedMatrix, matrixOf } from "./judge.js";
import { exponentsBy, RULES } from "./rules.js";
import { rowsOf, TensorReader } from "./sample.js";
import type { BalanceRule, BalanceTensor, ChosenFold } from "./types.js";

/**
 * What a fold has to leave of the error to be worth it. Rows that are not in the sample behave a little
 * differently, and a healthy checkpoint should stay as it is.
 */
const WORTH_IT = 0.9;
/** How much more a matrix may lose whose rows are scaled: blocks lie in rows, so more than that is a scale out of range. */
const UNHARMED = 1.02;

export interface BalanceOptions {
  /** Whether the model will compute in halves: then a channel may not come out larger than both sides of the fold are. */
  readonly halves?: boolean;
  readonly signal: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

function isPlain({ target }: BalanceTensor): boolean {
  return target === "F32" || target === "F16" || target === "BF16";
}

/** Whether a tensor is rounded to fewer than 8 bits a value: below that a spread of columns costs. */
function isCoarse(tensor: BalanceTensor): boolean {
  if (isPlain(tensor)) return false;
  const { target } = tensor;
  if (typeof target !== "string") return target.bits < 8;
  const { bytes, values } = blockType(target);
  return (bytes * 8) / values < 8;
}

/** Whether powers of two come out exactly: of halves the small ones do not, of what may not be scaled none. */
function isScalable({ target, fixed }: BalanceTensor): boolean {
  return fixed !== true && target !== "F16";
}

/**
 * For each fold of a model the powers of two with which its matrices lose least when they are rounded to the types
 * that they are planned in, where that is clearly less than without. Nothing is decided by chance: equal tensors
 * get equal exponents.
 *
 * Inputs are taken from the importance where there is one. Without one, what a norm puts out has the size of the
 * norm's weight, and what meets a column of a down projection is as large as its row of up lets it be.
 *
 * @throws FormatError when a file cannot be read; the signal's reason after an abort
 */
export async function chooseBalance(
  tensors: readonly BalanceTensor[],
  { halves = false, signal, onProgress }: BalanceOptions,
): Promise<ChosenFold[]> {
  const rules = halves ? RULES.filter((rule) => rule !== "inverse") : RULES;
  const folds = payingFolds(tensors);
  // Nothing to gain in what is kept at 8 bits or more: then no kernels are needed either.
  if (folds.length === 0) return [];
  const chooser = new Chooser(tensors, await kernelsFor(tensors), rules, signal);
  const chosen: ChosenFold[] = [];
  try {
    for (const [index, fold] of folds.entries()) {
      signal.throwIfAborted();
      onProgress?.(index, folds.length);
      const choice = await chooser.choose(fold);
      if (choice !== undefined) chosen.push(choice);
    }
    onProgress?.(folds.length, folds.length);
  } finally {
    await chooser.close();
  }
  return chosen;
}

/** Folds that are exact for all that they scale, and with which there is something to gain. */
function payingFolds(tensors: readonly BalanceTensor[]): Fold[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const gains = ({ tensor: name, side }: FoldPart, index: number): boolean => {
    const tensor = byName.get(name);
    return (
      index > 0 && side === "columns" && tensor?.unused !== true && tensor !== undefined && isCoarse(tensor)
    );
  };
  return foldsOf(tensors).filter(
    ({ parts }) =>
      parts.every(({ tensor }) => isScalable(byName.get(tensor)!)) &&
      parts.some((part, index) => gains(part, index)),
  );
}

async function kernelsFor(tensors: readonly BalanceTensor[]): Promise<Kernels> {
  const longest = tensors.reduce((most, { ne }) => Math.max(most, ne[0] ?? 1), 1);
  // Codes fill whole blocks, however short a row is.
  return new Kernels(await compileKernels(), Math.max(JUDGED_VALUES, longest) * 2);
}

class Chooser {
  readonly #tensors: ReadonlyMap<string, BalanceTensor>;
  /** The norm in front of a matrix. */
  readonly #norms = new Map<string, BalanceTensor>();
  /** The matrix whose rows are a matrix's columns. */
  readonly #ups = new Map<string, FoldPart>();
  readonly #kernels: Kernels;
  readonly #rules: readonly BalanceRule[];
  readonly #signal: AbortSignal;
  readonly #reader = new TensorReader();

  constructor(
    tensors: readonly BalanceTensor[],
    kernels: Kernels,
    rules: readonly BalanceRule[],
    signal: AbortSignal,
  ) {
    this.#tensors = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    this.#kernels = kernels;
    this.#rules = rules;
    this.#signal = signal;
    for (const { kind, parts } of foldsOf(tensors)) {
      const [from, ...to] = parts;
      for (const { tensor } of to) {
        if (kind === "up") this.#ups.set(tensor, from!);
        else this.#norms.set(tensor, this.#tensor(from!.tensor));
      }
    }
  }

  close(): Promise<void> {
    return this.#reader.close();
  }

  #tensor(name: string): BalanceTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new RangeError(`there is no tensor ${name}`);
    return tensor;
  }

  #matrices({ parts, kind }: Fold): [part: FoldPart, tensor: BalanceTensor][] {
    const matrices = kind === "norm" ? parts.slice(1) : parts;
    return matrices.map((part) => [part, this.#tensor(part.tensor)]);
  }

  async choose(fold: Fold): Promise<ChosenFold | undefined> {
    const matrices = await this.#judged(fold);
    const columns = matrices.filter(({ part }) => part.side === "columns");
    const rows = matrices.filter(({ part }) => part.side === "rows");
    const { inputs, weights } = channelsOf(fold, columns);
    const before = this.#error(columns, undefined);
    const beforeRows = this.#error(rows, undefined);
    let best: ChosenFold | undefined;
    for (const rule of this.#rules) {
      const exponents = exponentsBy(rule, inputs, weights);
      if (exponents.every((exponent) => exponent === 0)) continue;
      const after = this.#error(columns, exponents);
      if (!(after < (best?.after ?? before * WORTH_IT))) continue;
      if (!(this.#error(rows, exponents) <= beforeRows * UNHARMED)) continue;
      best = { fold, exponents, rule, before, after };
    }
    return best;
  }

  /** Mean over all rows of the matrices, by their number in the whole matrix; 0 for none. */
  #error(matrices: readonly JudgedMatrix[], exponents: Int8Array | undefined): number {
    let error = 0;
    let rows = 0;
    for (const matrix of matrices) {
      const all = rowsOf(matrix.tensor);
      error += (errorOf(this.#kernels, matrix, exponents) / matrix.sample.rows.length) * all;
      rows += all;
      this.#signal.throwIfAborted();
    }
    return rows === 0 ? 0 : error / rows;
  }

  async #judged(fold: Fold): Promise<JudgedMatrix[]> {
    const judged: JudgedMatrix[] = [];
    for (const [part, tensor] of this.#matrices(fold)) {
      if (tensor.unused === true || isPlain(tensor)) continue;
      const inputs = await this.#inputs(tensor);
      const sample = await this.#reader.sample(tensor, fold.kind === "up");
      judged.push({ part, tensor, sample, inputs, energies: energiesOf(tensor, sample, inputs) });
    }
    return judged;
  }

  /** Root mean square of what meets each column, matrix by matrix; of any unit. */
  async #inputs(tensor: BalanceTensor): Promise<Float64Array> {
    const { name, ne, importance } = tensor;
    const [row = 1, , matrices = 1] = ne;
    if (importance !== undefined) return Float64Array.from(importance, Math.sqrt);
    const up = this.#ups.get(name);
    if (up !== undefined) return this.#rowsOfUp(up, row * matrices);
    const norm = this.#norms.get(name);
    const weights = norm === undefined ? undefined : await this.#reader.vector(norm);
    return Float64Array.from({ length: row * matrices }, (_, at) => Math.abs(weights?.[at % row] ?? 1));
  }

  /** What the rows of up let through, for each channel. */
  async #rowsOfUp({ tensor, first, every, stride }: FoldPart, channels: number): Promise<Float64Array> {
    const up = this.#tensor(tensor);
    const norm = this.#norms.get(tensor);
    const weights = norm === undefined ? undefined : await this.#reader.vector(norm);
    const scales = Float64Array.from({ length: up.ne[0] ?? 1 }, (_, column) => weights?.[column] ?? 1);
    const norms = await this.#reader.rowNorms(up, scales, this.#signal);
    return Float64Array.from(
      { length: channels },
      (_, channel) => norms[Math.floor(channel / every) * stride + first + (channel % every)] ?? 0,
    );
  }
}

/** Root mean squares of each channel's inputs and of its columns, every row brought to the same size. */
function channelsOf(
  { channels }: Fold,
  matrices: readonly JudgedMatrix[],
): { inputs: Float64Array; weights: Float64Array } {
  const inputs = new Float64Array(channels);
  const weights = new Float64Array(channels);
  for (const { tensor, sample, inputs: own, energies } of matrices) {
    const width = tensor.ne[0] ?? 1;
    for (let at = 0; at < own.length; at++) inputs[at % channels]! += own[at]! ** 2;
    for (const [index, row] of sample.rows.entries()) {
      const energy = energies[index]!;
      if (energy === 0) continue;
      const first = (matrixOf(tensor, row) * width) % channels;
      for (let column = 0; column < width; column++)
        weights[first + column]! += sample.values[index * width + column]! ** 2 / energy;
    }
  }
  return { inputs: inputs.map(Math.sqrt), weights: weights.map(Math.sqrt) };
}
