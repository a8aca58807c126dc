import type { BlockTypeName, Encoder } from "../types.js";
import { searchIQ4_NL, searchIQ4_XS } from "./codebook.js";
import { searchQ3_K, searchQ6_K } from "./symmetric.js";

/**
 * Encoders that look for the least Σ importance · (value − stored)², in plain TypeScript: what the kernels are
 * held to. Types that are not here are written with ggml's method only.
 */
export const searchers: ReadonlyMap<BlockTypeName, Encoder> = new Map<BlockTypeName, Encoder>([
  ["Q3_K", searchQ3_K],
  ["Q6_K", searchQ6_K],
  ["IQ4_NL", searchIQ4_NL],
  ["IQ4_XS", searchIQ4_XS],
]);
