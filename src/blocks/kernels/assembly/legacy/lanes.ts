// Neighbouring blocks at a time: each lane of a vector belongs to a block, and the values are walked in order, so every
// sum of a block is taken in the order of ggml's scalar code and has the same bits.

/** Where block `k` of `blocks` blocks starts; lanes past the last block repeat it, and their results are dropped. */
// @ts-ignore: decorator
@inline export function laneAt(k: i32, at: usize, bytes: usize, blocks: i32): usize {
  return at + bytes * <usize>min(k, blocks - 1);
}

/** Stores the rows of the 4×4 transpose of four vectors, `apart` bytes apart. */
// @ts-ignore: decorator
@inline export function turn(a: v128, b: v128, c: v128, d: v128, to: usize, apart: usize): void {
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<i64>(ab, cd, 0, 2));
  v128.store(to + apart, v128.shuffle<i64>(ab, cd, 1, 3));
  v128.store(to + 2 * apart, v128.shuffle<i64>(ab2, cd2, 0, 2));
  v128.store(to + 3 * apart, v128.shuffle<i64>(ab2, cd2, 1, 3));
}
