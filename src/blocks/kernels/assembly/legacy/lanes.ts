// Neighbouring blocks at a time: each lane of a vector belongs to a block, and the values are walked in order, so every
// sum of a block is taken in the order of ggml's scalar code and has the same bits.

/** Where block `k` of `blocks` blocks starts; lanes past the last block repeat it, and their results are dropped. */
// @ts-ignore: decorator
@inline export function laneAt(k: i32, at: usize, bytes: usize, blocks: i32): usize {
  return at + bytes * <usize>min(k, blocks - 1);
}
