// Entry points of rounding with feedback: see `FeedbackKernels`.

import { encodeBlocks } from "../nbits/blocks";
import { meanSquare } from "../rows";
import { searchBlocks } from "../search/index";
import { roundBlock } from "./block";
import { setPoints, tables } from "./points";
import { beginRows, endRows, placeBlock, prepareMetric, takeBlock } from "./rows";
import { lanes, placeRegions, readSettings, settings, values } from "./state";

/** Four blocks and the importance of their values, as the searches read them. */
const x: usize = memory.data(4 * 4 * 256, 16);
const weights: usize = memory.data(4 * 4 * 256, 16);

/** Where the lanes are that the caller fills and reads. */
export function feedbackLanes(): usize {
  return lanes;
}

/** Where the numbers are that `feedbackPrepare` reads. */
export function feedbackSettings(): usize {
  return settings;
}

/** Where the tables of lattice points are that the caller fills: see `points.ts`. */
export function feedbackTables(): usize {
  return tables;
}

/** Takes the regions (see `placeRegions`) and the settings of a call up. */
export function feedbackPrepare(regions: usize): void {
  placeRegions(regions);
  readSettings();
  setPoints();
  prepareMetric();
}

export function feedbackBegin(first: usize): void {
  beginRows(first);
}

/** Encodes block `b` of the four rows by the search of a type, within `reach`. */
export function feedbackSearch(target: i32, b: usize, reach: f32, output: usize): void {
  placeBlock(b, reach, x, weights);
  const count = 4 * <i32>values;
  searchBlocks(target, x, weights, output, count, target <= 7 ? meanSquare<f32>(x, count) : 0);
}

/** Finds scales and zero points of block `b` of the four rows by the search; codes are written as well. */
export function feedbackSearchNBits(
  bits: i32,
  zeroPoints: bool,
  b: usize,
  reach: f32,
  codes: usize,
  scales: usize,
  zeros: usize,
): void {
  placeBlock(b, reach, x, weights);
  encodeBlocks(bits, values, zeroPoints, true, x, weights, 4, codes, scales, zeros);
}

export function feedbackRound(b: usize): void {
  roundBlock(b);
  takeBlock(b);
}

export function feedbackTake(b: usize): void {
  takeBlock(b);
}

export function feedbackEnd(first: usize): void {
  endRows(first);
}
