/** Spreads every bit over all others, and loses none: the last step of MurmurHash3. */
function spread(bits: number): number {
  let mixed = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

/** One checksum of 32 bits for those of the parts of a tile; their order counts. */
export function joinChecksums(checksums: readonly number[]): number {
  let joined = spread(checksums.length);
  for (const checksum of checksums) joined = spread(((joined ^ checksum) + 0x9e3779b9) | 0);
  return joined >>> 0;
}
