import { searchIQ4_NL, searchIQ4_XS } from "./codebook";
import { searchQ3_K, searchQ6_K } from "./symmetric";

/**
 * Encodes whole blocks with the least Σ weight · (value − stored)² that a search finds.
 *
 * @param x float32 values, aligned to 16 bytes, finite and within the range of a half
 * @param weights importance of these values, or 0 for weights of 1
 */
export function searchBlocks(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  switch (target) {
    case 11:
      return searchQ3_K(x, weights, output, values);
    case 14:
      return searchQ6_K(x, weights, output, values);
    case 20:
      return searchIQ4_NL(x, weights, output, values);
    case 23:
      return searchIQ4_XS(x, weights, output, values);
  }
  unreachable();
}
