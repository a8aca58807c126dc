/** See \`tableBytes\`. */
export function latticeTableBytes(target: i32): i32 {
  return 0;
}

/** See \`makeTables\`. */
export function makeLatticeTables(target: i32, at: usize): void {
  unreachable();
}

/** Encodes IQ2_XXS (16), IQ2_XS (17), IQ3_XXS (18), IQ3_S (21) and IQ2_S (22): see `encodeBlocks`. */
export function encodeLattice(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  unreachable();
}
