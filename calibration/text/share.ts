/**
 * Shares out a number of windows in proportion to weights, by the method of the largest remainder (ties go
 * to the earlier source). A source that has fewer than its share gives all it has, and what it lacks is
 * shared out among the others.
 *
 * @param total windows wanted
 * @param weights one a source, each above 0
 * @param available windows that each source has
 * @returns windows of each source; their sum is `total`, or all there are when that is less
 */
export function shareWindows(
  total: number,
  weights: readonly number[],
  available: readonly number[],
): number[] {
  const shares = weights.map(() => 0);
  let open = weights.map((_, index) => index);
  let left = total;
  for (;;) {
    const sum = open.reduce((all, index) => all + (weights[index] ?? 0), 0);
    const ideal = (index: number): number => (left * (weights[index] ?? 0)) / sum;
    const short = open.filter((index) => (available[index] ?? 0) < ideal(index));
    if (short.length === 0) {
      fill(open, shares, available, left, ideal);
      return shares;
    }
    for (const index of short) shares[index] = available[index] ?? 0;
    left = total - shares.reduce((all, share) => all + share, 0);
    open = open.filter((index) => !short.includes(index));
    if (open.length === 0) return shares;
  }
}

/** Whole parts first, then one more to those with the largest remainders. */
function fill(
  open: readonly number[],
  shares: number[],
  available: readonly number[],
  total: number,
  ideal: (index: number) => number,
): void {
  let left = total;
  for (const index of open) {
    shares[index] = Math.floor(ideal(index));
    left -= shares[index] ?? 0;
  }
  const remainder = (index: number): number => ideal(index) - Math.floor(ideal(index));
  for (const index of open.toSorted((a, b) => remainder(b) - remainder(a))) {
    if (left <= 0) return;
    if ((shares[index] ?? 0) >= (available[index] ?? 0)) continue;
    shares[index] = (shares[index] ?? 0) + 1;
    left--;
  }
}
