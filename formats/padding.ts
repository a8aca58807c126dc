/** `offset` rounded up to a multiple of `alignment`; unlike bit tricks, right above 2^32 too. */
export function padTo(offset: number, alignment: number): number {
  return Math.ceil(offset / alignment) * alignment;
}
