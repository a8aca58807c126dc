import { bfloatToFloat, floatToHalf, halfToFloat } from "../floats.js";

/** Values of a block of Q4_0. */
export const LATTICE_BLOCK = 32;

/** A block of values on a lattice: value = bfloat16(scale · level). */
export interface LatticeFit {
  /** The half that the block stores, as a number and as its bits. */
  readonly scale: number;
  readonly half: number;
  /** How many different magnitudes but zero its levels have. */
  readonly magnitudes: number;
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The bfloat16 that a float32 value rounds to, as its bits. */
function bfloatBits(value: number): number {
  float[0] = value;
  const word = bits[0]!;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Half of what lies between a bfloat16 magnitude and its neighbours, below and above. */
function margins(magnitude: number): [below: number, above: number] {
  const own = bfloatToFloat(magnitude);
  return [(own - bfloatToFloat(magnitude - 1)) / 2, (bfloatToFloat(magnitude + 1) - own) / 2];
}

/**
 * Writes the levels of a block under a first guess of its scale, and narrows down which scales give just these
 * values; undefined where none does.
 *
 * @param levels [32], receives whole numbers from -8 to 7
 */
function narrow(words: Uint16Array, guess: number, levels: Int8Array): LatticeFit | undefined {
  let low = 0;
  let high = Infinity;
  let seen = 0;
  for (let index = 0; index < LATTICE_BLOCK; index++) {
    const word = words[index]!;
    const magnitude = word & 0x7fff;
    if (magnitude === 0) {
      levels[index] = 0;
      continue;
    }
    const level = Math.round(bfloatToFloat(word) / guess);
    if (level === 0 || level > 7 || level < -8) return undefined;
    const size = Math.abs(level);
    const [below, above] = margins(magnitude);
    const own = bfloatToFloat(magnitude);
    low = Math.max(low, (own - below) / size);
    high = Math.min(high, (own + above) / size);
    if (low > high) return undefined;
    levels[index] = level;
    seen |= 1 << size;
  }
  // The nearest half to the middle: where it lies outside, no half lies inside.
  const half = floatToHalf(Math.sign(guess) * Math.fround((low + high) / 2));
  const scale = halfToFloat(half);
  for (let index = 0; index < LATTICE_BLOCK; index++) {
    const level = levels[index]!;
    const word = words[index]!;
    if (level !== 0 && bfloatBits(scale * level) !== word) return undefined;
  }
  let magnitudes = 0;
  for (let size = 1; size <= 8; size++) magnitudes += (seen >> size) & 1;
  return { scale, half, magnitudes };
}

/**
 * The half under which all values of a block are whole multiples of it from -8 to 7, each rounded to bfloat16, as
 * in checkpoints that were trained for Q4_0 and stored in BF16.
 *
 * @param words [32], values in bfloat16
 * @param levels [32], receives the multiples
 * @returns undefined for a block that Q4_0 does not give back in every bit of bfloat16, but for the sign of a zero
 */
export function fitLattice(words: Uint16Array, levels: Int8Array): LatticeFit | undefined {
  let extreme = 0;
  for (let index = 0; index < LATTICE_BLOCK; index++) {
    const word = words[index]!;
    if ((word & 0x7f80) === 0x7f80) return undefined;
    if ((word & 0x7fff) > (extreme & 0x7fff)) extreme = word;
  }
  if ((extreme & 0x7fff) === 0) {
    levels.fill(0);
    return { scale: 0, half: 0, magnitudes: 0 };
  }
  const largest = bfloatToFloat(extreme);
  // Only -8 has no counterpart of the other sign; a level that fewer steps reach is looked for last.
  for (let size = 8; size >= 1; size--) {
    const found = narrow(words, size === 8 ? -largest / 8 : Math.abs(largest) / size, levels);
    if (found !== undefined) return found;
  }
  return undefined;
}
