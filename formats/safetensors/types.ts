/** Every dtype that the format names (as the Rust library lists them), with its width in bits. */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type Dtype = keyof typeof DTYPE_BITS;

/** Where one tensor lies. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  /** Outermost dimension first (PyTorch order); empty for a scalar. */
  readonly shape: readonly number[];
  /** Index into `Checkpoint.shards`. */
  readonly shard: number;
  /** Byte offset of the first value in its shard file (header included). */
  readonly offset: number;
  readonly byteLength: number;
}

export interface Shard {
  /** File name inside the checkpoint folder, such as `model-00001-of-00002.safetensors`. */
  readonly file: string;
  /** Full path (or address), for workers that open the file themselves and for messages. */
  readonly path: string;
  readonly size: number;
}

/** A checkpoint whose headers were read and checked; no tensor data is held. */
export interface Checkpoint {
  readonly shards: readonly Shard[];
  /** In file order: shard by shard, by offset inside a shard. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** `__metadata__` of the first shard, without a prototype. */
  readonly metadata: Readonly<Record<string, string>>;
}
