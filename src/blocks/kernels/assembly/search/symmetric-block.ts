// A block whose sub-blocks have a scale and no offset, turned: lanes are sub-blocks, four of them a group.

import { NEGLIGIBLE } from "../extreme";
import { turnRows } from "../turn";

/** Bytes of the turned values of a block, of its weights and of their products, one after the other. */
const PART: usize = 4 * 256;
export const WEIGHTS: usize = PART;
export const PRODUCTS: usize = 2 * PART;

/** Value j of the sub-blocks of group g is vector g · size + j. */
export const block: usize = memory.data(3 * 4 * 256, 16);

/** What the weights of each sub-block were divided by, as a part of the largest of the block. */
export const shares: usize = memory.data(4 * 16, 16);

/** Weights of 1 in a group, at `at` in the block. */
// @ts-ignore: decorator
@inline function even(at: usize, size: usize): void {
  for (let j: usize = 0; j < 16 * size; j += 16) v128.store(at + j, f32x4.splat(1), WEIGHTS);
}

/** The largest weights of the sub-blocks of a group. */
// @ts-ignore: decorator
@inline function most(at: usize, size: usize): v128 {
  let found = i32x4.splat(0);
  for (let j: usize = 0; j < 16 * size; j += 16) found = f32x4.pmax(found, v128.load(at + j, WEIGHTS));
  return found;
}

/** The largest of sixteen shares. */
// @ts-ignore: decorator
@inline function largestShare(): v128 {
  let all = f32x4.pmax(v128.load(shares), v128.load(shares, 16));
  all = f32x4.pmax(all, f32x4.pmax(v128.load(shares, 32), v128.load(shares, 48)));
  all = f32x4.pmax(all, v128.shuffle<i64>(all, all, 1, 0));
  return f32x4.pmax(all, v128.shuffle<i32>(all, all, 1, 0, 3, 2));
}

/**
 * Turns a block of 256 values or four of 32, and splits its weights; those of a block or a sub-block without
 * importance count as 1.
 *
 * @param size values of a sub-block
 * @param groups four sub-blocks each
 * @param weights importance of the values, or 0
 * @param apart whether each sub-block is a block of its own
 */
// @ts-ignore: decorator
@inline export function turnBlock(x: usize, weights: usize, size: usize, groups: usize, apart: bool): void {
  const bytes: usize = 16 * size;
  for (let g: usize = 0; g < groups; g++) {
    const at = block + bytes * g;
    turnRows(x + bytes * g, 4 * size, size, at);
    v128.store(shares + 16 * g, f32x4.splat(1));
    if (weights === 0) {
      even(at, size);
    } else {
      turnRows(weights + bytes * g, 4 * size, size, at + WEIGHTS);
      v128.store(shares + 16 * g, most(at, size));
    }
  }
  for (let g = groups; g < 4; g++) v128.store(shares + 16 * g, i32x4.splat(0));
  if (weights !== 0) {
    const whole = apart ? i32x4.splat(0) : largestShare();
    const lost = f32x4.eq(whole, i32x4.splat(0));
    for (let g: usize = 0; g < groups; g++) {
      const at = block + bytes * g;
      const own = v128.load(shares + 16 * g);
      const none = f32x4.eq(own, i32x4.splat(0));
      v128.store(shares + 16 * g, v128.bitselect(f32x4.splat(1), f32x4.div(own, whole), lost));
      for (let j: usize = 0; j < bytes; j += 16) {
        const weight = f32x4.div(v128.load(at + j, WEIGHTS), own);
        v128.store(at + j, v128.bitselect(f32x4.splat(1), weight, none), WEIGHTS);
      }
    }
  }
  for (let at = block; at < block + bytes * groups; at += 16) {
    v128.store(at, f32x4.mul(v128.load(at), v128.load(at, WEIGHTS)), PRODUCTS);
  }
}

/** Values of the largest magnitudes in a group of sub-blocks; 1 where all of them are negligible. */
// @ts-ignore: decorator
@inline export function extremesOf(from: usize, size: usize): v128 {
  let extreme = i32x4.splat(0);
  let largest = i32x4.splat(0);
  for (let at = from; at < from + 16 * size; at += 16) {
    const x = v128.load(at);
    const magnitude = f32x4.abs(x);
    extreme = v128.bitselect(x, extreme, f32x4.gt(magnitude, largest));
    largest = f32x4.pmax(largest, magnitude);
  }
  return v128.bitselect(f32x4.splat(1), extreme, f32x4.lt(largest, f32x4.splat(NEGLIGIBLE)));
}
