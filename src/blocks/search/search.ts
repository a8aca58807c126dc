import { searchMXFP4, searchNVFP4 } from "./fp4.js";
import { searchQ4_1, searchQ5_1 } from "./offset.js";
import { searchQ2_0, searchQ4_0, searchQ5_0, searchQ8_0, searchTQ1_0, searchTQ2_0 } from "./scaled.js";
import { searchQ1_0 } from "./signs.js";
import type { BlockTypeName, Encoder } from "../types.js";

/**
 * Encoders that look for the least Σ importance · (value − stored)², in plain TypeScript: what the kernels are
 * held to. Types that are not here are written with ggml's method only.
 */
export const searchers: ReadonlyMap<BlockTypeName, Encoder> = new Map([
  ["Q4_0", searchQ4_0],
  ["Q5_0", searchQ5_0],
  ["Q4_1", searchQ4_1],
  ["Q5_1", searchQ5_1],
  ["Q8_0", searchQ8_0],
  ["Q2_0", searchQ2_0],
  ["TQ1_0", searchTQ1_0],
  ["TQ2_0", searchTQ2_0],
  ["MXFP4", searchMXFP4],
  ["NVFP4", searchNVFP4],
  ["Q1_0", searchQ1_0],
]);
