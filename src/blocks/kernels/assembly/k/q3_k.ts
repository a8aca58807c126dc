// Q3_K: 16 sub-blocks of 16 values; a scale for each, in 6-bit steps of one half for all 256.

import { extremeOf16 } from "../extreme";
import { floatOf, halfOf } from "../half";
import { squareSums, turnRows } from "../turn";
import { changedLevels, descend, inverses as firstInverses, scales as firstScales } from "./descent";
import { divided, multiplied } from "./levels";
import { search32, search4, turned, WEIGHTS } from "./search";

const VALUES: i32 = 256;
const BYTES: usize = 110;

/** Levels of a block, 0…7, and the codes of its scales, 0…63. */
export const levels: usize = memory.data(256, 16);
export const codes: usize = memory.data(16, 16);

/** Of the sub-blocks of four blocks: their scales, the inverse scales of their levels, their weights. */
const scales: usize = memory.data(4 * 64, 16);
const inverses: usize = memory.data(4 * 64, 16);
const totals: usize = memory.data(4 * 64, 16);
/** Of four blocks: twice the mean square, the step of the scales and the inverse of that step. */
const spreads: usize = memory.data(4 * 4, 16);
const steps: usize = memory.data(4 * 4, 16);
const stepInverses: usize = memory.data(4 * 4, 16);

/** Packs the levels: high bits of values 32 apart, then the low two bits of each. */
// @ts-ignore: decorator
@inline export function packLevels(output: usize): void {
  for (let l: usize = 0; l < 32; l += 16) {
    let high = i32x4.splat(0);
    for (let h: usize = 0; h < 2; h++) {
      const from = levels + 128 * h + l;
      const a = v128.load(from);
      const b = v128.load(from, 32);
      const c = v128.load(from, 64);
      const d = v128.load(from, 96);
      // Only bits that stay in their byte are left before a shift.
      const four = i8x16.splat(4);
      const two = v128.or(i16x8.shr_u(v128.and(a, four), 2), i16x8.shr_u(v128.and(b, four), 1));
      const more = v128.or(v128.and(c, four), i16x8.shl(v128.and(d, four), 1));
      high = v128.or(high, i16x8.shl(v128.or(two, more), 4 * <i32>h));
      const three = i8x16.splat(3);
      const low = v128.or(v128.and(a, three), i16x8.shl(v128.and(b, three), 2));
      const rest = v128.or(i16x8.shl(v128.and(c, three), 4), i16x8.shl(v128.and(d, three), 6));
      v128.store(output + 32 * h + l, v128.or(low, rest), 32);
    }
    v128.store(output + l, high);
  }
}

/** Packs the codes: nibbles of scales eight apart, then the high two bits of scales four apart. */
// @ts-ignore: decorator
@inline export function packCodes(output: usize): void {
  const low: u64 = 0x0f0f0f0f0f0f0f0f;
  store<u64>(output, (load<u64>(codes) & low) | ((load<u64>(codes, 8) & low) << 4), 96);
  let high: u32 = 0;
  for (let k: u32 = 0; k < 4; k++) high |= ((load<u32>(codes + 4 * k) >> 4) & 0x03030303) << (2 * k);
  store<u32>(output, high, 104);
}

/**
 * Writes a block. Where the half or a code is zero the levels of a sub-block are the ones it was searched with.
 *
 * @param s number of its first sub-block in the arrays of sub-blocks
 */
// @ts-ignore: decorator
@inline function write(x: usize, s: usize, step: f32, weighted: bool, output: usize): void {
  const half = halfOf(step);
  store<u16>(output, half, 108);
  const d = floatOf(half);
  for (let k: usize = 0; k < 16; k++) {
    const scale = d * <f32>(<i32>load<u8>(codes + k) - 32);
    const from = x + 64 * k;
    let bytes: v128;
    if (scale != 0) bytes = divided(from, scale, 4);
    else if (weighted) bytes = multiplied(from, load<f32>(inverses + 4 * (s + k)), 4);
    else bytes = changedLevels(s + k, multiplied(from, load<f32>(firstInverses + 4 * (s + k)), 4));
    v128.store(levels + 16 * k, bytes);
  }
  packCodes(output);
  packLevels(output);
}

/** Q3_K of at most 4096 float32 values, with the largest scale of a block as its last code. */
export function q3_k(x: usize, output: usize, values: i32): void {
  descend(x, values);
  for (let i = 0; i < values; i += VALUES) {
    const s = <usize>(i >> 4);
    const extreme = extremeOf16(firstScales + 4 * s);
    const inverse: f32 = extreme == 0 ? 0 : -32 / extreme;
    v128.store(codes, multiplied(firstScales + 4 * s, inverse, 32));
    write(x, s, extreme == 0 ? 0 : 1 / inverse, false, output);
    x += 4 * VALUES;
    output += BYTES;
  }
}

/** Searches the scales of a block's sub-blocks and sums up their weights; `s` is the number of the first. */
// @ts-ignore: decorator
@inline function searchBlock(x: usize, weights: usize, spread: v128, s: usize): void {
  for (let k: usize = 0; k < 16; k += 4) {
    turnRows(x + 64 * k, 64, 16, turned);
    turnRows(weights + 64 * k, 64, 16, turned + WEIGHTS);
    let total = i32x4.splat(0);
    for (let at = turned; at < turned + 16 * 16; at += 16) {
      const value = v128.load(at);
      const root = f32x4.sqrt(f32x4.add(spread, f32x4.mul(value, value)));
      const weight = f32x4.mul(v128.load(at, WEIGHTS), root);
      v128.store(at, weight, WEIGHTS);
      total = f32x4.add(total, weight);
    }
    v128.store(totals + 4 * (s + k), total);
    search4(scales + 4 * (s + k), inverses + 4 * (s + k));
  }
}

/**
 * Q3_K of at most 4096 float32 values whose errors weigh by `weights`. Four blocks at a time give the search of
 * their steps a lane each; where fewer are left, the other lanes hold what does not matter.
 */
export function weightedQ3_K(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 4 * VALUES) {
    const blocks = <usize>min(4, (values - i) / VALUES);
    v128.store(spreads, f32x4.mul(squareSums(x, 1024, 256), f32x4.splat(2.0 / 256)));
    for (let b: usize = 0; b < blocks; b++) {
      searchBlock(x + 1024 * b, weights + 1024 * b, v128.load32_splat(spreads + 4 * b), 16 * b);
    }
    turnRows(scales, 64, 16, turned);
    turnRows(totals, 64, 16, turned + WEIGHTS);
    search32(steps, stepInverses);
    for (let b: usize = 0; b < blocks; b++) {
      v128.store(codes, multiplied(scales + 64 * b, load<f32>(stepInverses + 4 * b), 32));
      write(x + 1024 * b, 16 * b, load<f32>(steps + 4 * b), true, output + BYTES * b);
    }
    x += 4 * 1024;
    weights += 4 * 1024;
    output += 4 * BYTES;
  }
}
