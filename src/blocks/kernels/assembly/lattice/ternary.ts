/** See \`tableBytes\`. */
export function ternaryTableBytes(target: i32): i32 {
  return 0;
}

/** See \`makeTables\`. */
export function makeTernaryTables(target: i32, at: usize): void {
  unreachable();
}

/** Encodes IQ1_S (19) and IQ1_M (29): see `encodeBlocks`. */
export function encodeTernaryLattice(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  unreachable();
}
