// Codes of a few bits, lowest bits first.

import { levels16 } from "../search/scaled";

/** Stores the codes of 16 values, given their inverse scale and zero point. */
// @ts-ignore: decorator
@inline function pack16(bits: i32, x: usize, inverse: v128, zero: i32, output: usize): void {
  const top = (1 << bits) - 1;
  if (bits == 8) {
    // Bytes are joined as signed ones.
    const centred = levels16(x, inverse, -zero, top - zero, 128 - zero);
    v128.store(output, v128.xor(centred, i8x16.splat(<i8>0x80)));
    return;
  }
  const codes = levels16(x, inverse, -zero, top - zero, -zero);
  const twos = v128.and(v128.or(codes, i16x8.shr_u(codes, 8 - bits)), i16x8.splat(0xff));
  if (bits == 4) {
    store<i64>(output, i64x2.extract_lane(i8x16.narrow_i16x8_u(twos, twos), 0));
    return;
  }
  const fours = v128.and(v128.or(twos, i32x4.shr_u(twos, 12)), i32x4.splat(0xff));
  const words = i16x8.narrow_i32x4_u(fours, fours);
  store<i32>(output, i32x4.extract_lane(i8x16.narrow_i16x8_u(words, words), 0));
}

/** Stores the codes of a block. */
// @ts-ignore: decorator
@inline export function packBlock(bits: i32, x: usize, values: usize, scale: f32, zero: f32, output: usize): void {
  const inverse = f32x4.splat(scale == 0 ? 0 : 1 / scale);
  for (let end = x + 4 * values; x < end; x += 64) {
    pack16(bits, x, inverse, <i32>zero, output);
    output += 2 * <usize>bits;
  }
}

/** Stores zero points, one a byte, as codes of a few bits; what is left of the last byte is 0. */
// @ts-ignore: decorator
@inline export function packPoints(bits: i32, points: usize, count: i32, output: usize): void {
  const each = 8 / bits;
  for (let first = 0; first < count; first += each) {
    let byte = 0;
    for (let k = first; k < min(first + each, count); k++) {
      byte |= <i32>load<u8>(points + <usize>k) << (bits * (k - first));
    }
    store<u8>(output++, byte);
  }
}
