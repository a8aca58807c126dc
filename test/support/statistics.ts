import { forward } from "./forward/forward.js";
import { type Matrix, rowOf, watch } from "./forward/math.js";
import type { TextModel } from "./forward/model.js";

/** Sums over the rows that a matrix reads, in double precision. */
export interface PlainSums {
  tokens: number;
  readonly sum: Float64Array;
  readonly sumSquares: Float64Array;
  /** Σ x·xᵀ, row by row */
  readonly moments: Float64Array;
}

/** Of a matrix, with those of each expert where there are any. */
export interface PlainStatistics extends PlainSums {
  readonly experts: Map<number, PlainSums>;
}

function noSums(columns: number): PlainSums {
  return {
    tokens: 0,
    sum: new Float64Array(columns),
    sumSquares: new Float64Array(columns),
    moments: new Float64Array(columns ** 2),
  };
}

function addRow(sums: PlainSums, x: Float64Array, moments: boolean): void {
  sums.tokens += 1;
  for (const [i, value] of x.entries()) {
    sums.sum[i]! += value;
    sums.sumSquares[i]! += value ** 2;
    if (!moments) continue;
    for (let j = 0; j < x.length; j++) sums.moments[i * x.length + j]! += value * x[j]!;
  }
}

/** Rows that a matrix has read, one after the other. */
export function readRows(
  model: TextModel,
  windows: readonly Int32Array[],
  names: readonly string[],
): Map<string, Float64Array[]> {
  const rows = new Map<string, Float64Array[]>(names.map((name) => [name, []]));
  for (const name of names) {
    watch(model.weights.get(name)!, (x) => {
      for (let row = 0; row < x.rows; row++) rows.get(name)!.push(rowOf(x, row).slice());
    });
  }
  for (const window of windows) forward(model, window);
  for (const name of names) watch(model.weights.get(name)!, () => {});
  return rows;
}

/**
 * What every matrix of a model reads on a text, by a plain forward pass in double precision.
 *
 * @param moments whether to sum those as well
 * @returns by names of weights; the output matrix of a tied model is under the name of its embedding
 */
export function plainStatistics(
  model: TextModel,
  windows: readonly Int32Array[],
  moments: boolean,
): Map<string, PlainStatistics> {
  const found = new Map<string, PlainStatistics>();
  const see = (name: string, x: Matrix, expert: number | null): void => {
    const all = found.get(name) ?? { ...noSums(x.columns), experts: new Map<number, PlainSums>() };
    found.set(name, all);
    const own = expert === null ? null : (all.experts.get(expert) ?? noSums(x.columns));
    if (expert !== null) all.experts.set(expert, own!);
    for (let row = 0; row < x.rows; row++) {
      addRow(all, rowOf(x, row), moments);
      if (own !== null) addRow(own, rowOf(x, row), moments);
    }
  };
  for (const [name, values] of model.weights) watch(values, (x, expert) => see(name, x, expert));
  for (const window of windows) forward(model, window);
  for (const values of model.weights.values()) watch(values, () => {});
  return found;
}
