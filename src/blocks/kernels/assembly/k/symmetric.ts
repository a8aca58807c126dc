// Block types of 256 values with a scale and no minimum for every 16 of them.

import { weightedQ6_K } from "../q6_k";
import { q3_k, weightedQ3_K } from "./q3_k";

const Q3_K: i32 = 11;

/** Encodes Q3_K (11) and, with weights, Q6_K (14): see `encodeBlocks`. */
export function encodeSymmetric(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  if (target !== Q3_K) weightedQ6_K(x, weights, output, values);
  else if (weights === 0) q3_k(x, output, values);
  else weightedQ3_K(x, weights, output, values);
}
