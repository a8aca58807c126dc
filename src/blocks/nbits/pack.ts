/** Packs codes of a few bits, lowest bits first; what is left of the last byte is 0. */
export function packCodes(codes: Uint8Array, bits: number, out: Uint8Array): void {
  const each = 8 / bits;
  out.fill(0);
  for (const [index, code] of codes.entries()) {
    out[Math.floor(index / each)]! |= code << (bits * (index % each));
  }
}

/** Code `index` of a run of codes of a few bits. */
export function codeAt(bytes: Uint8Array, bits: number, index: number): number {
  const each = 8 / bits;
  return (bytes[Math.floor(index / each)]! >> (bits * (index % each))) & (2 ** bits - 1);
}
