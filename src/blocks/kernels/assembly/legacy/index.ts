/** Encodes Q4_0 (2, with weights), Q4_1 (3), Q5_0 (6), Q5_1 (7), TQ1_0 (34), TQ2_0 (35), MXFP4 (39), NVFP4 (40), Q1_0 (41) and Q2_0 (42): see `encodeBlocks`. */
export function encodeLegacy(target: i32, x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  unreachable();
}
