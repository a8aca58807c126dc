// Four neighbouring blocks at a time: lane k of a vector belongs to block k, and the values are walked in order, so
// every sum of a block is taken in the order of ggml's scalar code and has the same bits.

/** Where the blocks of the four lanes start; lanes past the last block repeat it, and their results are dropped. */
export let lane0: usize = 0;
export let lane1: usize = 0;
export let lane2: usize = 0;
export let lane3: usize = 0;

/** Points the lanes at the first of `blocks` blocks of `bytes` bytes and those behind it. */
// @ts-ignore: decorator
@inline export function pointLanes(at: usize, bytes: usize, blocks: i32): void {
  lane0 = at;
  lane1 = at + bytes * <usize>min(1, blocks - 1);
  lane2 = at + bytes * <usize>min(2, blocks - 1);
  lane3 = at + bytes * <usize>min(3, blocks - 1);
}

/** Stores the rows of the 4×4 transpose of four vectors. */
// @ts-ignore: decorator
@inline export function turn(a: v128, b: v128, c: v128, d: v128, to: usize): void {
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<i64>(ab, cd, 0, 2));
  v128.store(to, v128.shuffle<i64>(ab, cd, 1, 3), 16);
  v128.store(to, v128.shuffle<i64>(ab2, cd2, 0, 2), 32);
  v128.store(to, v128.shuffle<i64>(ab2, cd2, 1, 3), 48);
}
