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

/** Where an importance matrix comes from, and the text that it was measured on. */
interface ImatrixHead {
  readonly path: string;
  /** `gguf`, or `legacy` for the `.dat` of older versions. */
  readonly format: "gguf" | "legacy";
  /** Files that the text came from, as the tool was given them. */
  readonly datasets: readonly string[];
  /** Number of windows of text; 0 where the file does not say. */
  readonly chunks: number;
  /** Tokens of a window; null in the legacy format, which does not say. */
  readonly chunkTokens: number | null;
}

/** An importance matrix, as llama-imatrix writes it. */
export interface ImportanceMatrix extends ImatrixHead {
  readonly entries: ReadonlyMap<string, ImportanceEntry>;
}

/** What is added up for one weight: the means of `ImportanceEntry` before the division. */
export interface SummedEntry {
  /** Name of the tensor in GGUF. */
  readonly name: string;
  /** Width of a matrix. */
  readonly columns: number;
  /** Sum of the squared activations that met each column, matrix by matrix: `counts.length * columns` values. */
  readonly sums: Float32Array | Float64Array;
  /** Tokens that went into the sums, a whole number for each matrix. */
  readonly counts: Float32Array | Float64Array;
}

/** An entry as a file holds it. In the legacy format it has one count for all matrices, of windows and not of tokens. */
export interface StoredEntry extends SummedEntry {
  readonly sums: Float32Array<SharedArrayBuffer>;
}

/** An importance matrix with its sums and counts. */
export interface SummedMatrix extends ImatrixHead {
  readonly entries: ReadonlyMap<string, StoredEntry>;
}

/** What an importance matrix is written from. */
export interface ImatrixContents {
  /** Files that the text came from. */
  readonly datasets: readonly string[];
  /** Number of windows of text. */
  readonly chunks: number;
  /** Tokens of a window, at least 1. */
  readonly chunkTokens: number;
  readonly entries: Iterable<SummedEntry>;
}
