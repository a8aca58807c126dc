/**
 * Σ x·xᵀ over the rows x of an input, or Σ x·yᵀ of rows of two models. A full matrix, or the blocks on its diagonal
 * where a full one would not fit the memory.
 */
export interface Moments {
  readonly columns: number;
  /** `columns` of a full matrix; otherwise a multiple of 256, the last block being what is left. */
  readonly blockWidth: number;
  /** Full: [columns, columns]; else the blocks, [width, width] each, one after the other. */
  readonly values: Float32Array;
  /** Rows that were summed: fewer than the input's own where a wide input was looked at in part. */
  readonly tokens: number;
}

/** The same for each expert, of the rows that were routed to it. */
export interface ExpertStatistics {
  /** [experts]: rows; 0 for an expert that no token chose. */
  readonly tokens: Float64Array;
  /** [experts, columns] */
  readonly sum: Float64Array;
  /** [experts, columns] */
  readonly sumSquares: Float64Array;
  /** One an expert; null when moments were not asked for. */
  readonly moments: readonly Moments[] | null;
}

/** What is known of the rows that some matrices read. */
export interface InputStatistics {
  /** Stable name, such as `layers.3.mlp.down`. */
  readonly input: string;
  /** The tensors that it is fed to, by their names in the checkpoint without the prefix. */
  readonly weights: readonly string[];
  readonly columns: number;
  /** Rows; of experts, a row counts once for each expert that it was routed to. */
  readonly tokens: number;
  /** Σ x, [columns] */
  readonly sum: Float64Array;
  /** Σ x², [columns] */
  readonly sumSquares: Float64Array;
  /** Null where they were not asked for, and for experts, which have them one by one. */
  readonly moments: Moments | null;
  /** Σ x·yᵀ with x of the unrounded model and y of the rounded one, where both were run; null otherwise. */
  readonly cross: Moments | null;
  /** Null for anything but experts. */
  readonly experts: ExpertStatistics | null;
}

/** How often each row of a table was read. */
export interface TokenFrequencies {
  /** Name of the table in the checkpoint without the prefix. */
  readonly weight: string;
  /** [rows] */
  readonly counts: Float64Array;
}

/** Statistics of one step of the walk: the embeddings, a layer, or the output matrix. */
export interface StepStatistics {
  /** Place in the walk: 0 for the embeddings, then one a layer, and the output matrix last. */
  readonly index: number;
  readonly kind: "embedding" | "layer" | "head";
  /** Number of the layer; null for the others. */
  readonly layer: number | null;
  readonly statistics: readonly InputStatistics[];
  /** Of the embeddings only. */
  readonly frequencies: readonly TokenFrequencies[];
}
