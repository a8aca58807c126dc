// Q4_1 and Q5_1 with an importance: scale and offset by least squares on the levels of each of 37 trials, of which
// the one with the smallest weighted squared error is kept. Each trial starts from the best offset so far.
//
// Within a trial every addition waits for the one before, and the next trial waits for this one; so two groups of four
// blocks are searched at a time.

import { halfOf } from "../half";
import { MAGIC } from "../rounding";
import { bytesOf, packFifths, packNibbles } from "./pack";
import { turnFour } from "./weighted";

const TRIALS: i32 = 37;

/** Products beyond this have no nearest integer for ggml. */
const LIMIT: f32 = 4194303;

/** Value j of the blocks of each group at 32·j and 32·j + 16, then their weights, then the levels of the trial. */
const turned: usize = memory.data(3 * 32 * 32, 16);
const WEIGHTS: usize = 32 * 32;
const LEVELS: usize = 2 * 32 * 32;
const TURNED_END: usize = turned + 32 * 32;

/** What is known of a group: four numbers each. */
const group0: usize = memory.data(16 * 16, 16);
const group1: usize = memory.data(16 * 16, 16);
/** The range of the values, with a lower end of 0 or less. */
const LOW: usize = 0;
const HIGH: usize = 16;
/** Σ w and Σ w·x. */
const SUM_W: usize = 32;
const SUM_X: usize = 48;
/** The trial: levels are the nearest integers of inverse · (x - start), then follow the least squares. */
const START: usize = 64;
const INVERSE: usize = 80;
const SCALE: usize = 96;
const OFFSET: usize = 112;
/** Σ w·level, Σ w·level² and Σ w·level·x; Σ w·level is replaced by the error. */
const SUM_L: usize = 128;
const SUM_LL: usize = 144;
const SUM_LX: usize = 160;
const ERROR: usize = 128;
/** Where the search stands. */
const BEST_START: usize = 176;
const BEST_INVERSE: usize = 192;
const BEST_SCALE: usize = 208;
const BEST_OFFSET: usize = 224;
const BEST_ERROR: usize = 240;

/** ggml's nearest integers: beyond `LIMIT` and for NaN a fixed bit pattern of the argument. */
// @ts-ignore: decorator
@inline function nearestBits(value: v128): v128 {
  const bits = v128.and(f32x4.add(value, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  return i32x4.sub(bits, i32x4.splat(0x400000));
}

// @ts-ignore: decorator
@inline function levelsOf(x: v128, start: v128, inverse: v128, top: f32, wild: bool): v128 {
  const product = f32x4.mul(f32x4.sub(x, start), inverse);
  const level = wild ? f32x4.convert_i32x4_s(nearestBits(product)) : f32x4.nearest(product);
  return f32x4.pmax(f32x4.pmin(level, f32x4.splat(top)), i32x4.splat(0));
}

/** Levels and their sums; `wild` says whether a product can pass `LIMIT`. */
// @ts-ignore: decorator
@inline function sum(top: f32, wild: bool): void {
  const start0 = v128.load(group0, START);
  const start1 = v128.load(group1, START);
  const inverse0 = v128.load(group0, INVERSE);
  const inverse1 = v128.load(group1, INVERSE);
  let l0 = i32x4.splat(0);
  let l1 = i32x4.splat(0);
  let ll0 = i32x4.splat(0);
  let ll1 = i32x4.splat(0);
  let lx0 = i32x4.splat(0);
  let lx1 = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 32) {
    const x0 = v128.load(at);
    const level0 = levelsOf(x0, start0, inverse0, top, wild);
    v128.store(at, level0, LEVELS);
    const weighted0 = f32x4.mul(v128.load(at, WEIGHTS), level0);
    l0 = f32x4.add(l0, weighted0);
    ll0 = f32x4.add(ll0, f32x4.mul(weighted0, level0));
    lx0 = f32x4.add(lx0, f32x4.mul(weighted0, x0));
    const x1 = v128.load(at, 16);
    const level1 = levelsOf(x1, start1, inverse1, top, wild);
    v128.store(at, level1, LEVELS + 16);
    const weighted1 = f32x4.mul(v128.load(at, WEIGHTS + 16), level1);
    l1 = f32x4.add(l1, weighted1);
    ll1 = f32x4.add(ll1, f32x4.mul(weighted1, level1));
    lx1 = f32x4.add(lx1, f32x4.mul(weighted1, x1));
  }
  v128.store(group0, l0, SUM_L);
  v128.store(group1, l1, SUM_L);
  v128.store(group0, ll0, SUM_LL);
  v128.store(group1, ll1, SUM_LL);
  v128.store(group0, lx0, SUM_LX);
  v128.store(group1, lx1, SUM_LX);
}

/** Whether all products of the trial have nearest integers. */
// @ts-ignore: decorator
@inline function isTame(group: usize): v128 {
  const start = v128.load(group, START);
  const inverse = v128.load(group, INVERSE);
  // Products lie between these two, whichever sign the inverse has.
  const a = f32x4.mul(f32x4.sub(v128.load(group, LOW), start), inverse);
  const b = f32x4.mul(f32x4.sub(v128.load(group, HIGH), start), inverse);
  return v128.and(
    f32x4.le(f32x4.abs(a), f32x4.splat(LIMIT)),
    f32x4.le(f32x4.abs(b), f32x4.splat(LIMIT)),
  );
}

// @ts-ignore: decorator
@inline function spread(top: f32): void {
  if (i32x4.all_true(v128.and(isTame(group0), isTame(group1)))) sum(top, false);
  else sum(top, true);
}

// @ts-ignore: decorator
@inline function errorsOf(at: usize, scale: v128, offset: v128): v128 {
  const off = f32x4.sub(f32x4.add(f32x4.mul(scale, v128.load(at, LEVELS)), offset), v128.load(at));
  return f32x4.mul(v128.load(at, WEIGHTS), f32x4.mul(off, off));
}

/** Weighted squared errors of the trial. */
function judge(): void {
  const scale0 = v128.load(group0, SCALE);
  const scale1 = v128.load(group1, SCALE);
  const offset0 = v128.load(group0, OFFSET);
  const offset1 = v128.load(group1, OFFSET);
  let error0 = i32x4.splat(0);
  let error1 = i32x4.splat(0);
  for (let at = turned; at < TURNED_END; at += 32) {
    error0 = f32x4.add(error0, errorsOf(at, scale0, offset0));
    error1 = f32x4.add(error1, errorsOf(at + 16, scale1, offset1));
  }
  v128.store(group0, error0, ERROR);
  v128.store(group1, error1, ERROR);
}

// @ts-ignore: decorator
@inline function begin(group: usize, numerator: f32): void {
  const start = v128.load(group, BEST_OFFSET);
  v128.store(group, start, START);
  const range = f32x4.sub(v128.load(group, HIGH), start);
  v128.store(group, f32x4.div(f32x4.splat(numerator), range), INVERSE);
}

/** Least squares; where they do not exist, the scale becomes NaN, and so the error, which is never better. */
// @ts-ignore: decorator
@inline function fit(group: usize): void {
  const w = v128.load(group, SUM_W);
  const x = v128.load(group, SUM_X);
  const l = v128.load(group, SUM_L);
  const ll = v128.load(group, SUM_LL);
  const lx = v128.load(group, SUM_LX);
  const determinant = f32x4.sub(f32x4.mul(w, ll), f32x4.mul(l, l));
  const fits = f32x4.gt(determinant, i32x4.splat(0));
  const scale = f32x4.div(f32x4.sub(f32x4.mul(w, lx), f32x4.mul(x, l)), determinant);
  const offset = f32x4.div(f32x4.sub(f32x4.mul(ll, x), f32x4.mul(l, lx)), determinant);
  const above = f32x4.gt(offset, i32x4.splat(0));
  const fitted = v128.bitselect(f32x4.div(lx, ll), scale, above);
  v128.store(group, v128.bitselect(fitted, f32x4.splat(NaN), fits), SCALE);
  v128.store(group, v128.andnot(offset, above), OFFSET);
}

// @ts-ignore: decorator
@inline function keep(group: usize, trial: usize, best: usize, better: v128): void {
  const kept = v128.bitselect(v128.load(group + trial), v128.load(group + best), better);
  v128.store(group + best, kept);
}

/** Takes the trial over where it is better than what the search has; the first one in any case. */
// @ts-ignore: decorator
@inline function settle(group: usize, first: bool): void {
  const better = first ? i32x4.splat(-1) : f32x4.lt(v128.load(group, ERROR), v128.load(group, BEST_ERROR));
  keep(group, ERROR, BEST_ERROR, better);
  keep(group, SCALE, BEST_SCALE, better);
  keep(group, OFFSET, BEST_OFFSET, better);
  keep(group, INVERSE, BEST_INVERSE, better);
  keep(group, START, BEST_START, better);
}

/** Measures a group and makes the plain spread of its range the trial. */
// @ts-ignore: decorator
@inline function open(group: usize, first: usize, top: f32): void {
  let low = v128.load(first);
  let high = low;
  let w = v128.load(first, WEIGHTS);
  let sum = f32x4.mul(w, low);
  for (let at = first + 32; at < TURNED_END; at += 32) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
    w = f32x4.add(w, weight);
    sum = f32x4.add(sum, f32x4.mul(weight, x));
  }
  low = v128.andnot(low, f32x4.gt(low, i32x4.splat(0)));
  v128.store(group, low, LOW);
  v128.store(group, high, HIGH);
  v128.store(group, w, SUM_W);
  v128.store(group, sum, SUM_X);
  v128.store(group, low, BEST_OFFSET);
  begin(group, top);
  v128.store(group, f32x4.div(f32x4.splat(1), v128.load(group, INVERSE)), SCALE);
  v128.store(group, low, OFFSET);
}

/** Where a block has no range it keeps its lower end, under a scale of 0 and levels of 0. */
// @ts-ignore: decorator
@inline function close(group: usize): void {
  const low = v128.load(group, LOW);
  const nothing = f32x4.le(v128.load(group, HIGH), low);
  v128.store(group, v128.andnot(v128.load(group, BEST_SCALE), nothing), BEST_SCALE);
  v128.store(group, v128.bitselect(low, v128.load(group, BEST_OFFSET), nothing), BEST_OFFSET);
  v128.store(group, v128.andnot(v128.load(group, BEST_INVERSE), nothing), BEST_INVERSE);
}

/** Finds scale and offset of the blocks at `turned`. */
// @ts-ignore: decorator
@inline function search(top: f32): void {
  open(group0, turned, top);
  open(group1, turned + 16, top);
  spread(top);
  judge();
  settle(group0, true);
  settle(group1, true);
  for (let t = 0; t < TRIALS; t++) {
    const numerator = <f32>-0.9 + <f32>0.05 * <f32>t + top;
    begin(group0, numerator);
    begin(group1, numerator);
    spread(top);
    fit(group0);
    fit(group1);
    judge();
    settle(group0, false);
    settle(group1, false);
  }
  close(group0);
  close(group1);
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

/** Stores a block whose numbers lie at `lane`, in its group. */
// @ts-ignore: decorator
@inline function storeBlock(x: usize, lane: usize, top: i32, output: usize): void {
  store<u16>(output, halfOf(load<f32>(lane, BEST_SCALE)));
  store<u16>(output, halfOf(load<f32>(lane, BEST_OFFSET)), 2);
  const start = v128.load32_splat(lane + BEST_START);
  const inverse = v128.load32_splat(lane + BEST_INVERSE);
  const first = levels16(x, start, inverse, top);
  const second = levels16(x + 64, start, inverse, top);
  if (top == 31) packFifths(first, second, output + 4);
  else packNibbles(first, second, output + 4);
}

/**
 * Finds scales and offsets of the first eight of some blocks; fewer repeat the last.
 *
 * @param importance how far behind a value its importance lies
 * @param mean mean square of the row
 */
// @ts-ignore: decorator
@inline export function fitBlocks(x: usize, blocks: i32, importance: usize, mean: f32, top: f32): void {
  turnFour(x, 0, blocks, importance, mean, turned, turned + WEIGHTS, 32);
  turnFour(x, 4, blocks, importance, mean, turned + 16, turned + 16 + WEIGHTS, 32);
  search(top);
}

/** Scales and offsets that were found for the first or the second four blocks, not yet as halves. */
// @ts-ignore: decorator
@inline export function foundScales(later: bool): v128 {
  return v128.load(later ? group1 : group0, BEST_SCALE);
}

// @ts-ignore: decorator
@inline export function foundOffsets(later: bool): v128 {
  return v128.load(later ? group1 : group0, BEST_OFFSET);
}

// @ts-ignore: decorator
@inline function encode(x: usize, weights: usize, output: usize, values: i32, mean: f32, top: i32): void {
  const bytes: usize = top == 31 ? 24 : 20;
  const importance = weights - x;
  for (let blocks = values / 32; blocks > 0; blocks -= 8) {
    fitBlocks(x, blocks, importance, mean, <f32>top);
    for (let k = 0; k < min(8, blocks); k++) {
      const group = k < 4 ? group0 : group1;
      storeBlock(x, group + 4 * <usize>(k & 3), top, output);
      x += 128;
      output += bytes;
    }
  }
}

/** See `encodeBlocks`; `meanSquare` is of the row. */
export function weightedQ4_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 15);
}

export function weightedQ5_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  encode(x, weights, output, values, meanSquare, 31);
}
