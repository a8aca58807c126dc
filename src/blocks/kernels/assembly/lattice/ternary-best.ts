// The best cut of a sub-block, and why most cuts need no look.
//
// ggml takes the cuts in turn, each with every shift, and keeps a candidate when product² > best · square in
// float32, where product² / square is its score and `best` the rounded score of the one kept. So roundings
// decide between candidates whose scores are within 2^-22 of each other, and their order matters. But those
// whose scores lie below the greatest by more than MARGIN have no say: it is enough to take the others, k
// contenders, in the same order. Between the margin and the greatest score the running maximum rises
// somewhere by a factor of 1 + MARGIN / k or more. The contender that raises it so is kept whatever was kept
// before, and from then on the same is kept with the rest and without; k comparisons sink it by less than the
// rise. All this holds while MARGIN > k·(2k + 3)·2^-22, so for up to MOST contenders, with room for the 2^-13
// by which the scan may misjudge a score.
//
// Where there are more of them (equal values), or where scores are so small or large that float32 loses
// digits, all candidates are taken.

/** Fraction of the greatest score that a contender may lack. */
export const MARGIN: f32 = 1.0 / 512;
/** Most contenders. */
export const MOST: i32 = 48;

/** Scores, weights and their products that are safe from overflow, and from loss by underflow. */
const SMALL: f32 = 1e-27;
const LARGE: f32 = 1e20;

/**
 * The best cut so far; `shifts` has bit g set when the levels of group g are shifted down, -1 before any cut.
 */
export let low: i32 = 0;
export let high: i32 = 0;
export let shifts: i32 = -1;
export let scale: f32 = 0;
let score: f32 = 0;

/**
 * Cuts with a contender, in order: `low`, `high`, and which shifts contend as bits, from the high byte down.
 */
const cuts: usize = memory.data(4 * 48, 16);
let cutCount: i32 = 0;
let contenders: i32 = 0;

/** Starts a search. */
// @ts-ignore: decorator
@inline export function begin(): void {
  shifts = -1;
  score = -f32.MAX_VALUE;
  cutCount = 0;
  contenders = 0;
}

/** Takes a cut if it is better. */
// @ts-ignore: decorator
@inline export function take(product: f32, square: f32, atLow: i32, atHigh: i32, withShifts: i32): void {
  if (square > 0 && product * product > score * square) {
    scale = product / square;
    score = scale * product;
    low = atLow;
    high = atHigh;
    shifts = withShifts;
  }
}

/**
 * Whether contenders can be told from the rest by a score that one of the cuts has, and the sum of weights.
 */
// @ts-ignore: decorator
@inline export function isSafe(known: f32, weight: f32): bool {
  const least = min(min(known, weight), known * weight);
  const most = max(max(known, weight), known * weight);
  return least > SMALL && most < LARGE;
}

/** Lanes of the cuts at `low` and from `high` on that are cuts: `low` is not above `high`. */
// @ts-ignore: decorator
@inline export function cutLanes(low: i32, high: i32): i32 {
  return (15 << max(0, low - high)) & 15;
}

/**
 * Notes a cut in the order in which cuts are taken; false when there are too many contenders.
 *
 * @param which its shifts that contend, one bit each
 */
export function note(atLow: i32, atHigh: i32, which: i32): bool {
  contenders += popcnt(which);
  if (contenders > MOST) return false;
  const cut = (atLow << 16) | (atHigh << 8) | which;
  let at = cuts + 4 * cutCount++;
  while (at > cuts && load<i32>(at - 4) > cut) {
    store<i32>(at, load<i32>(at - 4));
    at -= 4;
  }
  store<i32>(at, cut);
  return true;
}

// @ts-ignore: decorator
@inline export function notedCuts(): i32 {
  return cutCount;
}

/** A cut as it was noted. */
// @ts-ignore: decorator
@inline export function notedCut(index: i32): i32 {
  return load<i32>(cuts + 4 * index);
}

/** The largest of those lanes that are in `lanes`, or 0. */
// @ts-ignore: decorator
@inline export function largestOf(values: v128, lanes: i32): f32 {
  const bits = v128.and(i32x4.splat(lanes), i32x4(1, 2, 4, 8));
  const own = v128.andnot(values, i32x4.eq(bits, i32x4.splat(0)));
  const pairs = f32x4.pmax(own, v128.shuffle<i32>(own, own, 2, 3, 0, 1));
  return max(f32x4.extract_lane(pairs, 0), f32x4.extract_lane(pairs, 1));
}
