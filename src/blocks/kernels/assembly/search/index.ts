import { searchMXFP4, searchNVFP4 } from "./fp4";
import { searchAffine } from "./k-affine";
import { searchQ4_1, searchQ5_1 } from "./offset";
import { searchQ8_0 } from "./q8_0";
import { searchQ2_0, searchQ4_0, searchQ5_0, searchTQ1_0, searchTQ2_0 } from "./scaled";
import { searchQ1_0 } from "./signs";
import { searchIQ4_NL, searchIQ4_XS } from "./codebook";
import { searchQ3_K, searchQ6_K } from "./symmetric";
import { searchLattice } from "./lattice";
import { searchTernary } from "./ternary";

/**
 * Encodes whole blocks with the least Σ weight · (value − stored)² that a search finds.
 *
 * @param x float32 values, aligned to 16 bytes, finite and within the range of a half
 * @param weights importance of these values, or 0 for weights of 1
 * @param meanSquare of the whole row, for the types up to Q5_1 when there are weights
 */
export function searchBlocks(target: i32, x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  switch (target) {
    case 2:
      return searchQ4_0(x, weights, output, values, meanSquare);
    case 3:
      return searchQ4_1(x, weights, output, values, meanSquare);
    case 6:
      return searchQ5_0(x, weights, output, values, meanSquare);
    case 7:
      return searchQ5_1(x, weights, output, values, meanSquare);
    case 8:
      return searchQ8_0(x, weights, output, values);
    case 10:
    case 12:
    case 13:
      return searchAffine(target, x, weights, output, values);
    case 11:
      return searchQ3_K(x, weights, output, values);
    case 14:
      return searchQ6_K(x, weights, output, values);
    case 34:
      return searchTQ1_0(x, weights, output, values);
    case 35:
      return searchTQ2_0(x, weights, output, values);
    case 39:
      return searchMXFP4(x, weights, output, values);
    case 40:
      return searchNVFP4(x, weights, output, values);
    case 41:
      return searchQ1_0(x, weights, output, values);
    case 42:
      return searchQ2_0(x, weights, output, values);
    case 16:
    case 17:
    case 18:
    case 21:
    case 22:
      return searchLattice(target, x, weights, output, values);
    case 19:
    case 29:
      return searchTernary(target, x, weights, output, values);
    case 20:
      return searchIQ4_NL(x, weights, output, values);
    case 23:
      return searchIQ4_XS(x, weights, output, values);
  }
  unreachable();
}
