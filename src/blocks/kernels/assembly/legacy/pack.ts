// The levels of 32 values in the 32-value types: nibbles, values 0–15 low and 16–31 high, and fifth bits before them.

/** The bits of `MAGIC`. */
export const MAGIC_BITS: i32 = 0x4b400000;

/** Bytes of 16 small integers. */
// @ts-ignore: decorator
@inline export function bytesOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Stores two sets of 16 nibbles. */
// @ts-ignore: decorator
@inline export function packNibbles(low: v128, high: v128, output: usize): void {
  v128.store(output, v128.or(low, i16x8.shl(high, 4)));
}

/** Stores two sets of 16 levels of five bits: 32 fifth bits, then nibbles. */
// @ts-ignore: decorator
@inline export function packFifths(low: v128, high: v128, output: usize): void {
  const fifths = i8x16.bitmask(i16x8.shl(low, 3)) | (i8x16.bitmask(i16x8.shl(high, 3)) << 16);
  store<i32>(output, fifths);
  const nibble = i8x16.splat(15);
  packNibbles(v128.and(low, nibble), v128.and(high, nibble), output + 4);
}
