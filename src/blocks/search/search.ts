import type { BlockTypeName, Encoder } from "../types.js";
import { iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs } from "./lattice-kinds.js";
import { latticeSearch } from "./lattice.js";

/**
 * Encoders that look for the least Σ importance · (value − stored)², in plain TypeScript: what the kernels are
 * held to. Types that are not here are written with ggml's method only.
 */
export const searchers: ReadonlyMap<BlockTypeName, Encoder> = new Map([
  ["IQ2_XXS", latticeSearch(iq2_xxs)],
  ["IQ2_XS", latticeSearch(iq2_xs)],
  ["IQ2_S", latticeSearch(iq2_s)],
  ["IQ3_XXS", latticeSearch(iq3_xxs)],
  ["IQ3_S", latticeSearch(iq3_s)],
]);
