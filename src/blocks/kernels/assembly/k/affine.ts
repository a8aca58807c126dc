/** Encodes Q2_K (10), Q4_K (12) and Q5_K (13): see `encodeBlocks`. */
export function encodeAffine(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  unreachable();
}
