// The nearest of a code's neighbours at the scales of a run of trials.
//
// ggml takes the neighbour with the least error Σ root·(scale·step − size)², summed in float32, anew in every
// trial. Less Σ root·size² and divided by the scale, that error is scale·A − B with A = Σ root·step² and
// B = Σ 2·root·size·step, which no trial changes: so A and B of all neighbours are computed once for all trials
// that round a group to the same code, and a trial costs a product and a difference. This can only be wrong where
// the best two are as close as rounding errors; there the errors are computed as ggml does.

import { doubles, roots, sizes } from "./block";
import { base } from "./tables";

/** A and B of the neighbours; the longest list has 292. */
const slopes: usize = memory.data(4 * 296, 16);
const offsets: usize = memory.data(4 * 296, 16);
const lanes: usize = memory.data(16, 16);

/** By how much the last `leader` leads. */
export let lead: f32 = 0;

/** The current list: its words, and the bytes that they take. */
let list: usize = 0;
export let bytes: usize = 0;

/** Step k of four words. */
// @ts-ignore: decorator
@inline function step(words: v128, k: i32): v128 {
  return f32x4.convert_i32x4_s(v128.and(i32x4.shr_u(words, 4 * k), i32x4.splat(15)));
}

// @ts-ignore: decorator
@inline function addSlope(sum: v128, at: usize, k: usize, steps: v128): v128 {
  return f32x4.add(sum, f32x4.mul(f32x4.mul(v128.load32_splat(roots + at + 4 * k), steps), steps));
}

// @ts-ignore: decorator
@inline function addOffset(sum: v128, at: usize, k: usize, steps: v128): v128 {
  return f32x4.add(sum, f32x4.mul(v128.load32_splat(doubles + at + 4 * k), steps));
}

/**
 * Pairs of A and B of two elements of eight, by the code of their digits: in `leftPairs` those of elements 0 and 1
 * beside those of 2 and 3, in `rightPairs` of the others.
 */
const leftPairs: usize = memory.data(16 * 9, 16);
const rightPairs: usize = memory.data(16 * 9, 16);

// @ts-ignore: decorator
@inline function storePair(code: usize, slope: v128, offset: v128): void {
  v128.store(leftPairs + 16 * code, v128.shuffle<i32>(slope, offset, 0, 4, 1, 5));
  v128.store(rightPairs + 16 * code, v128.shuffle<i32>(slope, offset, 2, 6, 3, 7));
}

/** Fills the pairs for the group of eight at `at` (in bytes). Lanes are the four pairs of elements. */
export function weighPairs(at: usize): void {
  const three = f32x4.splat(3);
  const five = f32x4.splat(5);
  let a = v128.load(roots + at);
  let b = v128.load(roots + at, 16);
  const even = v128.shuffle<i32>(a, b, 0, 2, 4, 6);
  const even3 = f32x4.mul(even, f32x4.splat(9));
  const even5 = f32x4.mul(even, f32x4.splat(25));
  const odd = v128.shuffle<i32>(a, b, 1, 3, 5, 7);
  a = v128.load(doubles + at);
  b = v128.load(doubles + at, 16);
  const evenDouble = v128.shuffle<i32>(a, b, 0, 2, 4, 6);
  const evenDouble3 = f32x4.mul(evenDouble, three);
  const evenDouble5 = f32x4.mul(evenDouble, five);
  const oddDouble = v128.shuffle<i32>(a, b, 1, 3, 5, 7);
  storePair(0, f32x4.add(even, odd), f32x4.add(evenDouble, oddDouble));
  storePair(1, f32x4.add(even3, odd), f32x4.add(evenDouble3, oddDouble));
  storePair(2, f32x4.add(even5, odd), f32x4.add(evenDouble5, oddDouble));
  a = f32x4.mul(odd, f32x4.splat(9));
  b = f32x4.mul(oddDouble, three);
  storePair(3, f32x4.add(even, a), f32x4.add(evenDouble, b));
  storePair(4, f32x4.add(even3, a), f32x4.add(evenDouble3, b));
  storePair(5, f32x4.add(even5, a), f32x4.add(evenDouble5, b));
  a = f32x4.mul(odd, f32x4.splat(25));
  b = f32x4.mul(oddDouble, five);
  storePair(6, f32x4.add(even, a), f32x4.add(evenDouble, b));
  storePair(7, f32x4.add(even3, a), f32x4.add(evenDouble3, b));
  storePair(8, f32x4.add(even5, a), f32x4.add(evenDouble5, b));
}

/** A and B of two neighbours whose codes of pairs are at `codes`. */
// @ts-ignore: decorator
@inline function twoOfEight(codes: usize): v128 {
  let a = v128.load64_zero(leftPairs + <usize>load<u8>(codes));
  let b = v128.load64_zero(leftPairs + 8 + <usize>load<u8>(codes, 1));
  let c = v128.load64_zero(rightPairs + <usize>load<u8>(codes, 2));
  let d = v128.load64_zero(rightPairs + 8 + <usize>load<u8>(codes, 3));
  a = v128.load64_lane(leftPairs + <usize>load<u8>(codes, 4), a, 1);
  b = v128.load64_lane(leftPairs + 8 + <usize>load<u8>(codes, 5), b, 1);
  c = v128.load64_lane(rightPairs + <usize>load<u8>(codes, 6), c, 1);
  d = v128.load64_lane(rightPairs + 8 + <usize>load<u8>(codes, 7), d, 1);
  return f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
}

/** Makes a list the current one and computes A and B for the group at `at`; `weighPairs` went before for eight. */
// @ts-ignore: decorator
@inline export function weighNeighbours(entry: i32, at: usize, eight: bool): void {
  list = base + entry + 16;
  bytes = 4 * <usize>load<i32>(base + entry);
  if (eight) {
    const codes = list + ((bytes + 15) & ~15);
    for (let i: usize = 0; i < bytes; i += 16) {
      const a = twoOfEight(codes + i);
      const b = twoOfEight(codes + i + 8);
      v128.store(slopes + i, v128.shuffle<i32>(a, b, 0, 2, 4, 6));
      v128.store(offsets + i, v128.shuffle<i32>(a, b, 1, 3, 5, 7));
    }
    return;
  }
  for (let i: usize = 0; i < bytes; i += 16) {
    const words = v128.load(list + i);
    let steps = step(words, 0);
    let slope = f32x4.mul(f32x4.mul(v128.load32_splat(roots + at), steps), steps);
    let offset = f32x4.mul(v128.load32_splat(doubles + at), steps);
    steps = step(words, 1);
    slope = addSlope(slope, at, 1, steps);
    offset = addOffset(offset, at, 1, steps);
    steps = step(words, 2);
    slope = addSlope(slope, at, 2, steps);
    offset = addOffset(offset, at, 2, steps);
    steps = step(words, 3);
    slope = addSlope(slope, at, 3, steps);
    offset = addOffset(offset, at, 3, steps);
    v128.store(slopes + i, slope);
    v128.store(offsets + i, offset);
  }
}

/**
 * What the lead must reach to be beyond doubt, for scales between two.
 *
 * Neither estimates nor ggml's sums are off by more than some 16 units in the last place of
 * S = Σ root·(scale·step + size)², over the scale; 2^-17 S is 128 such units. The constant stands for what may
 * underflow. Between two scales at which a neighbour leads it leads by as much as interpolation says, since
 * differences of scale·A − B are linear in the scale.
 */
// @ts-ignore: decorator
@inline export function doubtOf(at: usize, largest: f32, smallest: f32, eight: bool): f32 {
  const most = f32x4.splat((eight ? 5 : 15) * largest);
  let reach = f32x4.add(most, f32x4.abs(v128.load(sizes + at)));
  let sum = f32x4.mul(f32x4.mul(v128.load(roots + at), reach), reach);
  if (eight) {
    reach = f32x4.add(most, f32x4.abs(v128.load(sizes + at, 16)));
    sum = f32x4.add(sum, f32x4.mul(f32x4.mul(v128.load(roots + at, 16), reach), reach));
  }
  sum = f32x4.add(sum, v128.shuffle<i32>(sum, sum, 2, 3, 0, 1));
  sum = f32x4.add(sum, v128.shuffle<i32>(sum, sum, 1, 0, 3, 2));
  // 2^-17 and 2^-120.
  const error: f32 = f32x4.extract_lane(sum, 0) * <f32>7.62939453125e-6 + <f32>7.52316384526264e-37;
  return error / smallest;
}

/** The word of the neighbour with the least estimate at a scale; sets `lead`. */
export function leader(scale: f32): i32 {
  const by = f32x4.splat(scale);
  let best = f32x4.splat(Infinity);
  let second = best;
  let words = i32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 16) {
    const estimate = f32x4.sub(f32x4.mul(by, v128.load(slopes + i)), v128.load(offsets + i));
    words = v128.bitselect(v128.load(list + i), words, f32x4.lt(estimate, best));
    second = f32x4.pmin(second, f32x4.pmax(best, estimate));
    best = f32x4.pmin(best, estimate);
  }
  v128.store(lanes, words);
  let other = v128.shuffle<i32>(best, best, 2, 3, 0, 1);
  second = f32x4.pmin(
    f32x4.pmax(best, other),
    f32x4.pmin(second, v128.shuffle<i32>(second, second, 2, 3, 0, 1)),
  );
  let least = f32x4.pmin(best, other);
  other = v128.shuffle<i32>(least, least, 1, 0, 3, 2);
  second = f32x4.pmin(
    f32x4.pmax(least, other),
    f32x4.pmin(second, v128.shuffle<i32>(second, second, 1, 0, 3, 2)),
  );
  least = f32x4.pmin(least, other);
  lead = f32x4.extract_lane(second, 0) - f32x4.extract_lane(least, 0);
  const lane = ctz(i32x4.bitmask(f32x4.eq(best, least))) & 3;
  return load<i32>(lanes + 4 * <usize>lane);
}

/**
 * Writes the words of the neighbours with the least estimates at eight scales. Returns those, as bits, at which one
 * leads by more than the doubt. Lanes are trials.
 */
export function leadersOf(scales: usize, to: usize, doubt: f32): i32 {
  const scaleA = v128.load(scales);
  const scaleB = v128.load(scales, 16);
  let bestA = f32x4.splat(Infinity);
  let bestB = bestA;
  let secondA = bestA;
  let secondB = bestA;
  let wordsA = i32x4.splat(0);
  let wordsB = wordsA;
  for (let i: usize = 0; i < bytes; i += 4) {
    const slope = v128.load32_splat(slopes + i);
    const offset = v128.load32_splat(offsets + i);
    const word = v128.load32_splat(list + i);
    const estimateA = f32x4.sub(f32x4.mul(scaleA, slope), offset);
    const estimateB = f32x4.sub(f32x4.mul(scaleB, slope), offset);
    wordsA = v128.bitselect(word, wordsA, f32x4.lt(estimateA, bestA));
    wordsB = v128.bitselect(word, wordsB, f32x4.lt(estimateB, bestB));
    secondA = f32x4.pmin(secondA, f32x4.pmax(bestA, estimateA));
    secondB = f32x4.pmin(secondB, f32x4.pmax(bestB, estimateB));
    bestA = f32x4.pmin(bestA, estimateA);
    bestB = f32x4.pmin(bestB, estimateB);
  }
  v128.store(to, wordsA);
  v128.store(to, wordsB, 16);
  const least = f32x4.splat(doubt);
  const clearA = i32x4.bitmask(f32x4.gt(f32x4.sub(secondA, bestA), least));
  return clearA | (i32x4.bitmask(f32x4.gt(f32x4.sub(secondB, bestB), least)) << 4);
}

// @ts-ignore: decorator
@inline function addError(sum: v128, words: v128, at: usize, k: i32, scale: v128): v128 {
  const difference = f32x4.sub(f32x4.mul(scale, step(words, k)), v128.load32_splat(sizes + at + 4 * <usize>k));
  const weighted = f32x4.mul(v128.load32_splat(roots + at + 4 * <usize>k), difference);
  return f32x4.add(sum, f32x4.mul(weighted, difference));
}

/** The word of the neighbour with the least error at a scale, the first among equals: each lane sums like ggml. */
// @ts-ignore: decorator
@inline export function nearest(entry: i32, at: usize, scale: f32, eight: bool): i32 {
  const first = base + entry + 16;
  const end: usize = 4 * <usize>load<i32>(base + entry);
  const by = f32x4.splat(scale);
  let best = f32x4.splat(f32.MAX_VALUE);
  let places = i32x4.splat(0);
  let place = i32x4(0, 1, 2, 3);
  for (let i: usize = 0; i < end; i += 16) {
    const words = v128.load(first + i);
    let error = addError(i32x4.splat(0), words, at, 0, by);
    error = addError(error, words, at, 1, by);
    error = addError(error, words, at, 2, by);
    error = addError(error, words, at, 3, by);
    if (eight) {
      error = addError(error, words, at, 4, by);
      error = addError(error, words, at, 5, by);
      error = addError(error, words, at, 6, by);
      error = addError(error, words, at, 7, by);
    }
    places = v128.bitselect(place, places, f32x4.lt(error, best));
    best = f32x4.pmin(best, error);
    place = i32x4.add(place, i32x4.splat(4));
  }
  let least = f32x4.pmin(best, v128.shuffle<i32>(best, best, 2, 3, 0, 1));
  least = f32x4.pmin(least, v128.shuffle<i32>(least, least, 1, 0, 3, 2));
  const equal = f32x4.eq(best, least);
  let earliest = v128.bitselect(places, i32x4.splat(0x7fffffff), equal);
  earliest = i32x4.min_s(earliest, v128.shuffle<i32>(earliest, earliest, 2, 3, 0, 1));
  earliest = i32x4.min_s(earliest, v128.shuffle<i32>(earliest, earliest, 1, 0, 3, 2));
  return load<i32>(first + 4 * <usize>i32x4.extract_lane(earliest, 0));
}
