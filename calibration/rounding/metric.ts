import type { Moments } from "../statistics/types.js";

/** Rows of a matrix that are rounded with regard to each other: their moments take three times 4 MiB. */
export const GROUP_ROWS = 1024;

/** A square on the diagonal of a matrix of moments. */
export interface Square {
  readonly start: number;
  readonly size: number;
}

/** Cuts columns into squares that are not wider than `width`. */
export function squaresOf(columns: number, width: number): Square[] {
  const squares: Square[] = [];
  for (let start = 0; start < columns; start += width) {
    squares.push({ start, size: Math.min(width, columns - start) });
  }
  return squares;
}

/** Runs of columns that lie in one block of moments, from `start` up to `start + size`. */
function* runsOf({ columns, blockWidth }: Moments, { start, size }: Square) {
  for (let first = start; first < start + size;) {
    const block = first - (first % blockWidth);
    const width = Math.min(blockWidth, columns - block);
    const end = Math.min(start + size, block + width);
    yield { first, end, block, width };
    first = end;
  }
}

/**
 * Adds `factor` times a square of moments to a matrix. What lies outside of the blocks of the moments counts as 0,
 * which leaves a positive definite matrix one.
 *
 * @param into [size, size]
 */
export function addSquare(into: Float32Array, moments: Moments, square: Square, factor: number): void {
  const { values } = moments;
  for (const { first, end, block, width } of runsOf(moments, square)) {
    for (let row = first; row < end; row++) {
      const from = block * moments.blockWidth + (row - block) * width - block;
      const to = (row - square.start) * square.size - square.start;
      for (let column = first; column < end; column++) into[to + column]! += factor * values[from + column]!;
    }
  }
}

/** Sum of the diagonal. */
export function traceOf(moments: Moments): number {
  let sum = 0;
  for (const { first, end, block, width } of runsOf(moments, { start: 0, size: moments.columns })) {
    for (let column = first; column < end; column++) {
      sum += moments.values[block * moments.blockWidth + (column - block) * (width + 1)]!;
    }
  }
  return sum;
}

/** What rounding a matrix costs, as far as its inputs say: the squares on the diagonal of a form over its columns. */
export interface InputMetric {
  readonly columns: number;
  readonly blockWidth: number;
  /** Of each square, [size, size]; the mean of the whole diagonal is 1. */
  readonly squares: readonly Float32Array<ArrayBuffer>[];
}

/**
 * The form under which errors of a row are measured: H, or half H and half H weighted by how much each token's
 * gradient matters, both in units of their traces. The half loses a twentieth less in KL divergence than either.
 *
 * @param weighted of the same columns
 */
export function inputMetric(plain: Moments, weighted: Moments | null): InputMetric {
  const { columns } = plain;
  if (weighted !== null && weighted.columns !== columns) {
    throw new RangeError(`weighted moments have ${weighted.columns} columns, expected ${columns}`);
  }
  const blockWidth = Math.min(plain.blockWidth, weighted?.blockWidth ?? columns);
  const parts = [plain, ...(weighted === null ? [] : [weighted])]
    .map((moments) => ({ moments, trace: traceOf(moments) }))
    // Of an input that is always zero nothing is known.
    .filter(({ trace }) => trace > 0);
  const squares = squaresOf(columns, blockWidth).map((square) => {
    const into = new Float32Array(square.size ** 2);
    for (const { moments, trace } of parts) {
      addSquare(into, moments, square, columns / (trace * parts.length));
    }
    return into;
  });
  return { columns, blockWidth, squares };
}

/**
 * Moments of rows whose values are divided by factors, column by column: of what a matrix reads whose columns were
 * multiplied with them.
 *
 * @param factors [columns], powers of two; none when left out
 */
export function scaledMoments(moments: Moments, factors: Float32Array | undefined): Moments {
  if (factors === undefined) return moments;
  const values = Float32Array.from(moments.values);
  for (const { start, size } of squaresOf(moments.columns, moments.blockWidth)) {
    const at = start * moments.blockWidth;
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        values[at + row * size + column]! /= factors[start + row]! * factors[start + column]!;
      }
    }
  }
  return { ...moments, values };
}
