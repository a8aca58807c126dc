import type { BlockTypeName, Encoder } from "../types.js";
import { searchMXFP4, searchNVFP4 } from "./fp4.js";
import { searchQ2_K, searchQ4_K, searchQ5_K } from "./k-affine.js";
import { searchQ4_1, searchQ5_1 } from "./offset.js";
import { searchQ8_0 } from "./q8_0.js";
import { searchQ2_0, searchQ4_0, searchQ5_0, searchTQ1_0, searchTQ2_0 } from "./scaled.js";
import { searchQ1_0 } from "./signs.js";
import { searchIQ4_NL, searchIQ4_XS } from "./codebook.js";
import { searchQ3_K, searchQ6_K } from "./symmetric.js";
import { iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs } from "./lattice-kinds.js";
import { latticeSearch } from "./lattice.js";
import { makePlacer } from "./lattice-place.js";
import { searchIQ1_M, searchIQ1_S } from "./ternary.js";

/**
 * Encoders that look for the least Σ importance · (value − stored)², in plain TypeScript: what the kernels are
 * held to. Types that are not here are written with ggml's method only.
 */
export const searchers: ReadonlyMap<BlockTypeName, Encoder> = new Map<BlockTypeName, Encoder>([
  ["Q4_0", searchQ4_0],
  ["Q5_0", searchQ5_0],
  ["Q4_1", searchQ4_1],
  ["Q5_1", searchQ5_1],
  ["Q8_0", searchQ8_0],
  ["Q2_K", searchQ2_K],
  ["Q3_K", searchQ3_K],
  ["Q4_K", searchQ4_K],
  ["Q5_K", searchQ5_K],
  ["Q6_K", searchQ6_K],
  ["Q2_0", searchQ2_0],
  ["Q1_0", searchQ1_0],
  ["TQ1_0", searchTQ1_0],
  ["TQ2_0", searchTQ2_0],
  ["MXFP4", searchMXFP4],
  ["NVFP4", searchNVFP4],
  ["IQ1_S", searchIQ1_S],
  ["IQ1_M", searchIQ1_M],
  ["IQ2_XXS", latticeSearch(iq2_xxs, makePlacer)],
  ["IQ2_XS", latticeSearch(iq2_xs, makePlacer)],
  ["IQ2_S", latticeSearch(iq2_s, makePlacer)],
  ["IQ3_XXS", latticeSearch(iq3_xxs, makePlacer)],
  ["IQ3_S", latticeSearch(iq3_s, makePlacer)],
  ["IQ4_NL", searchIQ4_NL],
  ["IQ4_XS", searchIQ4_XS],
]);
