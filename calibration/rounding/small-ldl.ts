/**
 * Factors a small symmetric matrix as U·diag(d)·Uᵀ with U unit upper triangular: the last index is eliminated first.
 * n³/6 products in float64, 3 ms for 256.
 *
 * @param matrix [n, n]; only what is on and below the diagonal is read. Then row j holds column j of U before the
 *   diagonal, so below the diagonal is Uᵀ
 * @param pivots receives d, [n]
 * @param least what a pivot has to reach
 * @returns whether all pivots do
 */
export function factorSmall(matrix: Float64Array, pivots: Float64Array, least: number): boolean {
  const n = pivots.length;
  const column = new Float64Array(n);
  for (let j = n - 1; j >= 0; j--) {
    const pivot = matrix[j * n + j]!;
    // NaN does not reach it either.
    if (!(pivot >= least)) return false;
    pivots[j] = pivot;
    for (let i = 0; i < j; i++) column[i] = matrix[j * n + i]! / pivot;
    for (let i = 0; i < j; i++) {
      const factor = matrix[j * n + i]!;
      const row = i * n;
      for (let k = 0; k <= i; k++) matrix[row + k]! -= factor * column[k]!;
    }
    for (let i = 0; i < j; i++) matrix[j * n + i] = column[i]!;
  }
  return true;
}

/**
 * Inverse of a unit lower triangular matrix, row by row, with column j divided by `divisors[j]`.
 *
 * @param lower [n, n]; only what is below the diagonal is read
 * @returns [n, n]
 */
export function invertLower(lower: Float64Array, divisors: Float64Array): Float32Array {
  const n = divisors.length;
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    inverse[row + i] = 1;
    for (let k = 0; k < i; k++) {
      const factor = lower[row + k]!;
      if (factor === 0) continue;
      for (let j = 0; j <= k; j++) inverse[row + j]! -= factor * inverse[k * n + j]!;
    }
  }
  return Float32Array.from(inverse, (value, index) => value / divisors[index % n]!);
}
