const { fround } = Math;

/** Blocks whose importances all stay below this weigh every value alike: the inverse of the largest has no float32. */
const least = 2 ** -100;

/**
 * Weights of a block's values: their importance in units of the largest, so that no sum over- or underflows; 1 for
 * all where there is no importance, or none that matters.
 */
export function blockWeights(count: number, importance?: Float32Array): Float32Array {
  const largest = importance === undefined ? 0 : Math.max(...importance);
  if (importance === undefined || largest < least) return new Float32Array(count).fill(1);
  const inverse = fround(1 / largest);
  return importance.map((weight) => weight * inverse);
}
