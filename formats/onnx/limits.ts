/**
 * Bounds on what an ONNX model may claim. They hold for reading (a hostile file must not make us allocate,
 * loop or run out of stack) and for writing (what we write, we can read). Beside each: the largest real value
 * known.
 */

/** No protobuf message is larger. */
export const MAX_MESSAGE_BYTES = 2 ** 31 - 1;

/** Graph file, held in memory as a whole; the weights lie in other files. Real: 0.8 MB, a 4-bit decoder of E4B. */
export const MAX_GRAPH_BYTES = 2 ** 29;

/** Messages inside each other; libraries stop at 100. Real: 10, an If in the body of a Loop. */
export const MAX_NESTING = 64;

/** Messages in all; each costs up to 500 bytes of heap. Real: 900,000, a mixture of experts unrolled to 183,000 nodes. */
export const MAX_MESSAGES = 2 ** 21;

/** Texts and numbers in lists, in all; a 64-bit number costs 40 bytes of heap. Real: a million, in the same file. */
export const MAX_VALUES = 2 ** 22;

/** One text; bytes of tensors are no texts. Real: some kB, the stack traces that PyTorch leaves in doc strings. */
export const MAX_STRING_BYTES = 2 ** 24;

/** PyTorch and NumPy stop at 64. Real: 5. */
export const MAX_DIMENSIONS = 64;

/** Data files that a model may refer to. Real: 1,000, where every tensor has its own. */
export const MAX_DATA_FILES = 65_536;

/** Path of a data file; the longest path on Linux. Real: 35. */
export const MAX_LOCATION_BYTES = 4096;

/** Data of a tensor that is written into the graph file itself. Larger ones belong beside it, so that graphs stay small. */
export const MAX_INLINE_BYTES = 1024;

/** Size of one data file that is written: browsers hold no larger buffer. */
export const MAX_DATA_FILE_BYTES = 2 ** 31 - 1;

/** Data files of one graph that transformers.js fetches. Real: 5, the decoder of E2B in fp32. */
export const MAX_CHUNKS = 100;
