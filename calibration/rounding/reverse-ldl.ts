import type { Products } from "./products.js";
import { factorSmall, invertLower } from "./small-ldl.js";

/** Columns of a panel: the longest block of any type. */
export const PANEL = 256;

/** Part of the mean of the diagonal that is added to the diagonal. */
export const DEFAULT_DAMPING = 0.01;

/** At ten times the mean of the diagonal a matrix of moments is as good as its diagonal. */
const MAX_DAMPING = 10;

/**
 * What the smallest pivot keeps of the damping. All of it in exact arithmetic; less says that the float32 sums have
 * eaten it.
 */
const KEPT_OF_DAMPING = 0.5;

/**
 * A factor A of H = A·diag(d)·Aᵀ, unit upper triangular. In panels of 256 columns, which hold their rows from the
 * first to the last one of the panel, panel after panel: what a panel needs of the earlier rows lies in one piece.
 */
export interface Factor<B extends ArrayBufferLike = ArrayBufferLike> {
  readonly size: number;
  readonly panels: Float32Array<B>;
  /** d, [size]; all positive. */
  readonly pivots: Float32Array<B>;
  /** Part of the mean of the diagonal that had to be added to the diagonal. */
  readonly damping: number;
}

/** Where a panel lies. */
export interface Panel {
  readonly start: number;
  readonly end: number;
  /** First value in `Factor.panels`, of `end` rows of `end − start`. */
  readonly at: number;
}

/** The panels of a factor, the last of which may be narrower. */
export function panelsOf(size: number): Panel[] {
  const panels: Panel[] = [];
  let at = 0;
  for (let start = 0; start < size; start += PANEL) {
    const end = Math.min(start + PANEL, size);
    panels.push({ start, end, at });
    at += end * (end - start);
  }
  return panels;
}

/** Values in the panels of a factor. */
export function factorValues(size: number): number {
  const last = panelsOf(size).at(-1);
  return last === undefined ? 0 : last.at + last.end * (last.end - last.start);
}

/** A factor in memory that other threads can see. */
export function sharedFactor(size: number): Factor<SharedArrayBuffer> {
  const panels = new Float32Array(new SharedArrayBuffer(4 * factorValues(size)));
  const pivots = new Float32Array(new SharedArrayBuffer(4 * size));
  return { size, panels, pivots, damping: 0 };
}

/** A positive definite matrix that turned out not to be one, whatever was added to its diagonal. */
export class NotDefinite extends Error {}

/**
 * Factors a symmetric matrix, last index first, without an inverse. Panel by panel from the last to the first: what
 * the later panels give is one product of ONNX Runtime, the panel's own square is factored in float64, and the rows
 * above it are solved by the inverse of that small triangle.
 *
 * The damping is multiplied by ten until the factor is one of a positive definite matrix. An index whose row and
 * column are zero has the damping as its pivot and nothing to do with the others.
 *
 * @param matrix [size, size], finite; what is not below the diagonal is overwritten
 * @param into where the factor goes
 * @throws NotDefinite where ten times the mean of the diagonal do not help
 */
export async function reverseLdl<B extends ArrayBufferLike>(
  products: Products,
  matrix: Float32Array,
  into: Factor<B>,
  damping = DEFAULT_DAMPING,
): Promise<Factor<B>> {
  if (!(damping > 0)) throw new RangeError(`a damping of ${damping} is not positive`);
  const { size } = into;
  const diagonal = Float64Array.from({ length: size }, (_, index) => matrix[index * size + index]!);
  const mean = diagonal.reduce((sum, value) => sum + value, 0) / size;
  // A matrix of zeros says nothing: every index counts alike.
  const unit = mean > 0 ? mean : 1;
  for (let part = damping; part <= MAX_DAMPING; part *= 10) {
    for (const [index, value] of diagonal.entries()) matrix[index * size + index] = value + part * unit;
    if (await factorDamped(products, matrix, into, KEPT_OF_DAMPING * part * unit)) {
      return { ...into, damping: part };
    }
    restore(matrix, size);
  }
  throw new NotDefinite(`a matrix of ${size} columns is not positive definite`);
}

/** Makes the part above the diagonal that below it again. */
function restore(matrix: Float32Array, size: number): void {
  for (let row = 0; row < size; row++) {
    for (let column = row + 1; column < size; column++) {
      matrix[row * size + column] = matrix[column * size + row]!;
    }
  }
}

/** @returns whether all pivots reach `least` */
async function factorDamped(
  products: Products,
  matrix: Float32Array,
  factor: Factor,
  least: number,
): Promise<boolean> {
  const { size } = factor;
  const all = { values: matrix, rows: size, columns: size };
  // The runtime does not take shared memory.
  const pivots = new Float32Array(size);
  for (const panel of panelsOf(size).toReversed()) {
    const { start, end } = panel;
    const width = end - start;
    const own = new Float32Array(end * width);
    for (let row = 0; row < end; row++) {
      own.set(matrix.subarray(row * size + start, row * size + end), row * width);
    }
    if (end < size) subtract(own, await products.later(all, pivots, start, end));
    const square = Float64Array.from(own.subarray(start * width));
    mirrorDown(square, width);
    const ownPivots = new Float64Array(width);
    if (!factorSmall(square, ownPivots, least)) return false;
    pivots.set(ownPivots, start);
    if (start > 0) {
      const b = { values: invertLower(square, ownPivots), rows: width, columns: width };
      const part = { rows: [0, start], columns: [0, width] } as const;
      own.set(await products.times({ values: own, rows: end, columns: width }, part, b));
    }
    for (let row = 0; row < width; row++) {
      for (let column = 0; column < width; column++) {
        const value = column > row ? square[column * width + row]! : Number(column === row);
        own[(start + row) * width + column] = value;
      }
    }
    for (let row = 0; row < start; row++) {
      matrix.set(own.subarray(row * width, (row + 1) * width), row * size + start);
    }
    factor.panels.set(own, panel.at);
  }
  factor.pivots.set(pivots);
  return true;
}

function subtract(values: Float32Array, others: Float32Array): void {
  // Up to a million values a panel: an iterator takes ten times as long.
  for (let index = 0; index < values.length; index++) values[index]! -= others[index]!;
}

/** Makes the part below the diagonal that above it: the latter is what the panels were made of. */
function mirrorDown(square: Float64Array, width: number): void {
  for (let row = 0; row < width; row++) {
    for (let column = 0; column < row; column++) square[row * width + column] = square[column * width + row]!;
  }
}
