// The lattice point for eight values: that of their digits, or the best of those around them.

import { groupsOf, listOf, smallestByte } from "./ternary-tables";

/** Steps that raising each value to its second best level would take in all. */
const STEPS: f32 = 1500;

/** Weighted squared errors of eight values at each of three levels, 32 bytes a level. */
const errors: usize = memory.data(3 * 32, 16);
/** Steps of up to 13 groups of points. */
const rough: usize = memory.data(13 * 16, 16);

/** Errors of four values at a level. */
// @ts-ignore: decorator
@inline function errorsAt(x: v128, weights: v128, level: f32): v128 {
  const difference = f32x4.sub(f32x4.splat(level), x);
  return f32x4.mul(f32x4.mul(weights, difference), difference);
}

// @ts-ignore: decorator
@inline function least(a: v128, b: v128, c: v128): v128 {
  return f32x4.pmin(f32x4.pmin(a, b), c);
}

// @ts-ignore: decorator
@inline function middle(a: v128, b: v128, c: v128): v128 {
  return f32x4.pmax(f32x4.pmin(a, b), f32x4.pmin(f32x4.pmax(a, b), c));
}

// @ts-ignore: decorator
@inline function laneSum(a: v128, b: v128): f32 {
  const sum = f32x4.add(a, b);
  const pairs = f32x4.add(sum, v128.shuffle<i32>(sum, sum, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

/** Errors above the least in whole steps, in the low bytes of lanes; 255 for more, and for NaN. */
// @ts-ignore: decorator
@inline function steps(error: v128, least: v128, by: v128): v128 {
  const exact = f32x4.mul(f32x4.sub(error, least), by);
  return f32x4.add(f32x4.pmin(f32x4.splat(255), exact), f32x4.splat(12582912));
}

/** The low bytes of the lanes of four vectors. */
// @ts-ignore: decorator
@inline function lowBytes(a: v128, b: v128, c: v128, d: v128): v128 {
  return v128.shuffle<i64>(
    v128.shuffle<i8>(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0),
    v128.shuffle<i8>(c, d, 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0),
    0, 2,
  );
}

/**
 * Steps of both digits of nibble `pair`; `low` has the steps of levels 0 and 1, both halves of `top` those of
 * 2.
 */
// @ts-ignore: decorator
@inline function pairSteps(low: v128, top: v128, pair: i32): v128 {
  const a = i64x2.shr_u(low, 16 * pair);
  const b = i64x2.shr_u(top, 16 * pair);
  return i8x16.add_sat_u(
    v128.shuffle<i8>(a, b, 0, 8, 16, 0, 0, 8, 16, 0, 0, 8, 16, 0, 0, 0, 0, 0),
    v128.shuffle<i8>(a, b, 1, 1, 1, 0, 9, 9, 9, 0, 17, 17, 17, 0, 0, 0, 0, 0),
  );
}

/** Adds the errors of two values to a sum. */
// @ts-ignore: decorator
@inline function addPair(sum: f32, nibble: i32, j: usize): f32 {
  const lower = nibble & 3;
  const upper = nibble >> 2;
  return sum + load<f32>(errors + 4 * j + 32 * lower) + load<f32>(errors + 4 * j + 32 * upper, 4);
}

/** The error of a point, summed in the order of the values. */
// @ts-ignore: decorator
@inline function errorOf(first: i32, second: i32): f32 {
  let sum: f32 = 0;
  sum = addPair(sum, first & 15, 0);
  sum = addPair(sum, first >> 4, 2);
  sum = addPair(sum, second & 15, 4);
  return addPair(sum, second >> 4, 6);
}

/** Adds up the steps of all points in a list; returns the smallest sum. */
// @ts-ignore: decorator
@inline function addSteps(list: usize, groups: usize, a: v128, b: v128, c: v128, d: v128): i32 {
  const nibble = i8x16.splat(15);
  let smallest = i8x16.splat(-1);
  for (let at: usize = 0; at < groups; at += 16) {
    const first = v128.load(list + 2 * at);
    const second = v128.load(list + 2 * at, 16);
    const sum = i8x16.add_sat_u(
      i8x16.add_sat_u(
        v128.swizzle(a, v128.and(first, nibble)),
        v128.swizzle(b, i8x16.shr_u(first, 4)),
      ),
      i8x16.add_sat_u(
        v128.swizzle(c, v128.and(second, nibble)),
        v128.swizzle(d, i8x16.shr_u(second, 4)),
      ),
    );
    v128.store(rough + at, sum);
    smallest = i8x16.min_u(smallest, sum);
  }
  return smallestByte(smallest);
}

/** Vector of a point, given the bytes that a list has of it. */
// @ts-ignore: decorator
@inline export function vectorOf(first: i32, second: i32): i32 {
  const both = (second << 8) | first;
  const pairs = (both & 0x3333) + 3 * ((both >> 2) & 0x3333);
  const fours = (pairs & 0x0f0f) + 9 * ((pairs >> 4) & 0x0f0f);
  return (fours & 0xff) + 81 * (fours >> 8);
}

/** Vector of the point with the least error among those with at most `limit` steps. */
// @ts-ignore: decorator
@inline function leastOf(list: usize, groups: usize, limit: i32): i32 {
  const most = i8x16.splat(<i8>limit);
  let leastError = f32.MAX_VALUE;
  let found = 0;
  for (let at: usize = 0; at < groups; at += 16) {
    let hits = i8x16.bitmask(i8x16.le_u(v128.load(rough + at), most));
    while (hits !== 0) {
      const point = list + 2 * at + <usize>ctz(hits);
      hits &= hits - 1;
      const first = <i32>load<u8>(point);
      const second = <i32>load<u8>(point, 16);
      const error = errorOf(first, second);
      if (error < leastError) {
        leastError = error;
        found = (second << 8) | first;
      }
    }
  }
  return vectorOf(found & 255, found >> 8);
}

/**
 * Vector of the point around others with the least error at a scale, the first of equal ones.
 *
 * Errors are first added up roughly, as bytes, in steps above the error of the best levels; only what comes
 * within the roundings of the least of these is summed as ggml does.
 *
 * @param entry of a vector that is no point
 * @param shift 0.125 or -0.125
 */
export function nearestVector(x: usize, weights: usize, scale: f32, shift: f32, entry: i32): i32 {
  const x0 = v128.load(x);
  const x1 = v128.load(x, 16);
  const w0 = v128.load(weights);
  const w1 = v128.load(weights, 16);
  let level = scale * (shift - 1);
  const a0 = errorsAt(x0, w0, level);
  const a1 = errorsAt(x1, w1, level);
  level = scale * shift;
  const b0 = errorsAt(x0, w0, level);
  const b1 = errorsAt(x1, w1, level);
  level = scale * (shift + 1);
  const c0 = errorsAt(x0, w0, level);
  const c1 = errorsAt(x1, w1, level);
  v128.store(errors, a0);
  v128.store(errors, a1, 16);
  v128.store(errors, b0, 32);
  v128.store(errors, b1, 48);
  v128.store(errors, c0, 64);
  v128.store(errors, c1, 80);
  const least0 = least(a0, b0, c0);
  const least1 = least(a1, b1, c1);
  const spread = laneSum(f32x4.sub(middle(a0, b0, c0), least0), f32x4.sub(middle(a1, b1, c1), least1));
  const by = STEPS / spread;
  const unit = f32x4.splat(by);
  const low = lowBytes(
    steps(a0, least0, unit),
    steps(a1, least1, unit),
    steps(b0, least0, unit),
    steps(b1, least1, unit),
  );
  const top0 = steps(c0, least0, unit);
  const top1 = steps(c1, least1, unit);
  const top = lowBytes(top0, top1, top0, top1);
  const list = listOf(entry);
  const groups: usize = 16 * <usize>groupsOf(entry);
  const smallest = addSteps(
    list,
    groups,
    pairSteps(low, top, 0),
    pairSteps(low, top, 1),
    pairSteps(low, top, 2),
    pairSteps(low, top, 3),
  );
  // Eight roundings to whole steps put a sum off by four at most; to that comes what two float32 sums can be
  // off by.
  const slack = laneSum(least0, least1) * by * <f32>2e-6 + 9;
  const limit = slack < 255 ? min(255, smallest + <i32>slack) : 255;
  return leastOf(list, groups, limit);
}
