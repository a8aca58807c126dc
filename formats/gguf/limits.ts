/**
 * Bounds on what a GGUF header may claim. They hold for reading (a hostile file must not make us
 * allocate or loop) and for writing (what we write, we can read). Beside each: the largest real value
 * known, from Gemma 4's files unless another is named.
 */

/** The format's own bound. Real: 43 bytes, in llama.cpp's vocabulary files. */
export const MAX_KEY_BYTES = 65_535;

/** ggml keeps a name in 64 bytes with its terminator. Real: below 48 bytes. */
export const MAX_TENSOR_NAME_BYTES = 63;

/** ggml's tensors have four dimensions. */
export const MAX_DIMENSIONS = 4;

/** Each costs a map entry. Real: 42 in the vocabulary file, some 20 more in a model. */
export const MAX_METADATA_KEYS = 65_536;

/** Each costs some 300 bytes of heap. Real: 1,411, the vision and audio towers of E2B. */
export const MAX_TENSORS = 1_048_576;

/** Half of V8's longest string. Real: 33 MB, a tokenizer.json embedded as one value. */
export const MAX_STRING_BYTES = 2 ** 28;

/** A list of booleans costs 8 bytes of heap for each. Real: 514,906 merges. */
export const MAX_ARRAY_ELEMENTS = 2 ** 26;

/** Everything before the tensor data, and every list in it, so that 32-bit offsets suffice. Real: 15.8 MB. */
export const MAX_HEADER_BYTES = 2 ** 30;
