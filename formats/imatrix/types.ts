/** What the columns of one weight matter, measured on text. */
export interface ImportanceEntry {
  /** Name of the tensor in GGUF, such as `blk.0.ffn_up.weight`. */
  readonly name: string;
  /** 1, or the number of experts of a stacked tensor. */
  readonly matrices: number;
  /**
   * Mean square of the activations that meet each column, matrix by matrix: `matrices * columns` values, finite
   * and not negative. An expert that no token reached has ones. In shared memory, so that worker threads need
   * no copy.
   */
  readonly values: Float32Array<SharedArrayBuffer>;
}

/** An importance matrix, as llama-imatrix writes it. */
export interface ImportanceMatrix {
  readonly path: string;
  /** `gguf`, or `legacy` for the `.dat` of older versions. */
  readonly format: "gguf" | "legacy";
  /** Files that the text came from, as the tool was given them. */
  readonly datasets: readonly string[];
  /** Number of windows of text; 0 where the file does not say. */
  readonly chunks: number;
  /** Tokens of a window; null in the legacy format, which does not say. */
  readonly chunkTokens: number | null;
  readonly entries: ReadonlyMap<string, ImportanceEntry>;
}
