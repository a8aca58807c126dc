// Q4_1 and Q5_1 with an importance: scale and offset by least squares on the levels of each of 37 trials, of which
// the one with the smallest weighted squared error is kept. Each trial starts from the best offset so far.

import { halves } from "../half";
import { lane0, lane1, lane2, lane3, pointLanes } from "./lanes";
import { bytesOf, MAGIC, packFifths, packNibbles } from "./pack";
import { turnBlocks, turned, TURNED_END, WEIGHTS } from "./weighted";

const TRIALS: i32 = 37;

/** Products beyond this have no nearest integer for ggml. */
const LIMIT: f32 = 4194303;

/** Levels of the trial for each value at `turned`. */
const levels: usize = memory.data(32 * 16, 16);

/** Sums of the trial: Σ w·level, Σ w·level² and Σ w·level·x. */
let sumL: v128 = i32x4.splat(0);
let sumLL: v128 = i32x4.splat(0);
let sumLX: v128 = i32x4.splat(0);

/** Σ w, Σ w·x and the range of the values; the lower end is 0 or less. */
let sumW: v128 = i32x4.splat(0);
let sumX: v128 = i32x4.splat(0);
let low: v128 = i32x4.splat(0);
let high: v128 = i32x4.splat(0);

/** Where the search stands; a level is the nearest integer of bestInverse · (x - bestStart). */
let bestScale: v128 = i32x4.splat(0);
let bestOffset: v128 = i32x4.splat(0);
let bestInverse: v128 = i32x4.splat(0);
let bestStart: v128 = i32x4.splat(0);
let best: v128 = i32x4.splat(0);

/** ggml's nearest integers, as numbers: beyond `LIMIT` and for NaN a fixed bit pattern of the argument. */
// @ts-ignore: decorator
@inline function nearestBits(value: v128): v128 {
  const bits = v128.and(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  return i32x4.sub(bits, i32x4.splat(0x400000));
}

/** Levels and their sums; `clamp` says whether a level can leave 0…top, `wild` whether a product can pass `LIMIT`. */
// @ts-ignore: decorator
@inline function sum(inverse: v128, start: v128, top: f32, clamp: bool, wild: bool): void {
  let l = i32x4.splat(0);
  let ll = i32x4.splat(0);
  let lx = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 16) {
    const x = v128.load(at);
    const product = f32x4.mul(f32x4.sub(x, start), inverse);
    let level = wild ? f32x4.convert_i32x4_s(nearestBits(product)) : f32x4.nearest(product);
    if (clamp || wild) level = f32x4.pmax(f32x4.pmin(level, f32x4.splat(top)), i32x4.splat(0));
    v128.store(at + (levels - turned), level);
    const weighted = f32x4.mul(v128.load(at, WEIGHTS), level);
    l = f32x4.add(l, weighted);
    ll = f32x4.add(ll, f32x4.mul(weighted, level));
    lx = f32x4.add(lx, f32x4.mul(weighted, x));
  }
  sumL = l;
  sumLL = ll;
  sumLX = lx;
}

/** Takes the levels of a trial, with the least work that gives ggml's. */
// @ts-ignore: decorator
@inline function spread(inverse: v128, start: v128, top: f32): void {
  // Products lie between these two, whichever sign the inverse has.
  const a = f32x4.mul(f32x4.sub(low, start), inverse);
  const b = f32x4.mul(f32x4.sub(high, start), inverse);
  const least = f32x4.pmin(a, b);
  const most = f32x4.pmax(a, b);
  const within = v128.and(
    f32x4.ge(least, f32x4.splat(-0.5)),
    f32x4.lt(most, f32x4.splat(top + 0.5)),
  );
  if (i32x4.all_true(within)) return sum(inverse, start, top, false, false);
  const tame = v128.and(
    f32x4.le(f32x4.abs(a), f32x4.splat(LIMIT)),
    f32x4.le(f32x4.abs(b), f32x4.splat(LIMIT)),
  );
  if (i32x4.all_true(tame)) sum(inverse, start, top, true, false);
  else sum(inverse, start, top, true, true);
}

/** Weighted squared error of the levels of the trial. */
function errorOf(scale: v128, offset: v128): v128 {
  let error = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 16) {
    const level = v128.load(at + (levels - turned));
    const off = f32x4.sub(f32x4.add(f32x4.mul(scale, level), offset), v128.load(at));
    error = f32x4.add(error, f32x4.mul(v128.load(at, WEIGHTS), f32x4.mul(off, off)));
  }
  return error;
}

// @ts-ignore: decorator
@inline function attempt(t: i32, top: f32): void {
  const numerator = <f32>-0.9 + <f32>0.05 * <f32>t + top;
  const start = bestOffset;
  const inverse = f32x4.div(f32x4.splat(numerator), f32x4.sub(high, start));
  spread(inverse, start, top);
  const determinant = f32x4.sub(f32x4.mul(sumW, sumLL), f32x4.mul(sumL, sumL));
  const fits = f32x4.gt(determinant, i32x4.splat(0));
  let scale = f32x4.div(f32x4.sub(f32x4.mul(sumW, sumLX), f32x4.mul(sumX, sumL)), determinant);
  let offset = f32x4.div(f32x4.sub(f32x4.mul(sumLL, sumX), f32x4.mul(sumL, sumLX)), determinant);
  const above = f32x4.gt(offset, i32x4.splat(0));
  scale = v128.bitselect(f32x4.div(sumLX, sumLL), scale, above);
  offset = v128.andnot(offset, above);
  const error = errorOf(scale, offset);
  const better = v128.and(fits, f32x4.lt(error, best));
  best = v128.bitselect(error, best, better);
  bestScale = v128.bitselect(scale, bestScale, better);
  bestOffset = v128.bitselect(offset, bestOffset, better);
  bestInverse = v128.bitselect(inverse, bestInverse, better);
  bestStart = v128.bitselect(start, bestStart, better);
}

/** Finds scale and offset of the four blocks at `turned`. */
// @ts-ignore: decorator
@inline function searchFour(top: f32): void {
  low = v128.load(turned);
  high = low;
  sumW = v128.load(turned, WEIGHTS);
  sumX = f32x4.mul(sumW, low);
  for (let at = turned + 16; at < TURNED_END; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
    sumW = f32x4.add(sumW, weight);
    sumX = f32x4.add(sumX, f32x4.mul(weight, x));
  }
  low = v128.andnot(low, f32x4.gt(low, i32x4.splat(0)));
  // A block without a range keeps its lower end under a scale of 0, and levels of 0; any range does for the search.
  const nothing = f32x4.le(high, low);
  const end = low;
  high = v128.bitselect(f32x4.add(low, f32x4.splat(1)), high, nothing);
  bestInverse = f32x4.div(f32x4.splat(top), f32x4.sub(high, low));
  bestScale = f32x4.div(f32x4.splat(1), bestInverse);
  bestStart = low;
  bestOffset = low;
  spread(bestInverse, low, top);
  best = errorOf(bestScale, low);
  for (let t = 0; t < TRIALS; t++) attempt(t, top);
  bestScale = v128.andnot(bestScale, nothing);
  bestOffset = v128.bitselect(end, bestOffset, nothing);
  bestInverse = v128.andnot(bestInverse, nothing);
}

// @ts-ignore: decorator
@inline function levels4(x: v128, start: v128, inverse: v128, top: i32): v128 {
  const level = nearestBits(f32x4.mul(f32x4.sub(x, start), inverse));
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(top)), i32x4.splat(0));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, start: v128, inverse: v128, top: i32): v128 {
  return bytesOf(
    levels4(v128.load(x), start, inverse, top),
    levels4(v128.load(x, 16), start, inverse, top),
    levels4(v128.load(x, 32), start, inverse, top),
    levels4(v128.load(x, 48), start, inverse, top),
  );
}

// @ts-ignore: decorator
@inline function storeBlock(x: usize, start: v128, inverse: v128, top: i32, output: usize): void {
  const first = levels16(x, start, inverse, top);
  const second = levels16(x + 64, start, inverse, top);
  if (top == 31) packFifths(first, second, output + 4);
  else packNibbles(first, second, output + 4);
}

// @ts-ignore: decorator
@inline function spreadLane(lanes: v128, lane: i32): v128 {
  switch (lane) {
    case 0:
      return v128.shuffle<i32>(lanes, lanes, 0, 0, 0, 0);
    case 1:
      return v128.shuffle<i32>(lanes, lanes, 1, 1, 1, 1);
    case 2:
      return v128.shuffle<i32>(lanes, lanes, 2, 2, 2, 2);
  }
  return v128.shuffle<i32>(lanes, lanes, 3, 3, 3, 3);
}

// @ts-ignore: decorator
@inline function encode(x: usize, weights: usize, output: usize, values: i32, mean: f32, top: i32): void {
  const bytes: usize = top == 31 ? 24 : 20;
  const importance = weights - x;
  for (let blocks = values / 32; blocks > 0; blocks -= 4) {
    pointLanes(x, 128, blocks);
    turnBlocks(importance, mean);
    searchFour(<f32>top);
    const headers = v128.or(halves(bestScale), i32x4.shl(halves(bestOffset), 16));
    const s = bestStart;
    const inv = bestInverse;
    store<i32>(output, i32x4.extract_lane(headers, 0));
    storeBlock(lane0, spreadLane(s, 0), spreadLane(inv, 0), top, output);
    if (blocks > 1) {
      const at = output + bytes;
      store<i32>(at, i32x4.extract_lane(headers, 1));
      storeBlock(lane1, spreadLane(s, 1), spreadLane(inv, 1), top, at);
    }
    if (blocks > 2) {
      const at = output + 2 * bytes;
      store<i32>(at, i32x4.extract_lane(headers, 2));
      storeBlock(lane2, spreadLane(s, 2), spreadLane(inv, 2), top, at);
    }
    if (blocks > 3) {
      const at = output + 3 * bytes;
      store<i32>(at, i32x4.extract_lane(headers, 3));
      storeBlock(lane3, spreadLane(s, 3), spreadLane(inv, 3), top, at);
    }
    x += 4 * 128;
    output += 4 * bytes;
  }
}

/** See `encodeBlocks`; `meanSquare` is of the row. */
export function weightedQ4_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 15);
}

export function weightedQ5_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 31);
}
