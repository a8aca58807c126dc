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
}

export function makeMetric(width: number, factor: Float32Array, pivots: Float32Array): Metric {
  const weighted = new Float32Array(width * width);
  const inverses = new Float32Array(width);
  for (let j = 0; j < width; j++) {
    let curvature = 0;
    for (let k = j; k < width; k++) {
      const at = j * width + k;
      const both = fround(factor[at]! * pivots[k]!);
      weighted[at] = both;
      curvature = fround(curvature + fround(factor[at]! * both));
    }
    inverses[j] = 1 / curvature;
  }
  return { width, factor, pivots, weighted, inverses };
}

/** Σ_k a[k]·b[k] over columns from `from` on, b from `at` on, in four sums of every fourth column. */
export function dot(a: Float32Array, b: Float32Array, at: number, from: number, to: number): number {
  const sums = new Float32Array(4);
  for (let k = from; k < to; k++) sums[(k - from) & 3]! += fround(b[at + k]! * a[k]!);
  return fround(fround(sums[0]! + sums[2]!) + fround(sums[1]! + sums[3]!));
}
