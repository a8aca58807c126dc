// Places groups of a sub-block in all trials: each becomes the point of its code, or the nearest neighbour of a code
// that has none. Trials that give a group the same code are served together; see `neighbours.ts`.

import { bytes, doubtOf, lead, leader, leadersOf, nearest, weighNeighbours, weighPairs } from "./neighbours";
import { entryOf } from "./tables";
import { codes, endsOfRuns, makeCodes, scaleOf, scales, TRIALS, trials } from "./trials";

/**
 * Lists of more than 20 neighbours are looked through four neighbours at a time, which takes a reduction for every
 * trial but needs few trials; shorter ones for eight trials at a time, a neighbour after the other.
 */
const LONG: usize = 4 * 20;

/** Words of up to eight groups by trial, with room for what is written behind the last. */
export const words: usize = memory.data(4 * (32 * 8 + 8), 16);

/** Writes a word for trials `a` to `b`, and perhaps for some behind, which are placed later. */
// @ts-ignore: decorator
@inline function put(to: usize, a: i32, b: i32, word: i32): void {
  const four = i32x4.splat(word);
  for (let t = a; t <= b; t += 8) {
    v128.store(to + 4 * <usize>t, four);
    v128.store(to + 4 * <usize>t, four, 16);
  }
}

/** The word of the nearest of a long list of neighbours in trial `t`. */
// @ts-ignore: decorator
@inline function placeOnce(entry: i32, at: usize, t: i32, doubt: f32, eight: bool): i32 {
  const word = leader(scaleOf(t));
  return lead > doubt ? word : nearest(entry, at, scaleOf(t), eight);
}

/** Places a group in trials `a` to `b` at the nearest of a long list. Who leads clearly at both ends leads between. */
// @ts-ignore: decorator
@inline function placeLong(entry: i32, at: usize, to: usize, a: i32, b: i32, doubt: f32, eight: bool): void {
  const first = placeOnce(entry, at, a, doubt, eight);
  store<i32>(to + 4 * <usize>a, first);
  if (a === b) return;
  let clear = lead > doubt;
  const last = placeOnce(entry, at, b, doubt, eight);
  clear = clear && lead > doubt;
  store<i32>(to + 4 * <usize>b, last);
  if (clear && first === last) return put(to, a + 1, b - 1, first);
  for (let t = a + 1; t < b; t++) store<i32>(to + 4 * <usize>t, placeOnce(entry, at, t, doubt, eight));
}

/** Places a group in trials `a` to `b` at the nearest of a short list. */
// @ts-ignore: decorator
@inline function placeShort(entry: i32, at: usize, to: usize, a: i32, b: i32, doubt: f32, eight: bool): void {
  for (let t = a; t <= b; t += 8) {
    const o: usize = 4 * <usize>t;
    let doubtful = ~leadersOf(scales + o, to + o, doubt) & ((1 << min(b - t + 1, 8)) - 1);
    for (; doubtful !== 0; doubtful &= doubtful - 1) {
      const trial = t + <i32>ctz(doubtful);
      store<i32>(to + 4 * <usize>trial, nearest(entry, at, scaleOf(trial), eight));
    }
  }
}

/**
 * Places the group at `at` (in bytes) in all trials.
 *
 * @param group its place in the sub-block; groups are placed in order
 * @param rising see `makeCodes`
 */
// @ts-ignore: decorator
@inline export function placeGroup(at: usize, group: usize, rising: bool, eight: bool): void {
  const to = words + 4 * TRIALS * group;
  makeCodes(at, rising, eight);
  const doubt = doubtOf(at, scaleOf(0), scaleOf(trials - 1), eight);
  if (eight) weighPairs(at);
  let ends = endsOfRuns();
  for (let a = 0; a < trials; ) {
    const b = <i32>ctz(ends);
    ends &= ends - 1;
    const entry = entryOf(load<i32>(codes + 4 * <usize>a));
    if (entry < 0) {
      put(to, a, b, entry);
    } else {
      weighNeighbours(entry, at, eight);
      if (eight && bytes > LONG) placeLong(entry, at, to, a, b, doubt, eight);
      else placeShort(entry, at, to, a, b, doubt, eight);
    }
    a = b + 1;
  }
}
