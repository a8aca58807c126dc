import type { BlockTypeName, Encoder } from "../types.js";
import { searchQ2_K, searchQ4_K, searchQ5_K } from "./k-affine.js";

/**
 * Encoders that look for the least Σ importance · (value − stored)², in plain TypeScript: what the kernels are
 * held to. Types that are not here are written with ggml's method only.
 */
export const searchers: ReadonlyMap<BlockTypeName, Encoder> = new Map([
  ["Q2_K", searchQ2_K],
  ["Q4_K", searchQ4_K],
  ["Q5_K", searchQ5_K],
]);
