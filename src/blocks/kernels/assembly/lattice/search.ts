// The search of a sub-block: of all trials of a scale the one that leaves the least weighted error at its own best
// scale. Then groups are placed again at that scale.
//
// Lanes are trials: the codes of a group and the sums of a sub-block are made for four trials at a time. Between,
// trials that give a group the same code are served together; see `neighbours.ts`.

import { digitsOf, products, reachOf, sizes, weights } from "./block";
import { bytes, doubtOf, lead, leader, leadersOf, nearest, weighNeighbours, weighPairs } from "./neighbours";
import { entryOf, indexOf, ON_GRID } from "./tables";

/** Room for trials, a multiple of 8. */
const TRIALS: usize = 32;
const LONG: usize = 80;

/** Inverse scales that are tried, times the extreme of the sub-block. */
const numerators: usize = memory.data(4 * 32, 16);
let trials: i32 = 0;
/** Inverse scales and scales of the trials. */
const inverses: usize = memory.data(4 * 32, 16);
const scales: usize = memory.data(4 * 40, 16);
/** Codes of a group by trial, with room to read one behind. */
const codes: usize = memory.data(4 * 36, 16);
/** Where elements of a group rise to their higher digit. */
const bounds: usize = memory.data(4 * 8, 16);
/** Words of up to eight groups by trial. */
const words: usize = memory.data(4 * (32 * 8 + 8), 16);
/** Sums of w·x·step and of w·step² by trial. */
const products1: usize = memory.data(4 * 32, 16);
const squares1: usize = memory.data(4 * 32, 16);
/** The words that the search ended with. */
const chosen: usize = memory.data(4 * 8, 16);

/** Which groups are placed again: all, those whose code was no point, or all when any code was none. */
export const ALL: i32 = 0;
export const OFF_GRID: i32 = 1;
export const ALL_OR_NONE: i32 = 2;

/** Sets the trials: `top` and `reach` steps to both sides of it, in float32 like ggml. */
export function setTrials(top: f32, step: f32, reach: i32): void {
  trials = 2 * reach + 1;
  for (let t: i32 = 0; t < <i32>TRIALS; t++) {
    store<f32>(numerators + 4 * t, top + <f32>(min(t, trials - 1) - reach) * step);
  }
}

/** Codes of four values of a group at an inverse scale, digit by digit, on top of those behind them. */
// @ts-ignore: decorator
@inline function addDigit(code: v128, at: usize, k: usize, inverse: v128, eight: bool): v128 {
  const digits = digitsOf(f32x4.mul(inverse, v128.load32_splat(sizes + at + 4 * k)), eight ? 2 : 7);
  if (eight) return i32x4.add(i32x4.add(i32x4.add(code, code), code), digits);
  return i32x4.add(i32x4.shl(code, 3), digits);
}

/** Codes of a group at four inverse scales. */
// @ts-ignore: decorator
@inline function codesAt(at: usize, inverse: v128, eight: bool): v128 {
  let code = i32x4.splat(0);
  if (eight) {
    code = addDigit(code, at, 7, inverse, true);
    code = addDigit(code, at, 6, inverse, true);
    code = addDigit(code, at, 5, inverse, true);
    code = addDigit(code, at, 4, inverse, true);
  }
  code = addDigit(code, at, 3, inverse, eight);
  code = addDigit(code, at, 2, inverse, eight);
  code = addDigit(code, at, 1, inverse, eight);
  return addDigit(code, at, 0, inverse, eight);
}

// @ts-ignore: decorator
@inline function addRise(code: v128, at: usize, k: usize, inverse: v128, place: i32): v128 {
  const value = f32x4.mul(inverse, v128.load32_splat(sizes + at + 4 * k));
  const risen = f32x4.ge(value, v128.load32_splat(bounds + 4 * k));
  return i32x4.add(code, v128.and(risen, i32x4.splat(place)));
}

/**
 * Codes of a group of eight in all trials, for values within 2^22 at every inverse scale.
 *
 * A digit is 1 above 2 and 2 from 4 on: with ties to even, and no rounding in the subtraction of 1 there. The
 * largest inverse scale is less than twice the smallest, so no element passes both bounds during the trials.
 */
function risingCodes(at: usize): void {
  const start = v128.load32_splat(inverses);
  const two = f32x4.splat(2);
  const above = f32x4.splat(reinterpret<f32>(0x40000001));
  const four = f32x4.splat(4);
  const low = f32x4.gt(f32x4.mul(start, v128.load(sizes + at)), two);
  const high = f32x4.gt(f32x4.mul(start, v128.load(sizes + at, 16)), two);
  v128.store(bounds, v128.bitselect(four, above, low));
  v128.store(bounds, v128.bitselect(four, above, high), 16);
  const ones = v128.and(i16x8.narrow_i32x4_s(low, high), i16x8.splat(1));
  let sum = i32x4.dot_i16x8_s(ones, i16x8(1, 3, 9, 27, 81, 243, 729, 2187));
  sum = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 2, 3, 0, 1));
  const first = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 1, 0, 3, 2));
  for (let t: usize = 0; t < 4 * <usize>trials; t += 16) {
    const inverse = v128.load(inverses + t);
    let code = addRise(first, at, 0, inverse, 1);
    code = addRise(code, at, 1, inverse, 3);
    code = addRise(code, at, 2, inverse, 9);
    code = addRise(code, at, 3, inverse, 27);
    code = addRise(code, at, 4, inverse, 81);
    code = addRise(code, at, 5, inverse, 243);
    code = addRise(code, at, 6, inverse, 729);
    code = addRise(code, at, 7, inverse, 2187);
    v128.store(codes + t, code);
  }
}

/** The last trials of all runs that give a group the same code, as bits. */
// @ts-ignore: decorator
@inline function endsOfRuns(): u32 {
  let ends: u32 = 0;
  for (let t: usize = 0; t < <usize>trials; t += 4) {
    const changes = i32x4.ne(v128.load(codes + 4 * t), v128.load(codes + 4 * t, 4));
    ends |= <u32>i32x4.bitmask(changes) << <u32>t;
  }
  const last: u32 = 1 << (trials - 1);
  return (ends & (last - 1)) | last;
}

/** Writes a word for trials `a` to `b`, and perhaps some behind, which are placed later. */
// @ts-ignore: decorator
@inline function put(to: usize, a: i32, b: i32, word: i32): void {
  const four = i32x4.splat(word);
  for (let t = a; t <= b; t += 8) {
    v128.store(to + 4 * <usize>t, four);
    v128.store(to + 4 * <usize>t, four, 16);
  }
}

/** Places a group in trials `a` to `b`, which give it the same code, off the grid. */
// @ts-ignore: decorator
@inline function settleShort(entry: i32, at: usize, to: usize, a: i32, b: i32, doubt: f32, eight: bool): void {
  for (let t = a; t <= b; t += 8) {
    const o: usize = 4 * <usize>t;
    let doubtful = ~leadersOf(scales + o, to + o, doubt) & ((1 << min(b - t + 1, 8)) - 1);
    for (; doubtful !== 0; doubtful &= doubtful - 1) {
      const trial: usize = o + 4 * <usize>ctz(doubtful);
      store<i32>(to + trial, nearest(entry, at, load<f32>(scales + trial), eight));
    }
  }
}

/** Places a group in trial `t`. */
// @ts-ignore: decorator
@inline function settle(entry: i32, at: usize, t: i32, doubt: f32, eight: bool): i32 {
  const scale = load<f32>(scales + 4 * <usize>t);
  const word = leader(scale);
  return lead > doubt ? word : nearest(entry, at, scale, eight);
}

/** Places a group in trials `a` to `b`, which give it the same code, off the grid. */
// @ts-ignore: decorator
@inline function settleRun(entry: i32, at: usize, to: usize, a: i32, b: i32, doubt: f32, eight: bool): void {
  const first = settle(entry, at, a, doubt, eight);
  store<i32>(to + 4 * <usize>a, first);
  if (a === b) return;
  let clear = lead > doubt;
  const last = settle(entry, at, b, doubt, eight);
  clear = clear && lead > doubt;
  store<i32>(to + 4 * <usize>b, last);
  if (clear && first === last) return put(to, a + 1, b - 1, first);
  for (let t = a + 1; t < b; t++) store<i32>(to + 4 * <usize>t, settle(entry, at, t, doubt, eight));
}

/** Places a group in all trials. */
// @ts-ignore: decorator
@inline function placeGroup(at: usize, to: usize, rising: bool, eight: bool): void {
  if (eight && rising) {
    risingCodes(at);
  } else {
    for (let t: usize = 0; t < 4 * <usize>trials; t += 16) {
      v128.store(codes + t, codesAt(at, v128.load(inverses + t), eight));
    }
  }
  const doubt = doubtOf(at, load<f32>(scales), load<f32>(scales + 4 * <usize>(trials - 1)), eight);
  let ends = endsOfRuns();
  if (eight) weighPairs(at);
  for (let a = 0; a < trials; ) {
    const b = <i32>ctz(ends);
    ends &= ends - 1;
    const entry = entryOf(load<i32>(codes + 4 * <usize>a));
    if (entry < 0) put(to, a, b, entry);
    else {
      weighNeighbours(entry, at, eight);
      if (eight && bytes > LONG) settleRun(entry, at, to, a, b, doubt, eight);
      else settleShort(entry, at, to, a, b, doubt, eight);
    }
    a = b + 1;
  }
}

// @ts-ignore: decorator
@inline function addProduct(sum: v128, at: usize, steps: v128): v128 {
  return f32x4.add(sum, f32x4.mul(v128.load32_splat(products + at), steps));
}

// @ts-ignore: decorator
@inline function addSquare(sum: v128, at: usize, steps: v128): v128 {
  return f32x4.add(sum, f32x4.mul(f32x4.mul(v128.load32_splat(weights + at), steps), steps));
}

/** The lowest steps of words. The mark of a word is no part of its highest step. */
// @ts-ignore: decorator
@inline function lowest(words: v128, eight: bool): v128 {
  return f32x4.convert_i32x4_s(v128.and(words, i32x4.splat(eight ? 7 : 15)));
}

/** Sums w·x·step and w·step² over the sub-block, for eight trials at a time: two vectors keep the adders busy. */
// @ts-ignore: decorator
@inline function sumTrials(at: usize, groups: usize, eight: bool): void {
  const width = eight ? 8 : 4;
  for (let t: usize = 0; t < 4 * <usize>trials; t += 32) {
    let productA = i32x4.splat(0);
    let productB = i32x4.splat(0);
    let squareA = i32x4.splat(0);
    let squareB = i32x4.splat(0);
    let value = at;
    for (let group: usize = 0; group < groups; group++) {
      let a = v128.load(words + 4 * TRIALS * group + t);
      let b = v128.load(words + 4 * TRIALS * group + t, 16);
      for (let k = 0; k < width; k++) {
        const stepsA = lowest(a, eight);
        const stepsB = lowest(b, eight);
        productA = addProduct(productA, value, stepsA);
        productB = addProduct(productB, value, stepsB);
        squareA = addSquare(squareA, value, stepsA);
        squareB = addSquare(squareB, value, stepsB);
        a = i32x4.shr_u(a, 4);
        b = i32x4.shr_u(b, 4);
        value += 4;
      }
    }
    v128.store(products1 + t, productA);
    v128.store(products1 + t, productB, 16);
    v128.store(squares1 + t, squareA);
    v128.store(squares1 + t, squareB, 16);
  }
}

/** The best scale of the chosen words, or the one given where they have no projection. */
// @ts-ignore: decorator
@inline function rescale(at: usize, groups: usize, eight: bool, scale: f32): f32 {
  const width = eight ? 8 : 4;
  let product: f32 = 0;
  let square: f32 = 0;
  let value = at;
  for (let group: usize = 0; group < groups; group++) {
    let word = load<u32>(chosen + 4 * group);
    for (let k = 0; k < width; k++) {
      const step = <f32>(<i32>(word & (eight ? 7 : 15)));
      product += load<f32>(products + value) * step;
      square += load<f32>(weights + value) * step * step;
      word >>= 4;
      value += 4;
    }
  }
  return square > 0 ? product / square : scale;
}

/** Chooses the words of the best trial; returns its scale. Without one there are the words given, and the scale. */
// @ts-ignore: decorator
@inline function chooseTrial(groups: usize, scale: f32, word: i32): f32 {
  let winner: i32 = -1;
  let best: f32 = 0;
  for (let t: i32 = 0; t < trials; t++) {
    const product = load<f32>(products1 + 4 * <usize>t);
    const square = load<f32>(squares1 + 4 * <usize>t);
    if (square > 0 && product * product > best * square) {
      scale = product / square;
      best = scale * product;
      winner = t;
    }
  }
  for (let group: usize = 0; group < groups; group++) {
    const found = winner < 0 ? word : load<i32>(words + 4 * (TRIALS * group + <usize>winner));
    store<i32>(chosen + 4 * group, found);
  }
  return scale;
}

// @ts-ignore: decorator
@inline function placesAgain(groups: usize, again: i32): bool {
  if (again === ALL) return true;
  let all: i32 = -1;
  for (let group: usize = 0; group < groups; group++) all &= load<i32>(chosen + 4 * group);
  return all >= 0;
}

// @ts-ignore: decorator
@inline function search(at: usize, groups: usize, extreme: f32, scale: f32, again: i32, eight: bool): f32 {
  const by = f32x4.splat(extreme);
  for (let t: usize = 0; t < 4 * TRIALS; t += 16) {
    const inverse = f32x4.div(v128.load(numerators + t), by);
    v128.store(inverses + t, inverse);
    v128.store(scales + t, f32x4.div(f32x4.splat(1), inverse));
  }
  const width: usize = eight ? 32 : 16;
  const rising =
    eight && reachOf(at, width * groups) * load<f32>(inverses + 4 * <usize>(trials - 1)) < <f32>4000000;
  for (let group: usize = 0; group < groups; group++) {
    placeGroup(at + width * group, words + 4 * TRIALS * group, rising, eight);
  }
  sumTrials(at, groups, eight);
  // Where no trial is taken the search ends with the first point, all steps 1.
  const first: i32 = eight ? 0x11111111 : 0x1111;
  scale = chooseTrial(groups, scale, again === ALL_OR_NONE ? first : first | ON_GRID);
  if (!(scale > 0) || !placesAgain(groups, again)) return scale;
  const inverse = f32x4.splat(1 / scale);
  for (let group: usize = 0; group < groups; group++) {
    if (again === OFF_GRID && load<i32>(chosen + 4 * group) < 0) continue;
    const start = at + width * group;
    let word = entryOf(i32x4.extract_lane(codesAt(start, inverse, eight), 0));
    if (word >= 0) word = nearest(word, start, scale, eight);
    store<i32>(chosen + 4 * group, word);
  }
  return rescale(at, groups, eight, scale);
}

/**
 * Searches a sub-block of groups of eight; `chosenPoint` has the points.
 *
 * @param at where it starts, in bytes of float32
 * @param extreme what the numerators are divided by
 * @param scale the scale in case that no trial has a projection
 * @param again which groups are placed again
 * @returns the scale; where it is negative all signs turn around
 */
export function searchEights(at: usize, groups: usize, extreme: f32, scale: f32, again: i32): f32 {
  return search(at, groups, extreme, scale, again, true);
}

/** Searches a sub-block of groups of four. */
export function searchFours(at: usize, groups: usize, extreme: f32, scale: f32, again: i32): f32 {
  return search(at, groups, extreme, scale, again, false);
}

/** Index of the point of a group that the last search ended with. */
// @ts-ignore: decorator
@inline export function chosenPoint(group: usize, eight: bool): i32 {
  return indexOf(load<i32>(chosen + 4 * group), eight);
}
