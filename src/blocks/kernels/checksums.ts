/** An odd number with bits all over: 2^32 divided by the golden ratio. */
const FACTOR = 0x9e37_79b1;

/**
 * Checksum of several pieces from those of each, 32 bits: another one for other pieces, or for the same in another
 * order. That of a single piece is its own.
 */
export function combineChecksums(checksums: readonly number[]): number {
  return checksums.reduce((sum, each) => (Math.imul(sum, FACTOR) + each) >>> 0, 0);
}
