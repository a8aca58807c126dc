import { openFile } from "../../formats/file-source.js";
import { fitLattice, LATTICE_BLOCK } from "../../src/blocks/lattice/fit.js";

/** Values that are read at a time: 512 KiB of BF16. Of what is on no lattice the first block tells, nearly always. */
const PIECE_VALUES = 2 ** 18;
/** Before the first whole piece: a checkpoint of ordinary tensors costs a page of each. */
const FIRST_VALUES = 2 ** 10;
/** Different magnitudes of levels that make a block tell of a lattice: two values lie on one in any case. */
const TELLING = 4;

/** A tensor in BF16 whose rows are whole blocks. */
export interface LatticeCandidate {
  readonly name: string;
  readonly path: string;
  /** Byte offset from the start of the file. */
  readonly offset: number;
  readonly values: number;
}

/**
 * Whether every block of a tensor lies on a lattice of its own that Q4_0 holds: all values come back from it in
 * every bit of bfloat16. Most of the blocks that are not zero have to have levels of some variety.
 *
 * @throws FormatError when the file cannot be read; the signal's reason after an abort
 */
export async function isLattice(
  { path, offset, values }: LatticeCandidate,
  signal: AbortSignal,
): Promise<boolean> {
  if (values % LATTICE_BLOCK !== 0) return false;
  const file = await openFile(path);
  const levels = new Int8Array(LATTICE_BLOCK);
  let buffer = new Uint16Array(Math.min(FIRST_VALUES, values));
  let telling = 0;
  let filled = 0;
  try {
    for (let first = 0; first < values;) {
      signal.throwIfAborted();
      const words = buffer.subarray(0, Math.min(buffer.length, values - first));
      await file.read(new Uint8Array(buffer.buffer, 0, words.byteLength), offset + 2 * first);
      for (let at = 0; at < words.length; at += LATTICE_BLOCK) {
        const fit = fitLattice(words.subarray(at, at + LATTICE_BLOCK), levels);
        if (fit === undefined) return false;
        if (fit.magnitudes > 0) filled++;
        if (fit.magnitudes >= TELLING) telling++;
      }
      if (first === 0) buffer = new Uint16Array(Math.min(PIECE_VALUES, values));
      first += words.length;
      // Zeros, or two values: a table that was never trained is not read to its end.
      if (first >= PIECE_VALUES && telling * 2 <= filled) return false;
    }
  } finally {
    await file.close();
  }
  return telling * 2 > filled;
}
