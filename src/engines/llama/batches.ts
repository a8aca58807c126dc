/** A run of a window's tokens that goes through the model at once. */
export interface BatchRange {
  readonly start: number;
  /** One past the last token. */
  readonly stop: number;
  /** How many of these positions are scored: the last ones of the run. */
  readonly rows: number;
}

/**
 * Cuts positions 0 … `end` − 1 into batches of at most `maxTokens` tokens of which at most `maxRows` are
 * scored; those from `first` on are. A row of logits is far larger than everything else about a token, so
 * tokens that only fill the cache go in full batches and scored ones in as many as fit.
 */
export function* planBatches(
  end: number,
  first: number,
  maxTokens: number,
  maxRows: number,
): Generator<BatchRange> {
  for (let start = 0; start < end;) {
    const scoredFrom = Math.max(start, first);
    const stop = Math.min(end, start + maxTokens, scoredFrom + maxRows);
    yield { start, stop, rows: Math.max(0, stop - scoredFrom) };
    start = stop;
  }
}
