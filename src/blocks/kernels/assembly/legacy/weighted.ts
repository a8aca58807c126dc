// Four neighbouring blocks of 32 values with their weights, for the searches.

import { lane0, lane1, lane2, lane3, turn } from "./lanes";

/** Value j of the four blocks at `turned` + 16·j, and its weight behind all values. */
export const turned: usize = memory.data(2 * 32 * 16, 16);
export const WEIGHTS: usize = 32 * 16;
export const TURNED_END: usize = turned + 32 * 16;

/** Weights of four values: the importance, times the magnitude where that stands out of the row. */
// @ts-ignore: decorator
@inline function weighted(x: usize, importance: usize, meanSquare: v128): v128 {
  const value = v128.load(x);
  const size = f32x4.sqrt(f32x4.add(meanSquare, f32x4.mul(value, value)));
  return f32x4.mul(v128.load(x + importance), size);
}

/**
 * Reads the blocks of the four lanes.
 *
 * @param importance how far behind a value its importance lies
 */
export function turnBlocks(importance: usize, meanSquare: f32): void {
  const mean = f32x4.splat(meanSquare);
  let to = turned;
  for (let i: usize = 0; i < 128; i += 16) {
    const a = lane0 + i;
    const b = lane1 + i;
    const c = lane2 + i;
    const d = lane3 + i;
    turn(v128.load(a), v128.load(b), v128.load(c), v128.load(d), to);
    turn(
      weighted(a, importance, mean),
      weighted(b, importance, mean),
      weighted(c, importance, mean),
      weighted(d, importance, mean),
      to + WEIGHTS,
    );
    to += 64;
  }
}
