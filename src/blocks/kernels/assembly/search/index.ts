import { searchAffine } from "./k-affine";

/**
 * Encodes whole blocks with the least Σ weight · (value − stored)² that a search finds.
 *
 * @param x float32 values, aligned to 16 bytes, finite and within the range of a half
 * @param weights importance of these values, or 0 for weights of 1
 */
export function searchBlocks(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  if (target == 10 || target == 12 || target == 13) return searchAffine(target, x, weights, output, values);
  unreachable();
}
