// The search of a block on a lattice: trials of all sub-blocks, a scale for the block, and then all groups placed again
// at the scales that will be stored. What that gives joins the trials, the scale of the block is fitted anew, and so
// on.

import { floatOf, halfOf, isInfinite } from "../half";
import { weights } from "../lattice/block";
import { base } from "../lattice/tables";
import { evenOut, guesses, leastLane, share } from "./lattice-block";
import { placeAll, product as placedProduct, square as placedSquare, sumOf } from "./lattice-place";
import { beginTrials, bound, chooseScale, codes, LEAST_SCALE, take } from "./lattice-trials";
import { placeTernary, product as ternaryProduct, square as ternarySquare } from "./ternary-place";

/**
 * What groups are: magnitudes of four or eight values, or eight ternary levels, shifted alike in a sub-block or in each
 * group.
 */
export const FOURS: i32 = 0;
export const EIGHTS: i32 = 1;
export const TERNARY_TOGETHER: i32 = 2;
export const TERNARY_APART: i32 = 3;

/** Points of the groups, and codes, of the last round and of the best one. */
const points: usize = memory.data(2 * 64, 16);
export const bestPoints: usize = memory.data(2 * 64, 16);
export const bestCodes: usize = memory.data(16, 16);

/** Trials to either side of the guess. */
let reach: i32 = 1;
/** How far beyond them a sub-block may go. */
let further: i32 = 0;
/** How often the whole block is placed at the scales to be stored. */
let rounds: i32 = 0;
/** By how much of the guess trials differ. */
let step: f32 = 0;
/** What of the root mean square and of the largest value makes the guess. */
let ofMean: f32 = 0;
let ofLargest: f32 = 0;

/** Sets how a type guesses its scales and what it tries. */
export function setTrials(sides: i32, beyond: i32, times: i32, apart: f32, mean: f32, largest: f32): void {
  reach = sides;
  further = beyond;
  rounds = times;
  step = apart;
  ofMean = mean;
  ofLargest = largest;
}

/** Largest magnitudes of the sub-blocks. */
const largest: usize = memory.data(4 * 16, 16);
/** Sums of w·x·g and w·g² over the last sub-block that was placed. */
let product: f32 = 0;
let square: f32 = 0;

/** Guesses the scale of a sub-block from the weighted root mean square and the largest of its values. */
// @ts-ignore: decorator
@inline function guess(x: usize, s: usize, size: usize): void {
  let at: usize = 4 * size * s;
  let energy = i32x4.splat(0);
  let weight = i32x4.splat(0);
  let most = i32x4.splat(0);
  for (const end = at + 4 * size; at < end; at += 16) {
    const value = f32x4.abs(v128.load(x + at));
    energy = f32x4.add(energy, f32x4.mul(f32x4.mul(v128.load(weights + at), value), value));
    weight = f32x4.add(weight, v128.load(weights + at));
    most = f32x4.pmax(most, value);
  }
  const reached = -f32x4.extract_lane(leastLane(f32x4.neg(most)), 0);
  store<f32>(largest + 4 * s, reached);
  store<f32>(guesses + 4 * s, ofMean * sqrt<f32>(sumOf(energy) / sumOf(weight)) + ofLargest * reached);
}

/**
 * Places a sub-block at a scale and takes what comes of it as a trial. Groups of four are content with half of the
 * candidates where it will not be stored. Returns what it gains.
 */
// @ts-ignore: decorator
@inline function tryOne(s: usize, scale: f32, size: usize, shape: i32, stored: bool): f32 {
  const at: usize = 4 * size * s;
  const own = max(scale, LEAST_SCALE);
  const to = points + 2 * s * (shape === FOURS ? size / 4 : size / 8);
  if (shape === TERNARY_TOGETHER || shape === TERNARY_APART) {
    placeTernary(at, size, own, to, shape === TERNARY_APART ? 8 : size);
    product = ternaryProduct;
    square = ternarySquare;
  } else {
    placeAll(base, at, size, own, to, shape === EIGHTS, stored || shape === EIGHTS);
    product = placedProduct;
    square = placedSquare;
  }
  return take(s, product, square);
}

/**
 * Tries scales around the guess for a sub-block, further ones as long as it gets better beyond the last, and with
 * groups of four those that spare a single large value: they put it on the levels 17, 15 and 13, where their scales
 * are larger than all of those.
 */
// @ts-ignore: decorator
@inline function searchScale(s: usize, guess: f32, size: usize, shape: i32): void {
  let best: f32 = -1;
  let side = 0;
  let trial = 0;
  for (; trial <= 2 * reach; trial++) {
    const gain = tryOne(s, guess * (1 + step * <f32>(trial - reach)), size, shape, false);
    if (gain > best) {
      best = gain;
      side = trial === 0 ? -1 : trial === 2 * reach ? 1 : 0;
    }
  }
  for (let i = 1; side !== 0 && i <= further; i++) {
    const gain = tryOne(s, guess * (1 + step * <f32>(side * (reach + i))), size, shape, false);
    if (gain > best) best = gain;
    else side = 0;
  }
  if (shape !== FOURS) return;
  const beyond: f32 = guess * (1 + step * (<f32>reach + 0.5));
  for (let level: f32 = 17; level >= 13; level -= 2) {
    const scale = load<f32>(largest + 4 * s) / level;
    if (scale > beyond) tryOne(s, scale, size, shape, false);
  }
}

/**
 * Searches a block that was read; its half is returned, the codes and points are in `bestCodes` and `bestPoints`.
 *
 * @param size values of a sub-block
 * @param shape `FOURS`, `EIGHTS`, `TERNARY_TOGETHER` or `TERNARY_APART`
 * @param even whether the signs of eight values have to have an even number of minuses
 */
// @ts-ignore: decorator
@inline export function searchBlock(x: usize, size: usize, shape: i32, even: bool): i32 {
  const count: usize = 256 / size;
  for (let s: usize = 0; s < count; s++) guess(x, s, size);
  if (even) evenOut(size);
  share(shape !== FOURS);
  for (let s: usize = 0; s < count; s++) {
    beginTrials(s);
    searchScale(s, load<f32>(guesses + 4 * s), size, shape);
  }
  let half = halfOf(chooseScale(count));
  let bestHalf = 0;
  let least: f32 = 0;
  for (let round = 0; round < rounds; round++) {
    if (half === 0 || isInfinite(half)) break;
    const scale = floatOf(half);
    bound(f32x4.splat(scale), count);
    let error: f32 = 0;
    let above: f32 = 0;
    let below: f32 = 0;
    for (let s: usize = 0; s < count; s++) {
      const steps: f32 = <f32>((load<i32>(codes + 16 * s) << 1) + 1);
      const own = scale * steps;
      tryOne(s, own, size, shape, true);
      error += own * (own * square - (product + product));
      above += product * steps;
      below += square * steps * steps;
    }
    if (error < least) {
      least = error;
      bestHalf = half;
      memory.copy(bestPoints, points, 128);
      for (let s: usize = 0; s < count; s++) store<u8>(bestCodes + s, load<i32>(codes + 16 * s));
    }
    if (!(above > 0)) break;
    const next = halfOf(above / below);
    if (next === half) break;
    half = next;
  }
  return bestHalf;
}
