import { searchLattice } from "./lattice";

/**
 * Encodes whole blocks with the least Σ weight · (value − stored)² that a search finds.
 *
 * @param x float32 values, aligned to 16 bytes, finite and within the range of a half
 * @param weights importance of these values, or 0 for weights of 1
 */
export function searchBlocks(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  switch (target) {
    case 16:
    case 17:
    case 18:
    case 21:
    case 22:
      return searchLattice(target, x, weights, output, values);
  }
  unreachable();
}
