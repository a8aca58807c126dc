/** Names of ggml's types as ggml spells them; the table in `table.ts` has one row for each. */
export type BlockTypeName =
  | "F32"
  | "F16"
  | "BF16"
  | "F64"
  | "I8"
  | "I16"
  | "I32"
  | "I64"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ1_S"
  | "IQ1_M"
  | "IQ2_XXS"
  | "IQ2_XS"
  | "IQ2_S"
  | "IQ3_XXS"
  | "IQ3_S"
  | "IQ4_NL"
  | "IQ4_XS"
  | "TQ1_0"
  | "TQ2_0"
  | "MXFP4"
  | "NVFP4"
  | "Q1_0"
  | "Q2_0";

/**
 * How a value finds its place in a block. `ggml`: byte for byte as ggml does. `search`: the least
 * Σ importance · (value − stored)² that a search of ours finds, with every value as important where none is given.
 */
export type Method = "ggml" | "search";

/**
 * How the values of a tensor find their places. `lattice`: they lie on multiples of a scale a block already, and
 * Q4_0 gives them back in every bit of bfloat16.
 */
export type TensorMethod = Method | "lattice";

/** Layout of a block type. */
export interface BlockType {
  readonly name: BlockTypeName;
  /** ggml's type id, as written in a GGUF file. */
  readonly id: number;
  /** Values in a block; 1 for plain number types. */
  readonly values: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Whether llama-quantize refuses the type without an importance matrix. */
  readonly needsImportance: boolean;
}

/** Unpacks whole blocks; `out.length` is a multiple of the type's values per block. */
export type Decoder = (blocks: Uint8Array, out: Float32Array) => void;

/**
 * Packs whole blocks by one method.
 *
 * @param importance weight of each value, as many as there are values, which are then one row; types whose
 *   method has no use for it ignore it
 */
export type Encoder = (values: Float32Array, out: Uint8Array, importance?: Float32Array) => void;
