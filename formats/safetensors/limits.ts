/**
 * Bounds on what a checkpoint may claim, so that a hostile file makes us neither allocate nor loop. They
 * hold for reading and for writing. Beside each: the largest real value known.
 */

/** The Rust library's own bound. Real: 281,048 bytes, Gemma 4 E4B. */
export const MAX_HEADER_BYTES = 100_000_000;

/** A line for each tensor, as in a header. Real: 60 MB, Kimi K3. */
export const MAX_INDEX_BYTES = 100_000_000;

/** In one checkpoint; each costs some 300 bytes of heap. Real: 497,000, Kimi K3; 2,130, Gemma 4 E4B. */
export const MAX_TENSORS = 1_048_576;

/** UTF-16 units. Real: 69 in Gemma 4, some 110 elsewhere. */
export const MAX_NAME_LENGTH = 1024;

/** PyTorch and NumPy stop at 64. Real: 5, convolutions over video. */
export const MAX_DIMENSIONS = 64;

/** Entries of `__metadata__`. Real: 1 for models, about 100 for adapters that keep their training settings. */
export const MAX_METADATA_ENTRIES = 65_536;

/** Files of one checkpoint. Real: 191, Llama 3.1 405B. */
export const MAX_SHARDS = 1000;

/** Longest file name on the file systems in use. Real: 33. */
export const MAX_SHARD_NAME_BYTES = 255;
