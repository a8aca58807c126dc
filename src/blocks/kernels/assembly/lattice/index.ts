import { encodeIQ2 } from "./iq2";
import { encodeIQ3 } from "./iq3";
import { candidateBytes } from "../search/lattice-tables";
import { latticeBytesOf, makeLatticeTables, useTables } from "./tables";

export { makeLatticeTables };

/** See `tableBytes`. */
export function latticeTableBytes(target: i32): i32 {
  switch (target) {
    case 16:
    case 17:
    case 18:
    case 21:
    case 22:
      return <i32>latticeBytesOf(target) + candidateBytes(target);
  }
  return 0;
}

/** Encodes IQ2_XXS (16), IQ2_XS (17), IQ3_XXS (18), IQ3_S (21) and IQ2_S (22): see `encodeBlocks`. */
export function encodeLattice(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  useTables(target);
  if (target === 18 || target === 21) encodeIQ3(target, x, weights, output, values);
  else encodeIQ2(target, x, weights, output, values);
}
