import type { NBitsType } from "../../nbits/types.js";
import type { BlockTypeName } from "../../types.js";
import { iq4_nl, iq4_xs, mxfp4, nvfp4 } from "./codebook.js";
import { q2_k, q3_k, q4_k, q5_k, q6_k } from "./k.js";
import type { Layout } from "./layout.js";
import { q1_0, q2_0, q4_0, q4_1, q5_0, q5_1, q8_0, tq1_0, tq2_0 } from "./legacy.js";
import { nbitsLayout } from "./nbits.js";
import { iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs } from "./points.js";

const layouts: ReadonlyMap<BlockTypeName, Layout> = new Map<BlockTypeName, Layout>([
  ["Q4_0", q4_0],
  ["Q4_1", q4_1],
  ["Q5_0", q5_0],
  ["Q5_1", q5_1],
  ["Q8_0", q8_0],
  ["Q1_0", q1_0],
  ["Q2_0", q2_0],
  ["TQ1_0", tq1_0],
  ["TQ2_0", tq2_0],
  ["Q2_K", q2_k],
  ["Q3_K", q3_k],
  ["Q4_K", q4_k],
  ["Q5_K", q5_k],
  ["Q6_K", q6_k],
  ["IQ4_NL", iq4_nl],
  ["IQ4_XS", iq4_xs],
  ["MXFP4", mxfp4],
  ["NVFP4", nvfp4],
  ["IQ1_S", iq1_s],
  ["IQ1_M", iq1_m],
  ["IQ2_XXS", iq2_xxs],
  ["IQ2_XS", iq2_xs],
  ["IQ2_S", iq2_s],
  ["IQ3_XXS", iq3_xxs],
  ["IQ3_S", iq3_s],
]);

/**
 * The layout of what values are rounded to; undefined for the types whose groups are points of a lattice, whose values
 * cannot be chosen one by one.
 */
export function layoutOf(target: BlockTypeName | NBitsType): Layout | undefined {
  return typeof target === "string" ? layouts.get(target) : nbitsLayout(target);
}
