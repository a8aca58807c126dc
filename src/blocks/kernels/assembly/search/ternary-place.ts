// Places groups of eight values on the ternary lattice of IQ1, with both shifts of the levels.
//
// In steps of the scale, with the shift taken off, a value v has the error w·(v − g)² at the level g; beside that of
// the best level these are 0 and two of w·(1 − 2v), w·(1 + 2v) and their difference. They become integers, 2^8 for the
// largest weight of the group, in a table for each pair of values. A candidate is four nibbles, one for each pair, that
// look its errors up; the candidates are the first points around the nearest digits in the lists of ggml's method.

import { products, roots as shares, sizes, weights } from "../lattice/block";
import { levelsOf } from "../lattice/ternary-fit";
import { vectorOf } from "../lattice/ternary-point";
import { entryOf, groupsOf, listOf, pointValues } from "../lattice/ternary-tables";
import { firstLeast, highHalf, join, lowHalf, sumOf, tables, tablesOfPairs } from "./lattice-place";

/** Candidates of a group, in lists of sixteen. */
const LISTS: i32 = 2;
/** Largest error of a value, so that no sum exceeds 16 bits. */
const CAP: f32 = 8191;
/** What is added to a float32 to leave its nearest integer in the low bits. */
const MAGIC: f32 = 8388608;
/** What marks a point as one whose levels are shifted down. */
const DOWN: i32 = 2048;

/** Sums of w·x·g and w·g² over the last sub-block that was placed. */
export let product: f32 = 0;
export let square: f32 = 0;

/** The same over the last unit, by lane, and its points, 16 bits each. */
let unitProduct: v128 = i32x4.splat(0);
let unitSquare: v128 = i32x4.splat(0);
let unitPoints: u64 = 0;

/** Errors of 32 candidates. */
const sums: usize = memory.data(2 * 32, 16);

/** Integers of errors, capped, in the low 16 bits of lanes. */
// @ts-ignore: decorator
@inline function integers(errors: v128): v128 {
  return f32x4.add(f32x4.pmin(f32x4.splat(CAP), errors), f32x4.splat(MAGIC));
}

/** Digits of four values, given doubled: those of the nearest levels. */
// @ts-ignore: decorator
@inline function digitsOf(double: v128): v128 {
  const one = f32x4.splat(1);
  const digit = i32x4.add(i32x4.splat(1), f32x4.lt(double, f32x4.neg(one)));
  return i32x4.sub(digit, f32x4.gt(double, one));
}

/** Vector of the digits of eight values, given doubled. */
// @ts-ignore: decorator
@inline function nearestVector(double0: v128, double1: v128): i32 {
  const digits = i16x8.narrow_i32x4_s(digitsOf(double0), digitsOf(double1));
  const terms = i32x4.dot_i16x8_s(digits, i16x8(1, 3, 9, 27, 81, 243, 729, 2187));
  const pairs = i32x4.add(terms, v128.shuffle<i32>(terms, terms, 2, 3, 0, 1));
  return i32x4.extract_lane(pairs, 0) + i32x4.extract_lane(pairs, 1);
}

/** Errors of sixteen candidates. */
// @ts-ignore: decorator
@inline function addErrors(list: usize, to: usize): void {
  const nibble = i8x16.splat(15);
  const first = v128.load(list);
  const second = v128.load(list, 16);
  let pair = v128.and(first, nibble);
  let low = i8x16.swizzle(v128.load(tables), pair);
  let high = i8x16.swizzle(v128.load(tables, 16), pair);
  let front = lowHalf(low, high);
  let back = highHalf(low, high);
  pair = i8x16.shr_u(first, 4);
  low = i8x16.swizzle(v128.load(tables, 32), pair);
  high = i8x16.swizzle(v128.load(tables, 48), pair);
  front = i16x8.add(front, lowHalf(low, high));
  back = i16x8.add(back, highHalf(low, high));
  pair = v128.and(second, nibble);
  low = i8x16.swizzle(v128.load(tables, 64), pair);
  high = i8x16.swizzle(v128.load(tables, 80), pair);
  front = i16x8.add(front, lowHalf(low, high));
  back = i16x8.add(back, highHalf(low, high));
  pair = i8x16.shr_u(second, 4);
  low = i8x16.swizzle(v128.load(tables, 96), pair);
  high = i8x16.swizzle(v128.load(tables, 112), pair);
  v128.store(to, i16x8.add(front, lowHalf(low, high)));
  v128.store(to, i16x8.add(back, highHalf(low, high)), 16);
}

/** Vector of the candidate around a vector with the least error, the first among equals. */
// @ts-ignore: decorator
@inline function bestAround(entry: i32): i32 {
  const list = listOf(entry);
  addErrors(list, sums);
  // A single list is taken twice.
  const other = list + 32 * <usize>min(LISTS - 1, groupsOf(entry) - 1);
  addErrors(other, sums + 32);
  const place = firstLeast(
    sums,
    i16x8.min_u(
      i16x8.min_u(v128.load(sums), v128.load(sums, 16)),
      i16x8.min_u(v128.load(sums, 32), v128.load(sums, 48)),
    ), true);
  const at = list + <usize>(place & 15) + 32 * <usize>(place >> 4);
  return vectorOf(load<u8>(at), load<u8>(at, 16));
}

/** The point of a group at a scale, whose inverse is given. */
// @ts-ignore: decorator
@inline function pointOf(at: usize, inverse: v128, shift: f32): i32 {
  const one = f32x4.splat(1);
  const none = i32x4.splat(0);
  const value0 = f32x4.sub(f32x4.mul(inverse, v128.load(sizes + at)), f32x4.splat(shift));
  const value1 = f32x4.sub(f32x4.mul(inverse, v128.load(sizes + at, 16)), f32x4.splat(shift));
  const double0 = f32x4.add(value0, value0);
  const double1 = f32x4.add(value1, value1);
  const entry = entryOf(nearestVector(double0, double1));
  if (entry >= 0) return entry;
  const share0 = v128.load(shares + at);
  const share1 = v128.load(shares + at, 16);
  const above0 = f32x4.mul(share0, f32x4.sub(one, double0));
  const above1 = f32x4.mul(share1, f32x4.sub(one, double1));
  const below0 = f32x4.mul(share0, f32x4.add(one, double0));
  const below1 = f32x4.mul(share1, f32x4.add(one, double1));
  const least0 = f32x4.pmin(none, f32x4.pmin(above0, below0));
  const least1 = f32x4.pmin(none, f32x4.pmin(above1, below1));
  tablesOfPairs(
    join(integers(f32x4.sub(below0, least0)), integers(f32x4.sub(below1, least1))),
    join(integers(f32x4.sub(none, least0)), integers(f32x4.sub(none, least1))),
    join(integers(f32x4.sub(above0, least0)), integers(f32x4.sub(above1, least1))),
  );
  return entryOf(bestAround(entry));
}

/** Places the groups of a unit, `bytes` of values from `at` on, their levels shifted alike. */
function placeUnit(at: usize, bytes: usize, inverse: f32, shift: f32): void {
  let productSum = i32x4.splat(0);
  let squareSum = i32x4.splat(0);
  let points: u64 = 0;
  const inverses = f32x4.splat(inverse);
  for (let group: usize = 0; group < bytes >> 5; group++) {
    const point = pointOf(at, inverses, shift);
    points |= <u64>point << (16 * group);
    const values = pointValues(point);
    for (let half: usize = 0; half < 8; half += 4) {
      const levels = levelsOf(values + half, shift, 1);
      productSum = f32x4.add(productSum, f32x4.mul(v128.load(products + at), levels));
      squareSum = f32x4.add(squareSum, f32x4.mul(f32x4.mul(v128.load(weights + at), levels), levels));
      at += 16;
    }
  }
  unitProduct = productSum;
  unitSquare = squareSum;
  unitPoints = points;
}

/** Error of the last unit at its scale, beside what is the same for both shifts. */
// @ts-ignore: decorator
@inline function errorAt(scale: v128): f32 {
  const double = f32x4.add(unitProduct, unitProduct);
  return sumOf(f32x4.mul(scale, f32x4.sub(f32x4.mul(scale, unitSquare), double)));
}

/**
 * Places all groups of a sub-block at a scale with the better shift of each unit; `product` and `square` are then
 * theirs.
 *
 * @param at first value, in bytes
 * @param size values of the sub-block
 * @param points where the indices of the groups' points (u16) go, marked by `DOWN` where levels are shifted down
 * @param unit values with a shift in common: all, or eight
 */
// @ts-ignore: decorator
@inline export function placeTernary(at: usize, size: usize, scale: f32, points: usize, unit: usize): void {
  const inverse: f32 = 1 / scale;
  const scales = f32x4.splat(scale);
  let productSum = i32x4.splat(0);
  let squareSum = i32x4.splat(0);
  for (let from = at; from < at + 4 * size; from += 4 * unit) {
    placeUnit(from, 4 * unit, inverse, 0.125);
    const upProduct = unitProduct;
    const upSquare = unitSquare;
    const up = unitPoints;
    const upError = errorAt(scales);
    placeUnit(from, 4 * unit, inverse, -0.125);
    const isDown = errorAt(scales) < upError;
    const down = i32x4.splat(-<i32>isDown);
    productSum = f32x4.add(productSum, v128.bitselect(unitProduct, upProduct, down));
    squareSum = f32x4.add(squareSum, v128.bitselect(unitSquare, upSquare, down));
    const found = isDown ? unitPoints | (0x0001000100010001 * <u64>DOWN) : up;
    if (unit === 8) store<u16>(points, <u16>found);
    else store<u64>(points, found);
    points += unit >> 2;
  }
  product = sumOf(productSum);
  square = sumOf(squareSum);
}
