import { rowBytes } from "../table.js";
import { fitLattice, LATTICE_BLOCK } from "./fit.js";

/** Bytes of a block of Q4_0: a half, then two levels a byte. */
const BLOCK_BYTES = 18;

/**
 * Packs values that lie on lattices into Q4_0, so that what comes back is the same in bfloat16.
 *
 * @param words values in bfloat16, whole blocks
 * @returns the blocks; or the index of the first block that is on no lattice
 */
export function encodeLattice(words: Uint16Array): Uint8Array | number {
  const out = new Uint8Array(rowBytes("Q4_0", words.length));
  const levels = new Int8Array(LATTICE_BLOCK);
  for (let block = 0; block < words.length / LATTICE_BLOCK; block++) {
    const fit = fitLattice(words.subarray(block * LATTICE_BLOCK, (block + 1) * LATTICE_BLOCK), levels);
    if (fit === undefined) return block;
    const at = block * BLOCK_BYTES;
    out[at] = fit.half;
    out[at + 1] = fit.half >>> 8;
    for (let index = 0; index < LATTICE_BLOCK / 2; index++)
      out[at + 2 + index] = (levels[index]! + 8) | ((levels[index + LATTICE_BLOCK / 2]! + 8) << 4);
  }
  return out;
}
