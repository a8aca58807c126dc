import type { NBitsMethod, NBitsType } from "../../src/blocks/nbits/types.js";
import type { BlockTypeName, Method } from "../../src/blocks/types.js";
import type { FoldedChannels, FoldTensor } from "../../src/gemma4/folds.js";

/** A tensor that is going to be rounded, or a vector, with all that decides by how much. */
export interface BalanceTensor extends FoldTensor {
  readonly path: string;
  /** Byte offset from the start of the file. */
  readonly offset: number;
  /** F32, F16 or BF16. */
  readonly source: BlockTypeName;
  readonly target: BlockTypeName | NBitsType;
  readonly method: Method | NBitsMethod;
  /** Mean square of what each column meets, matrix by matrix, as measured on the model as it is. */
  readonly importance?: Float32Array | undefined;
  /** Its values may not be scaled. */
  readonly fixed?: boolean | undefined;
  /** Nothing reads it, so that its errors do not count. */
  readonly unused?: boolean | undefined;
}

/**
 * How exponents come about: from the root mean square a of a channel's input and that of its columns w, the columns
 * are multiplied by (a / w)^beta, or by 1 / w.
 */
export type BalanceRule = "beta-0.25" | "beta-0.5" | "inverse";

/** A fold that is worth it. */
export interface ChosenFold extends FoldedChannels {
  readonly rule: BalanceRule;
  /** Mean over the rows of Σ input² · error² / Σ input² · value², of the sampled rows, without and with the fold. */
  readonly before: number;
  readonly after: number;
}
