/** Encodes IQ4_NL (20) and IQ4_XS (23): see `encodeBlocks`. */
export function encodeCodebook(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  unreachable();
}
