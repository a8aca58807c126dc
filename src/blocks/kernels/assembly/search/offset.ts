// Q4_1 and Q5_1: see `searchOffset` in `src/blocks/search/offset.ts`, which says the same for one block.

import { halfOf, halves } from "../half";
import { fitBlocks, foundOffsets, foundScales } from "../legacy/offset";
import { bytesOf, MAGIC_BITS, packFifths, packNibbles } from "../legacy/pack";
import { MAGIC } from "../rounding";
import { inverseOf, stored, widened } from "./halves";
import { lane0, lane1, lane2, lane3, PRODUCTS, turnBlocks, turned, WEIGHTS } from "./lanes";

const END: usize = turned + 16 * 32;

/** The values less their weighted mean lie so far behind the values; `PRODUCTS` are of these. */
const CENTRED: usize = 16 * 32;

const SPANS: i32 = 12;
const PLACES: i32 = 4;
const MARGIN: f32 = 0.45;
const ROUNDS: i32 = 3;

let mean: v128 = i32x4.splat(0);
let total: v128 = i32x4.splat(0);
let low: v128 = i32x4.splat(0);
let range: v128 = i32x4.splat(0);

/** What the levels of a trial lead to: the spread inverse · v + shift that fits them best, its scale and its gain. */
let inverse: v128 = i32x4.splat(0);
let shift: v128 = i32x4.splat(0);
let scale: v128 = i32x4.splat(0);
let gain: v128 = i32x4.splat(0);

/** The best outcome so far, or of a span; and of all spans so far. */
let foundInverse: v128 = i32x4.splat(0);
let foundShift: v128 = i32x4.splat(0);
let foundScale: v128 = i32x4.splat(0);
let foundGain: v128 = i32x4.splat(0);
let bestInverse: v128 = i32x4.splat(0);
let bestShift: v128 = i32x4.splat(0);
let bestScale: v128 = i32x4.splat(0);
let bestGain: v128 = i32x4.splat(0);

/** Stored scale and offset of the least error. */
let leastScale: v128 = i32x4.splat(0);
let leastOffset: v128 = i32x4.splat(0);
let error: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function levelOf(units: v128, top: f32): v128 {
  return f32x4.nearest(f32x4.pmax(f32x4.pmin(units, f32x4.splat(top)), i32x4.splat(0)));
}

// @ts-ignore: decorator
@inline function weigh(at: usize, value: v128, weighted: bool): v128 {
  return weighted ? f32x4.mul(v128.load(at, WEIGHTS), value) : value;
}

// @ts-ignore: decorator
@inline function centre(weighted: bool): void {
  low = f32x4.splat(Infinity);
  let high = f32x4.splat(-Infinity);
  total = i32x4.splat(0);
  let sum = i32x4.splat(0);
  for (let at = turned; at < END; at += 16) {
    const x = v128.load(at);
    const weight = weighted ? v128.load(at, WEIGHTS) : f32x4.splat(1);
    const counts = f32x4.gt(weight, i32x4.splat(0));
    low = v128.bitselect(f32x4.pmin(low, x), low, counts);
    high = v128.bitselect(f32x4.pmax(high, x), high, counts);
    total = f32x4.add(total, weight);
    sum = f32x4.add(sum, weigh(at, x, weighted));
  }
  // The sum makes one zero of two.
  low = f32x4.add(low, i32x4.splat(0));
  mean = f32x4.div(sum, total);
  range = f32x4.sub(high, low);
  for (let at = turned; at < END; at += 16) {
    const value = f32x4.sub(v128.load(at), mean);
    v128.store(at, value, CENTRED);
    if (weighted) v128.store(at, weigh(at, value, true), PRODUCTS);
  }
}

/** Scale and mean level by least squares, for the levels that a spread leads to. */
// @ts-ignore: decorator
@inline function attempt(by: v128, from: v128, top: f32, weighted: bool): void {
  let sumL = i32x4.splat(0);
  let sumLL = i32x4.splat(0);
  let product = i32x4.splat(0);
  for (let at = turned; at < END; at += 16) {
    const value = v128.load(at, CENTRED);
    const level = levelOf(f32x4.add(f32x4.mul(value, by), from), top);
    const weighed = weigh(at, level, weighted);
    sumL = f32x4.add(sumL, weighed);
    sumLL = f32x4.add(sumLL, f32x4.mul(weighed, level));
    product = f32x4.add(product, f32x4.mul(weighted ? v128.load(at, PRODUCTS) : value, level));
  }
  shift = f32x4.div(sumL, total);
  const variance = f32x4.sub(sumLL, f32x4.mul(sumL, shift));
  // Below this the variance may be what rounding left of it.
  const sound = v128.and(
    f32x4.gt(variance, f32x4.mul(sumLL, f32x4.splat(1.0 / 262144))),
    f32x4.gt(product, i32x4.splat(0)),
  );
  shift = v128.and(shift, sound);
  scale = v128.and(f32x4.div(product, variance), sound);
  inverse = v128.and(f32x4.div(variance, product), sound);
  gain = v128.and(f32x4.mul(product, scale), sound);
}

// @ts-ignore: decorator
@inline function attemptBetter(by: v128, from: v128, top: f32, weighted: bool): void {
  attempt(by, from, top, weighted);
  const better = f32x4.gt(gain, foundGain);
  foundInverse = v128.bitselect(inverse, foundInverse, better);
  foundShift = v128.bitselect(shift, foundShift, better);
  foundScale = v128.bitselect(scale, foundScale, better);
  foundGain = v128.bitselect(gain, foundGain, better);
}

/** Takes the best outcome of a span over where it is the best of all spans. */
function settleSpan(): void {
  const better = f32x4.gt(foundGain, bestGain);
  bestInverse = v128.bitselect(foundInverse, bestInverse, better);
  bestShift = v128.bitselect(foundShift, bestShift, better);
  bestScale = v128.bitselect(foundScale, bestScale, better);
  bestGain = v128.bitselect(foundGain, bestGain, better);
}

// @ts-ignore: decorator
@inline function attemptSpan(span: f32, unit: v128, top: f32, weighted: bool): void {
  const by = f32x4.mul(f32x4.splat(span), unit);
  const base = f32x4.mul(f32x4.sub(mean, low), by);
  const room = top - span;
  const first = min<f32>(0, room) - MARGIN;
  const width = abs(room) + 2 * MARGIN;
  foundInverse = i32x4.splat(0);
  foundShift = foundInverse;
  foundScale = foundInverse;
  foundGain = foundInverse;
  for (let k = 0; k < PLACES; k++) {
    const place = first + width * <f32>((<f64>k + 0.5) / <f64>PLACES);
    attemptBetter(by, f32x4.add(base, f32x4.splat(place)), top, weighted);
  }
  attemptBetter(foundInverse, foundShift, top, weighted);
}

// @ts-ignore: decorator
@inline function fitInTurns(top: f32, weighted: bool): void {
  for (let round = 0; round < ROUNDS; round++) attemptBetter(foundInverse, foundShift, top, weighted);
}

/** Stretches and shifts the best a little. */
// @ts-ignore: decorator
@inline function moveAbout(top: f32, weighted: bool): void {
  const coarseInverse = foundInverse;
  const coarseShift = foundShift;
  const middle = f32x4.splat(top / 2);
  for (let stretch = -2; stretch <= 2; stretch++) {
    const factor = f32x4.splat(<f32>1 + <f32>stretch * <f32>((0.01 * 15) / <f64>top));
    const by = f32x4.mul(coarseInverse, factor);
    const from = f32x4.add(f32x4.mul(f32x4.sub(coarseShift, middle), factor), middle);
    for (let step = -2; step <= 2; step++) {
      attemptBetter(by, f32x4.add(from, f32x4.splat(<f32>step * <f32>0.15)), top, weighted);
    }
  }
}

// @ts-ignore: decorator
@inline function explore(top: f32, weighted: bool): void {
  const unit = f32x4.div(f32x4.splat(1), range);
  bestGain = i32x4.splat(0);
  bestInverse = bestGain;
  bestShift = bestGain;
  bestScale = bestGain;
  let span: f32 = top * <f32>(12.5 / 15.0);
  for (let t = 0; t < SPANS; t++) {
    attemptSpan(span, unit, top, weighted);
    settleSpan();
    span *= <f32>1.0437;
  }
  foundInverse = bestInverse;
  foundShift = bestShift;
  foundScale = bestScale;
  foundGain = bestGain;
  fitInTurns(top, weighted);
  moveAbout(top, weighted);
  fitInTurns(top, weighted);
}

/** Takes a stored scale and offset over where their error is the least so far. */
// @ts-ignore: decorator
@inline function compare(d: v128, offset: v128, top: f32, weighted: bool): void {
  const by = inverseOf(d);
  let left = i32x4.splat(0);
  for (let at = turned; at < END; at += 16) {
    const x = v128.load(at);
    const level = levelOf(f32x4.mul(f32x4.sub(x, offset), by), top);
    const off = f32x4.sub(x, f32x4.add(f32x4.mul(d, level), offset));
    left = f32x4.add(left, weigh(at, f32x4.mul(off, off), weighted));
  }
  const better = f32x4.lt(left, error);
  leastScale = v128.bitselect(d, leastScale, better);
  leastOffset = v128.bitselect(offset, leastOffset, better);
  error = v128.bitselect(left, error, better);
}

/** The offset that suits a stored scale best, as it is stored. */
// @ts-ignore: decorator
@inline function offsetFor(d: v128): v128 {
  return stored(f32x4.sub(mean, f32x4.mul(d, shift)));
}

/** Fits scale and mean level to the levels of a stored scale and offset. */
// @ts-ignore: decorator
@inline function refit(d: v128, offset: v128, top: f32, weighted: bool): void {
  const by = inverseOf(d);
  attempt(by, f32x4.mul(f32x4.sub(mean, offset), by), top, weighted);
}

/** Finds stored scales and offsets of the blocks at `turned`, given those that ggml's method finds with weights. */
// @ts-ignore: decorator
@inline function searchOffset(top: f32, weighted: bool, scales: v128, offsets: v128): void {
  centre(weighted);
  const lowest = stored(low);
  const flat = f32x4.le(range, i32x4.splat(0));
  range = v128.bitselect(f32x4.splat(1), range, flat);
  explore(top, weighted);
  error = f32x4.splat(Infinity);
  compare(stored(f32x4.div(range, f32x4.splat(top))), lowest, top, weighted);
  compare(stored(f32x4.div(range, f32x4.splat((top + 1) / 2))), lowest, top, weighted);
  scale = foundScale;
  shift = foundShift;
  for (let round = 0; round < ROUNDS; round++) {
    const d = stored(scale);
    const offset = offsetFor(d);
    compare(d, offset, top, weighted);
    if (round < ROUNDS - 1) refit(d, offset, top, weighted);
  }
  refit(leastScale, leastOffset, top, weighted);
  const half = halves(leastScale);
  for (let beside = -2; beside <= 2; beside++) {
    if (beside == 0) continue;
    const near = i32x4.add(half, i32x4.splat(beside));
    const d = widened(i32x4.max_s(i32x4.min_s(near, i32x4.splat(0x7bff)), i32x4.splat(0)));
    compare(d, offsetFor(d), top, weighted);
  }
  if (weighted) compare(stored(scales), stored(offsets), top, true);
  leastScale = v128.andnot(leastScale, flat);
  leastOffset = v128.bitselect(lowest, leastOffset, flat);
}

// @ts-ignore: decorator
@inline function levels4(x: usize, offset: v128, by: v128, top: f32): v128 {
  const units = f32x4.mul(f32x4.sub(v128.load(x), offset), by);
  const within = f32x4.pmax(f32x4.pmin(units, f32x4.splat(top)), i32x4.splat(0));
  return i32x4.sub(f32x4.add(within, f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, offset: v128, by: v128, top: f32): v128 {
  return bytesOf(
    levels4(x, offset, by, top),
    levels4(x + 16, offset, by, top),
    levels4(x + 32, offset, by, top),
    levels4(x + 48, offset, by, top),
  );
}

// @ts-ignore: decorator
@inline function storeBlock(x: usize, d: f32, offset: f32, top: f32, output: usize): void {
  store<u16>(output, halfOf(d));
  store<u16>(output, halfOf(offset), 2);
  const by = f32x4.splat(d == 0 ? 0 : 1 / d);
  const from = f32x4.splat(offset);
  const first = levels16(x, from, by, top);
  const second = levels16(x + 64, from, by, top);
  if (top > 15) packFifths(first, second, output + 4);
  else packNibbles(first, second, output + 4);
}

// @ts-ignore: decorator
@inline function encodeBlocks(
  x: usize,
  importance: usize,
  output: usize,
  values: i32,
  top: f32,
  weighted: bool,
  mean: f32,
): void {
  const bytes: usize = top > 15 ? 24 : 20;
  let later = false;
  for (let blocks = values / 32; blocks > 0; blocks -= 4) {
    if (weighted && !later) fitBlocks(x, blocks, importance, mean, top);
    turnBlocks(x, 32, blocks, importance, weighted);
    searchOffset(top, weighted, foundScales(later), foundOffsets(later));
    later = !later;
    const d = leastScale;
    const m = leastOffset;
    storeBlock(lane0, f32x4.extract_lane(d, 0), f32x4.extract_lane(m, 0), top, output);
    if (blocks > 1) {
      storeBlock(lane1, f32x4.extract_lane(d, 1), f32x4.extract_lane(m, 1), top, output + bytes);
    }
    if (blocks > 2) {
      storeBlock(lane2, f32x4.extract_lane(d, 2), f32x4.extract_lane(m, 2), top, output + 2 * bytes);
    }
    if (blocks > 3) {
      storeBlock(lane3, f32x4.extract_lane(d, 3), f32x4.extract_lane(m, 3), top, output + 3 * bytes);
    }
    x += 4 * 128;
    output += 4 * bytes;
  }
}

/** See `searchBlocks`; `meanSquare` is of the row. */
export function searchQ4_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  if (weights === 0) encodeBlocks(x, 0, output, values, 15, false, 0);
  else encodeBlocks(x, weights - x, output, values, 15, true, meanSquare);
}

/** See `searchBlocks`; `meanSquare` is of the row. */
export function searchQ5_1(x: usize, weights: usize, output: usize, values: i32, meanSquare: f32): void {
  if (weights === 0) encodeBlocks(x, 0, output, values, 31, false, 0);
  else encodeBlocks(x, weights - x, output, values, 31, true, meanSquare);
}
