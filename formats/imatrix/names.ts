/** What stands behind the name of a weight in the names of its two tensors. */
export const SUMS = ".in_sum2";
export const COUNTS = ".counts";

export const DATASETS_KEY = "imatrix.datasets";
export const CHUNK_COUNT_KEY = "imatrix.chunk_count";
export const CHUNK_SIZE_KEY = "imatrix.chunk_size";
