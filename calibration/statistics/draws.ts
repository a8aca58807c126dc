/** Mixes the bits of a whole number, so that each bit depends on all others: the last step of MurmurHash3. */
function mix(value: number): number {
  let bits = value >>> 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/**
 * A number from 0 up to 1 that looks like chance, and that is the same whenever it is asked for.
 *
 * @param seed which row of numbers
 * @param index which of its numbers; both from 0 to 2^32 − 1
 */
export function drawNumber(seed: number, index: number): number {
  return mix(index + mix(seed + 0x9e3779b9)) / 2 ** 32;
}
