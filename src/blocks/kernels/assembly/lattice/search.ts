// The search of a sub-block: of all trials of a scale the one that leaves the least weighted error at its own best
// scale. Then groups are placed again at that scale, which moves once more.

import { products, reachOf, weights } from "./block";
import { nearest } from "./neighbours";
import { placeGroup, words } from "./place";
import { entryOf, indexOf, ON_GRID } from "./tables";
import { codesAt, lastInverse, startTrials, TRIALS, trials } from "./trials";

/** Sums of w·x·step and of w·step² by trial. */
const productSums: usize = memory.data(4 * 32, 16);
const squareSums: usize = memory.data(4 * 32, 16);
/** The words that the search ended with. */
const chosen: usize = memory.data(4 * 8, 16);

/** Which groups are placed again: all, those whose code was no point, or all when any code was none. */
export const ALL: i32 = 0;
export const OFF_GRID: i32 = 1;
export const ALL_OR_NONE: i32 = 2;

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
    v128.store(productSums + t, productA);
    v128.store(productSums + t, productB, 16);
    v128.store(squareSums + t, squareA);
    v128.store(squareSums + t, squareB, 16);
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
    const product = load<f32>(productSums + 4 * <usize>t);
    const square = load<f32>(squareSums + 4 * <usize>t);
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
  startTrials(extreme);
  const width: usize = eight ? 32 : 16;
  const rising = eight && reachOf(at, width * groups) * lastInverse() < <f32>4000000;
  for (let group: usize = 0; group < groups; group++) placeGroup(at + width * group, group, rising, eight);
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
