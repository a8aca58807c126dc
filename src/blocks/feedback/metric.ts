import { EIGHT } from "./points.js";

const { fround } = Math;

/** The metric of a panel. Sums are float32 in the order of the columns; `fround` stands wherever the kernels round. */
export interface Metric {
  readonly width: number;
  /** A [width][width] and D [width]. */
  readonly factor: Float32Array;
  readonly pivots: Float32Array;
  /** A·D. */
  readonly weighted: Float32Array;
  /** The inverse of Σ_k A_jk²·D_k, by which the loss of column j is curved. */
  readonly inverses: Float32Array;
  /** Σ_k A_jk²·D_k itself, and the same sum over the columns of the eight that j is one of. */
  readonly curvatures: Float32Array;
  readonly eights: Float32Array;
}

export function makeMetric(width: number, factor: Float32Array, pivots: Float32Array): Metric {
  const weighted = new Float32Array(width * width);
  const inverses = new Float32Array(width);
  const curvatures = new Float32Array(width);
  const eights = new Float32Array(width);
  for (let j = 0; j < width; j++) {
    let curvature = 0;
    for (let k = j; k < width; k++) {
      const at = j * width + k;
      const both = fround(factor[at]! * pivots[k]!);
      weighted[at] = both;
      curvature = fround(curvature + fround(factor[at]! * both));
      if ((k & 7) === 7 && k < j + 8) eights[j] = curvature;
    }
    curvatures[j] = curvature;
    inverses[j] = curvature > 0 ? 1 / curvature : 0;
  }
  return { width, factor, pivots, weighted, inverses, curvatures, eights };
}

/** Σ_k a[k]·b[k] over columns from `from` on, b from `at` on, in four sums of every fourth column. */
export function dot(a: Float32Array, b: Float32Array, at: number, from: number, to: number): number {
  // Numbers rather than an array: this is the innermost loop.
  let [p, q, r, s] = [0, 0, 0, 0];
  for (let k = from; k < to; k += 4) {
    p = fround(p + fround(b[at + k]! * a[k]!));
    if (k + 1 < to) q = fround(q + fround(b[at + k + 1]! * a[k + 1]!));
    if (k + 2 < to) r = fround(r + fround(b[at + k + 2]! * a[k + 2]!));
    if (k + 3 < to) s = fround(s + fround(b[at + k + 3]! * a[k + 3]!));
  }
  return fround(fround(p + r) + fround(q + s));
}

/**
 * Inverses of the metrics of every eight columns, Σ_k A_ak·D_k·A_bk over all columns of the panel: 64 numbers each. They
 * are taken in double precision, once for a call, by the reference and for the kernels alike.
 */
export function solversOf(width: number, factor: Float32Array, pivots: Float32Array): Float32Array {
  const out = new Float32Array(width * EIGHT);
  for (let first = 0; first < width; first += EIGHT) {
    const metric = new Float64Array(EIGHT * EIGHT);
    for (let a = 0; a < EIGHT; a++) {
      for (let b = 0; b <= a; b++) {
        let sum = 0;
        for (let k = first + a; k < width; k++) {
          sum += factor[(first + a) * width + k]! * factor[(first + b) * width + k]! * pivots[k]!;
        }
        metric[EIGHT * a + b] = sum;
        metric[EIGHT * b + a] = sum;
      }
    }
    out.set(inverted(metric), first * EIGHT);
  }
  return out;
}

/** The inverse of a positive definite matrix of eight rows, by elimination in place. */
function inverted(matrix: Float64Array): Float64Array {
  for (let p = 0; p < EIGHT; p++) {
    const pivot = 1 / matrix[EIGHT * p + p]!;
    matrix[EIGHT * p + p] = 1;
    for (let j = 0; j < EIGHT; j++) matrix[EIGHT * p + j]! *= pivot;
    for (let i = 0; i < EIGHT; i++) {
      if (i === p) continue;
      const part = matrix[EIGHT * i + p]!;
      matrix[EIGHT * i + p] = 0;
      for (let j = 0; j < EIGHT; j++) matrix[EIGHT * i + j]! -= part * matrix[EIGHT * p + j]!;
    }
  }
  return matrix;
}
