// The point with the least weighted error for a group of values, among those around the values.
//
// In steps of the scale an element r has the error w·(g − r)² at the element g of a point. Beyond the levels, where
// r' is the nearest of them, w·(r' − g)·(r' − g + 2·(r − r')) differs from that by a constant. These errors become
// integers, 2^8 for the largest weight of the group, in a table for each of four slots: elements of groups of four,
// pairs of elements of groups of eight. A candidate is four bytes, one for each slot, that look its errors up.

import { digitsOf, products, roots as shares, sizes, weights } from "../lattice/block";
import { candidatesOf, CANDIDATES, pointOf } from "./lattice-tables";

/** Codes of the groups of a sub-block: digits of the nearest levels. */
const codes: usize = memory.data(4 * 8, 16);
/** Largest error of an element, so that no sum exceeds 16 bits. */
const CAP_OF_FOUR: f32 = 16383;
const CAP_OF_EIGHT: f32 = 8191;
/** What is added to a float32 to leave its nearest integer in the low bits. */
const MAGIC: f32 = 8388608;
/** Magnitudes are cut off here, in steps, to find codes. */
const FAR: f32 = 64;

/** Sums of w·|x|·g and w·g² over the last sub-block that was placed. */
export let product: f32 = 0;
export let square: f32 = 0;

/** What a level of the decoder is in steps of the scale, and the last step. */
let unit: f32 = 1;
let top: f32 = 15;
export function setSteps(target: i32): void {
  const eight = target !== 18 && target !== 21;
  unit = eight ? 0.125 : target === 18 ? 0.25 : 1;
  top = eight ? 5.375 : target === 18 ? 15.5 : 15;
}

/** Codes of two groups of four, or of one of eight in the first lane. */
// @ts-ignore: decorator
@inline function codesAt(at: usize, inverse: v128, eight: bool): v128 {
  const far = f32x4.splat(FAR);
  const last = eight ? 2 : 7;
  const a = digitsOf(f32x4.pmin(f32x4.mul(inverse, v128.load(sizes + at)), far), last);
  const b = digitsOf(f32x4.pmin(f32x4.mul(inverse, v128.load(sizes + at, 16)), far), last);
  const digits = i16x8.narrow_i32x4_s(a, b);
  if (eight) {
    let sum = i32x4.dot_i16x8_s(digits, i16x8(1, 3, 9, 27, 81, 243, 729, 2187));
    sum = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 1, 0, 3, 2));
    return i32x4.add(sum, v128.shuffle<i32>(sum, sum, 2, 3, 0, 1));
  }
  const sum = i32x4.dot_i16x8_s(digits, i16x8(1, 8, 64, 512, 1, 8, 64, 512));
  const both = i32x4.add(sum, v128.shuffle<i32>(sum, sum, 1, 0, 3, 2));
  return v128.shuffle<i32>(both, both, 0, 2, 0, 2);
}

/** Errors of four elements, or of one on four levels, in the low 16 bits. */
// @ts-ignore: decorator
@inline function errors(share: v128, near: v128, over: v128, level: v128, cap: f32): v128 {
  const off = f32x4.sub(near, level);
  const error = f32x4.mul(f32x4.mul(share, off), f32x4.add(off, over));
  return f32x4.add(f32x4.pmin(f32x4.splat(cap), error), f32x4.splat(MAGIC));
}

/** The low 16 bits of two vectors. */
// @ts-ignore: decorator
@inline export function join(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

// @ts-ignore: decorator
@inline function lowBytes(a: v128, b: v128): v128 {
  return v128.shuffle<i8>(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

// @ts-ignore: decorator
@inline function highBytes(a: v128, b: v128): v128 {
  return v128.shuffle<i8>(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/** Tables of the slots: low bytes and high bytes. */
export const tables: usize = memory.data(32 * 4, 16);

// @ts-ignore: decorator
@inline function putTable(slot: usize, a: v128, b: v128): void {
  v128.store(tables + 32 * slot, lowBytes(a, b));
  v128.store(tables + 32 * slot, highBytes(a, b), 16);
}

/** The errors of one element on eight levels. */
// @ts-ignore: decorator
@inline function tableOfElement(k: usize, at: usize, near: v128, over: v128): void {
  const share = v128.load32_splat(shares + at + 4 * k);
  const low = errors(share, near, over, f32x4(1, 3, 5, 7), CAP_OF_FOUR);
  const high = errors(share, near, over, f32x4.replace_lane(f32x4(9, 11, 13, 15), 3, top), CAP_OF_FOUR);
  const both = join(low, high);
  putTable(k, both, both);
}

// @ts-ignore: decorator
@inline function tablesOfFour(at: usize, inverse: v128): void {
  const size = f32x4.mul(inverse, v128.load(sizes + at));
  const near = f32x4.pmax(f32x4.splat(1), f32x4.pmin(f32x4.splat(top), size));
  const half = f32x4.sub(size, near);
  const over = f32x4.add(half, half);
  tableOfElement(0, at, v128.shuffle<i32>(near, near, 0, 0, 0, 0), v128.shuffle<i32>(over, over, 0, 0, 0, 0));
  tableOfElement(1, at, v128.shuffle<i32>(near, near, 1, 1, 1, 1), v128.shuffle<i32>(over, over, 1, 1, 1, 1));
  tableOfElement(2, at, v128.shuffle<i32>(near, near, 2, 2, 2, 2), v128.shuffle<i32>(over, over, 2, 2, 2, 2));
  tableOfElement(3, at, v128.shuffle<i32>(near, near, 3, 3, 3, 3), v128.shuffle<i32>(over, over, 3, 3, 3, 3));
}

/** Errors of all elements of a group of eight on one level. */
// @ts-ignore: decorator
@inline function errorsOfEight(at: usize, nearA: v128, overA: v128, nearB: v128, overB: v128, level: f32): v128 {
  const a = errors(v128.load(shares + at), nearA, overA, f32x4.splat(level), CAP_OF_EIGHT);
  const b = errors(v128.load(shares + at, 16), nearB, overB, f32x4.splat(level), CAP_OF_EIGHT);
  return join(a, b);
}

/** The errors of a pair of elements on three levels each; those of the first vary first, in rows of four. */
// @ts-ignore: decorator
@inline function tableOfPair(slot: usize, pair: v128): void {
  const first = v128.shuffle<i64>(pair, pair, 0, 0);
  const low = i16x8.add(first, v128.shuffle<i16>(pair, pair, 4, 4, 4, 4, 5, 5, 5, 5));
  const high = i16x8.add(first, v128.shuffle<i16>(pair, pair, 6, 6, 6, 6, 6, 6, 6, 6));
  putTable(slot, low, high);
}

/** Makes the tables of pairs, given the errors of eight elements on each of three levels. */
// @ts-ignore: decorator
@inline export function tablesOfPairs(a: v128, b: v128, c: v128): void {
  let front = v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  let back = v128.shuffle<i16>(c, c, 0, 0, 1, 1, 2, 2, 3, 3);
  tableOfPair(0, v128.shuffle<i32>(front, back, 0, 4, 1, 5));
  tableOfPair(1, v128.shuffle<i32>(front, back, 2, 6, 3, 7));
  front = v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  back = v128.shuffle<i16>(c, c, 4, 4, 5, 5, 6, 6, 7, 7);
  tableOfPair(2, v128.shuffle<i32>(front, back, 0, 4, 1, 5));
  tableOfPair(3, v128.shuffle<i32>(front, back, 2, 6, 3, 7));
}

// @ts-ignore: decorator
@inline function tablesOfEight(at: usize, inverse: v128): void {
  const one = f32x4.splat(1);
  const last = f32x4.splat(top);
  const sizeA = f32x4.mul(inverse, v128.load(sizes + at));
  const sizeB = f32x4.mul(inverse, v128.load(sizes + at, 16));
  const nearA = f32x4.pmax(one, f32x4.pmin(last, sizeA));
  const nearB = f32x4.pmax(one, f32x4.pmin(last, sizeB));
  let overA = f32x4.sub(sizeA, nearA);
  let overB = f32x4.sub(sizeB, nearB);
  overA = f32x4.add(overA, overA);
  overB = f32x4.add(overB, overB);
  const a = errorsOfEight(at, nearA, overA, nearB, overB, 1);
  const b = errorsOfEight(at, nearA, overA, nearB, overB, 3.125);
  const c = errorsOfEight(at, nearA, overA, nearB, overB, 5.375);
  tablesOfPairs(a, b, c);
}

// @ts-ignore: decorator
@inline export function lowHalf(a: v128, b: v128): v128 {
  return v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// @ts-ignore: decorator
@inline export function highHalf(a: v128, b: v128): v128 {
  return v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/** Errors of the candidates. */
const sums: usize = memory.data(2 * 32, 16);

/** The place in a list of candidates, or its first half, of the one with the least error, the first among equals. */
// @ts-ignore: decorator
@inline function bestOf(list: usize, all: bool): i32 {
  const low0 = v128.load(tables);
  const high0 = v128.load(tables, 16);
  const low1 = v128.load(tables, 32);
  const high1 = v128.load(tables, 48);
  const low2 = v128.load(tables, 64);
  const high2 = v128.load(tables, 80);
  const low3 = v128.load(tables, 96);
  const high3 = v128.load(tables, 112);
  let least = i16x8.splat(-1);
  for (let to = sums; to < sums + (all ? 2 * CANDIDATES : CANDIDATES); to += 32) {
    let slot = v128.load(list);
    let low = i8x16.swizzle(low0, slot);
    let high = i8x16.swizzle(high0, slot);
    let front = lowHalf(low, high);
    let back = highHalf(low, high);
    slot = v128.load(list, 16);
    low = i8x16.swizzle(low1, slot);
    high = i8x16.swizzle(high1, slot);
    front = i16x8.add(front, lowHalf(low, high));
    back = i16x8.add(back, highHalf(low, high));
    slot = v128.load(list, 32);
    low = i8x16.swizzle(low2, slot);
    high = i8x16.swizzle(high2, slot);
    front = i16x8.add(front, lowHalf(low, high));
    back = i16x8.add(back, highHalf(low, high));
    slot = v128.load(list, 48);
    low = i8x16.swizzle(low3, slot);
    high = i8x16.swizzle(high3, slot);
    front = i16x8.add(front, lowHalf(low, high));
    back = i16x8.add(back, highHalf(low, high));
    list += 64;
    v128.store(to, front);
    v128.store(to, back, 16);
    least = i16x8.min_u(least, i16x8.min_u(front, back));
  }
  return firstLeast(sums, least, all);
}

/** The place of the least of 32 sums, or without `all` of 16, the first among equals, given the least of each lane. */
// @ts-ignore: decorator
@inline export function firstLeast(sums: usize, lanes: v128, all: bool): i32 {
  let least = i16x8.min_u(lanes, v128.shuffle<i16>(lanes, lanes, 4, 5, 6, 7, 0, 1, 2, 3));
  least = i16x8.min_u(least, v128.shuffle<i16>(least, least, 2, 3, 0, 1, 6, 7, 4, 5));
  least = i16x8.min_u(least, v128.shuffle<i16>(least, least, 1, 0, 3, 2, 5, 4, 7, 6));
  const front = placesOf(sums, least);
  return <i32>ctz(all ? front | (placesOf(sums + 32, least) << 16) : front);
}

/** Which of 16 sums are the least, as bits. */
// @ts-ignore: decorator
@inline function placesOf(at: usize, least: v128): i32 {
  const front = i16x8.eq(v128.load(at), least);
  return i8x16.bitmask(i8x16.narrow_i16x8_s(front, i16x8.eq(v128.load(at, 16), least)));
}

/** Elements of a point in steps, four from element `from` on. */
// @ts-ignore: decorator
@inline function stepsAt(levels: usize): v128 {
  const wide = i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(levels)));
  return f32x4.mul(f32x4.convert_i32x4_s(wide), f32x4.splat(unit));
}

/**
 * Places all groups of a sub-block at a scale; `product` and `square` are then theirs.
 *
 * @param at first value, in bytes
 * @param points where the indices of the groups' points (u16) go
 * @param all whether all candidates count, or the nearest half
 */
// @ts-ignore: decorator
@inline export function placeAll(levels: usize, at: usize, size: usize, scale: f32, points: usize, eight: bool, all: bool): void {
  const inverse = f32x4.splat(1 / scale);
  let productSum = i32x4.splat(0);
  let squareSum = i32x4.splat(0);
  for (let j: usize = 0; j < 4 * size; j += 32) {
    const both = codesAt(at + j, inverse, eight);
    if (eight) v128.store32_lane(codes + (j >> 3), both, 0);
    else v128.store64_lane(codes + (j >> 2), both, 0);
  }
  const groups = eight ? size >> 3 : size >> 2;
  for (let group: usize = 0; group < groups; group++) {
    const code = load<i32>(codes + 4 * group);
    if (eight) tablesOfEight(at, inverse);
    else tablesOfFour(at, inverse);
    const point = pointOf(code, bestOf(candidatesOf(code), all));
    store<u16>(points + 2 * group, point);
    const own = levels + <usize>point * (eight ? 8 : 4);
    for (let half: usize = 0; half < <usize>(eight ? 8 : 4); half += 4) {
      const steps = stepsAt(own + half);
      productSum = f32x4.add(productSum, f32x4.mul(v128.load(products + at), steps));
      squareSum = f32x4.add(squareSum, f32x4.mul(f32x4.mul(v128.load(weights + at), steps), steps));
      at += 16;
    }
  }
  product = sumOf(productSum);
  square = sumOf(squareSum);
}

/** Sum of four lanes: the first and third, and the second and fourth. */
// @ts-ignore: decorator
@inline export function sumOf(v: v128): f32 {
  const pairs = f32x4.add(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}
