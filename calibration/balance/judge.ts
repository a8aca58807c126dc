import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { type FoldPart, partExponents } from "../../src/gemma4/folds.js";
import { rounded } from "./rounding.js";
import { type RowSample, rowsOf } from "./sample.js";
import type { BalanceTensor } from "./types.js";

/** Values that are rounded at a time, where a row is not longer. */
export const JUDGED_VALUES = 2 ** 18;

/** A matrix of a fold with some of its rows. */
export interface JudgedMatrix {
  readonly part: FoldPart;
  readonly tensor: BalanceTensor;
  readonly sample: RowSample;
  /** Root mean square of what meets each column, matrix by matrix. */
  readonly inputs: Float64Array;
  /** Σ input² · value² of each sampled row. */
  readonly energies: Float64Array;
}

/** Number of the matrix of a stack that a row lies in. */
export function matrixOf(tensor: BalanceTensor, row: number): number {
  return Math.floor((row * (tensor.ne[2] ?? 1)) / rowsOf(tensor));
}

/** Σ input² · value² of each sampled row. */
export function energiesOf(
  tensor: BalanceTensor,
  { rows, values }: RowSample,
  inputs: Float64Array,
): Float64Array {
  const width = tensor.ne[0] ?? 1;
  return Float64Array.from(rows, (row, index) => {
    const own = matrixOf(tensor, row) * width;
    let sum = 0;
    for (let column = 0; column < width; column++)
      sum += (inputs[own + column]! * values[index * width + column]!) ** 2;
    return sum;
  });
}

/** Exponents of the columns (matrix by matrix) and of the rows of a part's tensor. */
function sidesOf(part: FoldPart, exponents: Int8Array | undefined): Pick<Sides, "columns" | "rows"> {
  if (exponents === undefined) return {};
  return { [part.side]: partExponents(part, exponents) };
}

interface Sides {
  readonly columns?: Int8Array;
  readonly rows?: Int8Array;
}

/**
 * Σ over the sampled rows of Σ input² · error² / Σ input² · value², with the channels of the fold scaled; every row
 * counts the same, whatever its size, since rows are scaled by other folds.
 *
 * @param exponents undefined for the matrix as it is
 * @returns Infinity where the target cannot hold the values
 */
export function errorOf(
  kernels: Kernels,
  { part, tensor, sample, inputs, energies }: JudgedMatrix,
  exponents: Int8Array | undefined,
): number {
  const width = tensor.ne[0] ?? 1;
  const { columns, rows: rowExponents } = sidesOf(part, exponents);
  const most = Math.max(1, Math.floor(JUDGED_VALUES / width));
  let total = 0;
  for (let first = 0; first < sample.rows.length;) {
    const matrix = matrixOf(tensor, sample.rows[first]!);
    let last = first + 1;
    while (
      last < sample.rows.length &&
      last - first < most &&
      matrixOf(tensor, sample.rows[last]!) === matrix
    )
      last++;
    const own = matrix * width;
    const factors = Float64Array.from({ length: width }, (_, column) => 2 ** (columns?.[own + column] ?? 0));
    const scaled = sample.values.slice(first * width, last * width);
    const rowFactors = sample.rows.slice(first, last).map((row) => 2 ** (rowExponents?.[row] ?? 0));
    for (let at = 0; at < scaled.length; at++)
      scaled[at] = scaled[at]! * factors[at % width]! * rowFactors[Math.floor(at / width)]!;
    // What was measured on the model as it is meets columns that are larger by the factor.
    const importance = tensor.importance
      ?.slice(own, own + width)
      .map((value, column) => value / factors[column]! ** 2);
    const stored = rounded(kernels, tensor, width, scaled, importance);
    if (stored === undefined) return Infinity;
    for (let index = first; index < last; index++) {
      const energy = energies[index]!;
      if (energy === 0) continue;
      const at = (index - first) * width;
      let error = 0;
      for (let column = 0; column < width; column++) {
        const difference = (stored[at + column]! - scaled[at + column]!) / factors[column]!;
        error += (inputs[own + column]! * difference) ** 2;
      }
      total += error / rowFactors[index - first]! ** 2 / energy;
    }
    first = last;
  }
  return total;
}
