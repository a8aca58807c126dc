/** Rows that stand for all rows of a matrix. */
export interface RowSample {
  /** In their order. */
  readonly rows: readonly number[];
  /** By what the energy of each of them is multiplied in the sum over all rows. */
  readonly factors: Float64Array;
}

/**
 * Chooses rows for Σ weight · energy over all rows: those of the largest weights, each for itself, as one half, and rows
 * evenly spread among the others, which stand for their total weight. Nothing is drawn by chance.
 *
 * @param weights of all rows, not negative
 * @param most rows to choose
 */
export function sampleRows(weights: ArrayLike<number>, most: number): RowSample {
  const count = weights.length;
  const all = Array.from({ length: count }, (_, row) => row);
  if (count <= most) return { rows: all, factors: Float64Array.from(weights) };
  const heavy = Math.floor(most / 2);
  const sorted = all.toSorted((a, b) => weights[b]! - weights[a]! || a - b);
  const factors = new Map(sorted.slice(0, heavy).map((row) => [row, weights[row]!]));
  const others = sorted.slice(heavy).toSorted((a, b) => a - b);
  const chosen = Array.from({ length: most - heavy }, (_, index) => {
    return others[Math.floor(((index + 0.5) * others.length) / (most - heavy))]!;
  });
  const [whole, part] = [others, chosen].map((rows) => rows.reduce((sum, row) => sum + weights[row]!, 0));
  const factor = part! > 0 ? whole! / part! : 0;
  for (const row of chosen) factors.set(row, weights[row]! * factor);
  const rows = [...factors.keys()].toSorted((a, b) => a - b);
  return { rows, factors: Float64Array.from(rows, (row) => factors.get(row)!) };
}
