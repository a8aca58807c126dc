// Blocks of the searches as lanes: lane k of a vector belongs to the k-th of four neighbouring blocks.

import { laneAt } from "../legacy/lanes";
import { turn } from "../turn";

/** Where the blocks of the four lanes start; lanes past the last block repeat it. */
export let lane0: usize = 0;
export let lane1: usize = 0;
export let lane2: usize = 0;
export let lane3: usize = 0;

/** Most values of a block. */
const MOST: usize = 256;

/** Value j of the four blocks at `turned` + 16·j; its weight and their product lie behind, this far. */
export const turned: usize = memory.data(3 * 256 * 16, 16);
export const WEIGHTS: usize = MOST * 16;
export const PRODUCTS: usize = 2 * MOST * 16;

/** Blocks whose importances all stay below this, 2^-100, weigh every value alike: the inverse is too large. */
export const LEAST: f32 = reinterpret<f32>(27 << 23);

/** Stores the blocks of the four lanes, or what lies `apart` behind them. */
// @ts-ignore: decorator
@inline function turnLanes(apart: usize, values: usize, to: usize): void {
  turn(lane0 + apart, lane1 + apart, lane2 + apart, lane3 + apart, values, to);
}

/** Puts the importances in units of the largest of their block, so that no sum over- or underflows. */
// @ts-ignore: decorator
@inline function weigh(values: usize): void {
  const end = turned + 16 * values;
  let most = i32x4.splat(0);
  for (let at = turned; at < end; at += 16) most = f32x4.pmax(most, v128.load(at, WEIGHTS));
  const alike = f32x4.lt(most, f32x4.splat(LEAST));
  const one = f32x4.splat(1);
  const inverse = f32x4.div(one, v128.bitselect(one, most, alike));
  for (let at = turned; at < end; at += 16) {
    const weight = v128.bitselect(one, f32x4.mul(v128.load(at, WEIGHTS), inverse), alike);
    v128.store(at, weight, WEIGHTS);
    v128.store(at, f32x4.mul(weight, v128.load(at)), PRODUCTS);
  }
}

/**
 * Reads the first four of `blocks` blocks of `values` values each.
 *
 * @param importance how far behind a value its importance lies
 * @param weighted whether there is one; else no weights and products are stored
 */
// @ts-ignore: decorator
@inline export function turnBlocks(
  x: usize,
  values: usize,
  blocks: i32,
  importance: usize,
  weighted: bool,
): void {
  lane0 = x;
  lane1 = laneAt(1, x, 4 * values, blocks);
  lane2 = laneAt(2, x, 4 * values, blocks);
  lane3 = laneAt(3, x, 4 * values, blocks);
  turnLanes(0, values, turned);
  if (!weighted) return;
  turnLanes(importance, values, turned + WEIGHTS);
  weigh(values);
}
