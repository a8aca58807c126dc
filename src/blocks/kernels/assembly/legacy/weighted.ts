// Neighbouring blocks of 32 values with their weights, for the searches.

import { turn4 } from "../turn";
import { laneAt } from "./lanes";

/** Weights of four values: the importance, times the magnitude where that stands out of the row. */
// @ts-ignore: decorator
@inline function weighted(x: usize, importance: usize, meanSquare: v128): v128 {
  const value = v128.load(x);
  const size = f32x4.sqrt(f32x4.add(meanSquare, f32x4.mul(value, value)));
  return f32x4.mul(v128.load(x + importance), size);
}

/**
 * Turns blocks `first` to `first + 3` of `blocks`: value j of the four goes to `values` + `apart`·j, its weights to
 * `weights` + `apart`·j.
 *
 * @param importance how far behind a value its importance lies
 */
// @ts-ignore: decorator
@inline export function turnFour(
  x: usize,
  first: i32,
  blocks: i32,
  importance: usize,
  meanSquare: f32,
  values: usize,
  weights: usize,
  apart: usize,
): void {
  const mean = f32x4.splat(meanSquare);
  const b = laneAt(first + 1, x, 128, blocks);
  const c = laneAt(first + 2, x, 128, blocks);
  const d = laneAt(first + 3, x, 128, blocks);
  for (let a = laneAt(first, x, 128, blocks), i: usize = 0; i < 128; i += 16) {
    turn4(v128.load(a + i), v128.load(b + i), v128.load(c + i), v128.load(d + i), values, apart);
    turn4(
      weighted(a + i, importance, mean),
      weighted(b + i, importance, mean),
      weighted(c + i, importance, mean),
      weighted(d + i, importance, mean),
      weights,
      apart,
    );
    values += 4 * apart;
    weights += 4 * apart;
  }
}
