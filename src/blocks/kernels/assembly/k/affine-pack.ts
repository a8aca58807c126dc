// Bytes of Q2_K, Q4_K and Q5_K. Levels of scales come from `affine-fields.ts`, levels of values one a byte.

import { FIELD_STEP, MINIMUM_LEVELS, SCALE_LEVELS } from "./affine-fields";

/** Stores the scales of Q2_K, nibbles of one byte with the minimums. */
export function packScales(found: usize, to: usize): void {
  for (let s: usize = 0; s < 16; s++) {
    const at = found + FIELD_STEP * s;
    store<u8>(to + s, load<i32>(at, SCALE_LEVELS) | (load<i32>(at, MINIMUM_LEVELS) << 4));
  }
}

/** A scale of Q2_K as a reader finds it, and 256 times its minimum. */
// @ts-ignore: decorator
@inline export function scalesOf(from: usize, s: usize): i32 {
  const byte = <i32>load<u8>(from + s);
  return (byte & 15) | ((byte >> 4) << 8);
}

/**
 * Stores pairs of six bits: four pairs as they are, and the upper two bits of the other four on top of those.
 *
 * @param limit what larger levels are cut to; only those of negative numbers are larger
 */
export function packPairs(found: usize, limit: i32, to: usize): void {
  for (let s: usize = 0; s < 4; s++) {
    const at = found + FIELD_STEP * s;
    const scale = min(limit, load<i32>(at, SCALE_LEVELS + 4 * FIELD_STEP));
    const minimum = min(limit, load<i32>(at, MINIMUM_LEVELS + 4 * FIELD_STEP));
    store<u8>(to + s, min(limit, load<i32>(at, SCALE_LEVELS)) | ((scale >> 4) << 6));
    store<u8>(to + s, min(limit, load<i32>(at, MINIMUM_LEVELS)) | ((minimum >> 4) << 6), 4);
    store<u8>(to + s, (scale & 15) | ((minimum & 15) << 4), 8);
  }
}

/** A scale of Q4_K or Q5_K as a reader finds it, and 256 times its minimum. */
// @ts-ignore: decorator
@inline export function pairOf(from: usize, s: usize): i32 {
  if (s < 4) return (<i32>load<u8>(from + s) & 63) | ((<i32>load<u8>(from + s, 4) & 63) << 8);
  const low = <i32>load<u8>(from + s, 4);
  const scale = (low & 15) | ((<i32>load<u8>(from + s - 4) >> 6) << 4);
  return scale | (((low >> 4) | ((<i32>load<u8>(from + s) >> 6) << 4)) << 8);
}

/** Two bits of values that are 32 apart. */
// @ts-ignore: decorator
@inline function packPairsOfBits(levels: usize, to: usize): void {
  for (let h: usize = 0; h < 2; h++) {
    for (let l: usize = 0; l < 32; l += 16) {
      const at = levels + 128 * h + l;
      const first = v128.or(v128.load(at), i8x16.shl(v128.load(at, 32), 2));
      const second = v128.or(i8x16.shl(v128.load(at, 64), 4), i8x16.shl(v128.load(at, 96), 6));
      v128.store(to + 32 * h + l, v128.or(first, second));
    }
  }
}

// @ts-ignore: decorator
@inline function lowNibbles(at: usize): v128 {
  return v128.and(v128.load(at), i8x16.splat(15));
}

/** Low nibbles of values that are 32 apart. */
// @ts-ignore: decorator
@inline function packNibbles(levels: usize, to: usize): void {
  for (let pair: usize = 0; pair < 4; pair++) {
    for (let l: usize = 0; l < 32; l += 16) {
      const at = levels + 64 * pair + l;
      v128.store(to + 32 * pair + l, v128.or(lowNibbles(at), i8x16.shl(lowNibbles(at + 32), 4)));
    }
  }
}

/** Fifth bits of values that are 32 apart. */
// @ts-ignore: decorator
@inline function packFifthBits(levels: usize, to: usize): void {
  for (let l: usize = 0; l < 32; l += 16) {
    let bits = i32x4.splat(0);
    for (let s: i32 = 0; s < 8; s++) {
      const fifth = i8x16.shr_u(v128.load(levels + 32 * <usize>s + l), 4);
      bits = v128.or(bits, i8x16.shl(fifth, s));
    }
    v128.store(to + l, bits);
  }
}

/** Stores the levels of a block of Q2_K (10), Q4_K (12) or Q5_K (13). */
export function packLevels(target: i32, levels: usize, output: usize): void {
  if (target == 10) {
    packPairsOfBits(levels, output + 16);
  } else if (target == 12) {
    packNibbles(levels, output + 16);
  } else {
    packFifthBits(levels, output + 16);
    packNibbles(levels, output + 48);
  }
}
