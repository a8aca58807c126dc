import type { SummedEntry } from "../../formats/imatrix/types.js";

/** llama-imatrix's bound: a column whose mean square is not above it counts as inactive. */
const INACTIVE = 1e-5;

/** An expert that saw less than this share of what the experts of its stack saw on average has too little to go by. */
const STARVED_SHARE = 0.1;

/** An expert with few tokens or none. */
export interface StarvedExpert {
  /** Number of the expert in its stack, from 0. */
  readonly expert: number;
  readonly count: number;
}

/** What the importance of one weight looks like, over the mean squares of all columns of matrices that have any. */
export interface Distribution {
  /** Σ: what llama-imatrix prints as Σ(Act²). */
  readonly sum: number;
  readonly min: number;
  readonly max: number;
  readonly mean: number;
  /** Standard deviation (of all, not of a sample). */
  readonly deviation: number;
  /** Share of columns that are exactly 0. */
  readonly zero: number;
  /** Share of columns above 0.00001. */
  readonly active: number;
  /** −Σ p log2 p in bits, p being a column's share of the sum; log2 of the number of columns at most. */
  readonly entropy: number;
  /** Entropy by the most that it can be; null for a single column. */
  readonly evenness: number | null;
  /** Share of columns more than one deviation above the mean: llama-imatrix's ZD. */
  readonly high: number;
}

/** How alike two measurements of the same weight are, over the columns of matrices that both have tokens for. */
export interface Likeness {
  /** Pearson correlation of the mean squares, column by column; null where either has the same in all of them. */
  readonly correlation: number | null;
  /** Σ of the second by Σ of the first; null where the first is 0. */
  readonly ratio: number | null;
  /** Of a stack the expert with the lowest correlation; null when there is none. */
  readonly worstExpert: { readonly expert: number; readonly correlation: number } | null;
}

/** Number of a matrix's tokens; one count may stand for all. */
function countOf({ counts }: SummedEntry, matrix: number): number {
  return counts[counts.length === 1 ? 0 : matrix] ?? 0;
}

/**
 * Mean squares of the columns of some matrices, one matrix after the other.
 *
 * @param width columns of a matrix; another width than the entry's own takes it apart differently
 */
function meansOf(entry: SummedEntry, matrices: readonly number[], width: number): Float64Array {
  const means = new Float64Array(matrices.length * width);
  for (const [index, matrix] of matrices.entries()) {
    const count = countOf(entry, matrix);
    const sums = entry.sums.subarray(matrix * width, (matrix + 1) * width);
    for (const [column, sum] of sums.entries()) means[index * width + column] = sum / count;
  }
  return means;
}

function range(length: number): number[] {
  return Array.from({ length }, (_, index) => index);
}

function sumOf(values: Float64Array, of: (value: number) => number = (value) => value): number {
  let sum = 0;
  for (const value of values) sum += of(value);
  return sum;
}

/** Whether all values are the same; their mean, which is rounded, may be another. */
function isFlat(values: Float64Array): boolean {
  return values.every((value) => value === values[0]);
}

/**
 * The figures of `llama-imatrix --show-statistics` for one weight, counted in double precision.
 *
 * @returns null when no matrix saw a token
 */
export function distributionOf(entry: SummedEntry): Distribution | null {
  const seen = range(entry.counts.length).filter((matrix) => countOf(entry, matrix) > 0);
  if (seen.length === 0) return null;
  const means = meansOf(entry, seen, entry.columns);
  const { length } = means;
  const sum = sumOf(means);
  const mean = sum / length;
  const deviation = isFlat(means) ? 0 : Math.sqrt(sumOf(means, (value) => (value - mean) ** 2) / length);
  const share = (is: (value: number) => boolean): number =>
    sumOf(means, (value) => (is(value) ? 1 : 0)) / length;
  const entropy = sumOf(means, (value) => (value > 0 ? -(value / sum) * Math.log2(value / sum) : 0));
  return {
    sum,
    min: means.reduce((a, b) => Math.min(a, b)),
    max: means.reduce((a, b) => Math.max(a, b)),
    mean,
    deviation,
    zero: share((value) => value === 0),
    active: share((value) => value > INACTIVE),
    entropy,
    evenness: length === 1 ? null : entropy / Math.log2(length),
    high: deviation === 0 ? 0 : share((value) => value - mean > deviation),
  };
}

/** Experts of a stack that saw no token, or far fewer than the others; none for a single matrix. */
export function starvedExperts({ counts }: SummedEntry): StarvedExpert[] {
  if (counts.length === 1) return [];
  let tokens = 0;
  for (const count of counts) tokens += count;
  const least = (STARVED_SHARE * tokens) / counts.length;
  return [...counts].flatMap((count, expert) => (count === 0 || count < least ? [{ expert, count }] : []));
}

/**
 * Cosine of the angle between the sums of a weight and those of the same weight one layer earlier, as llama-imatrix
 * prints it.
 *
 * @returns null when there is no such weight, it has other columns (as full layers have beside sliding ones), or
 *   all of either is 0
 */
export function cosineToPrevious(
  { name, sums }: SummedEntry,
  entries: ReadonlyMap<string, SummedEntry>,
): number | null {
  const previous = name.replace(/blk\.(\d+)\./, (_, layer: string) => `blk.${Number(layer) - 1}.`);
  const other = previous === name ? undefined : entries.get(previous)?.sums;
  if (other === undefined || other.length !== sums.length) return null;
  let [product, square, otherSquare] = [0, 0, 0];
  for (const [at, value] of sums.entries()) {
    const beside = other[at] ?? 0;
    product += value * beside;
    square += value ** 2;
    otherSquare += beside ** 2;
  }
  const lengths = Math.sqrt(square) * Math.sqrt(otherSquare);
  return lengths === 0 ? null : product / lengths;
}

function correlate(a: Float64Array, b: Float64Array): number | null {
  if (isFlat(a) || isFlat(b)) return null;
  const meanA = sumOf(a) / a.length;
  const meanB = sumOf(b) / b.length;
  let [product, squareA, squareB] = [0, 0, 0];
  for (const [at, value] of a.entries()) {
    const fromA = value - meanA;
    const fromB = (b[at] ?? 0) - meanB;
    product += fromA * fromB;
    squareA += fromA ** 2;
    squareB += fromB ** 2;
  }
  const deviations = Math.sqrt(squareA) * Math.sqrt(squareB);
  return deviations > 0 ? Math.max(-1, Math.min(1, product / deviations)) : null;
}

/**
 * Compares two measurements of one weight; that both have the same number of sums is the caller's to know.
 * Where one has a count for all experts, it stands for each.
 */
export function likenessOf(a: SummedEntry, b: SummedEntry): Likeness {
  const matrices = Math.max(a.counts.length, b.counts.length);
  const width = a.sums.length / matrices;
  const both = range(matrices).filter((matrix) => countOf(a, matrix) > 0 && countOf(b, matrix) > 0);
  const [meansA, meansB] = [meansOf(a, both, width), meansOf(b, both, width)];
  const sum = sumOf(meansA);
  let worst: Likeness["worstExpert"] = null;
  for (const [index, expert] of matrices === 1 ? [] : both.entries()) {
    const part = [index * width, (index + 1) * width] as const;
    const correlation = correlate(meansA.subarray(...part), meansB.subarray(...part));
    if (correlation !== null && correlation < (worst?.correlation ?? Infinity))
      worst = { expert, correlation };
  }
  return {
    correlation: correlate(meansA, meansB),
    ratio: sum === 0 ? null : sumOf(meansB) / sum,
    worstExpert: worst,
  };
}
