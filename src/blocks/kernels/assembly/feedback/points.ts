// Groups of eight values whose levels are points of a lattice: see `src/blocks/feedback/points.ts`.

import { inverse } from "./levels";
import { LEVEL_TABLE, settings } from "./state";

const MOST_POINTS: usize = 2048;

/**
 * What the caller fills: for each point where its halves are in the tables of sums, 16 bits each; the numbers of its
 * levels, a byte each; and the inverses of the metrics of every eight columns.
 */
export const tables: usize = memory.data(4 * 2048 + 8 * 2048 + 4 * 8 * 256, 16);
const DIGITS: usize = 4 * MOST_POINTS;
export const SOLVERS: usize = DIGITS + 8 * MOST_POINTS;

/** How signs are stored. */
const BESIDE = 1;
const EVEN = 2;

export let pointWidth: usize = 0;
let base: usize = 0;
let signs: i32 = 0;
let shift: f32 = 0;
let shared: bool = false;
let count: i32 = 0;

/** Takes up what `FeedbackKernels` says of a lattice. */
export function setPoints(): void {
  pointWidth = <usize>load<f32>(settings + 4 * 22);
  base = <usize>load<f32>(settings + 4 * 23);
  signs = <i32>load<f32>(settings + 4 * 24);
  shift = load<f32>(settings + 4 * 25);
  shared = load<f32>(settings + 4 * 26) != 0;
  count = <i32>load<f32>(settings + 4 * 27);
}

/** Levels of eight values. */
export const placed: usize = memory.data(8 * 16, 16);
const other: usize = memory.data(8 * 16, 16);

const units: usize = memory.data(8 * 16, 16);
const minus: usize = memory.data(8 * 16, 16);

/** Errors of each element on each level, and their sums over two elements and over half a point. */
const errors: usize = memory.data(8 * 8 * 16, 16);
const pairs: usize = memory.data(2 * 64 * 16, 16);
const sums: usize = memory.data(2 * 81 * 16, 16);

/** Sums of each number of `a` with each of `b`, those of `a` first. */
// @ts-ignore: decorator
@inline function cross(a: usize, b: usize, length: usize, to: usize): void {
  for (let n: usize = 0; n < length; n++) {
    const own = v128.load(b + 16 * n);
    for (let at = a; at < a + 16 * length; at += 16) {
      v128.store(to, f32x4.add(v128.load(at), own));
      to += 16;
    }
  }
}

/** Makes the sums of both halves of a point; each half has `halfBytes` of them. */
// @ts-ignore: decorator
@inline function sumHalves(halfBytes: usize): void {
  const each = 128;
  if (pointWidth == 4) {
    cross(errors, errors + each, base, sums);
    cross(errors + 2 * each, errors + 3 * each, base, sums + halfBytes);
    return;
  }
  const length = base * base;
  for (let half: usize = 0; half < 2; half++) {
    const from = errors + 4 * each * half;
    cross(from, from + each, base, pairs);
    cross(from + 2 * each, from + 3 * each, base, pairs + 64 * 16);
    cross(pairs, pairs + 64 * 16, length, sums + halfBytes * half);
  }
}

/** The first best point for values in levels; its levels go to `found`, and its error is returned. */
function placePoint(x: usize, weights: usize, shifted: v128, found: usize): v128 {
  for (let k: usize = 0; k < pointWidth; k++) {
    const value = v128.load(x + 16 * k);
    const weight = v128.load32_splat(weights + 4 * k);
    for (let digit: usize = 0; digit < base; digit++) {
      const level = f32x4.add(v128.load32_splat(settings + LEVEL_TABLE + 4 * digit), shifted);
      const off = f32x4.sub(value, level);
      v128.store(errors + 128 * k + 16 * digit, f32x4.mul(f32x4.mul(weight, off), off));
    }
  }
  const halfBytes: usize = 16 * (pointWidth == 4 ? base * base : base * base * base * base);
  sumHalves(halfBytes);
  const high = sums + halfBytes;
  let least = f32x4.splat(Infinity);
  let best = i32x4.splat(0);
  for (let p = 0; p < count; p++) {
    const at = load<u32>(tables + 4 * <usize>p);
    const error = f32x4.add(v128.load(sums + (at & 0xffff)), v128.load(high + (at >> 16)));
    best = v128.bitselect(i32x4.splat(p), best, f32x4.lt(error, least));
    least = f32x4.pmin(least, error);
  }
  put(0, i32x4.extract_lane(best, 0), found);
  put(1, i32x4.extract_lane(best, 1), found);
  put(2, i32x4.extract_lane(best, 2), found);
  put(3, i32x4.extract_lane(best, 3), found);
  for (let k: usize = 0; k < pointWidth; k++) {
    v128.store(found + 16 * k, f32x4.add(v128.load(found + 16 * k), shifted));
  }
  return least;
}

/** Stores the levels of a point in a lane. */
// @ts-ignore: decorator
@inline function put(lane: usize, point: i32, to: usize): void {
  const digits = tables + DIGITS + <usize>point * pointWidth;
  for (let k: usize = 0; k < pointWidth; k++) {
    const digit = <usize>load<u8>(digits + k);
    store<f32>(to + 16 * k + 4 * lane, load<f32>(settings + LEVEL_TABLE + 4 * digit));
  }
}

/** Turns the sign around that costs the least on the lowest level, in lanes with an odd number of minuses. */
// @ts-ignore: decorator
@inline function evenOut(weights: usize): void {
  let odd = i32x4.splat(0);
  for (let at: usize = 0; at < 128; at += 16) odd = v128.xor(odd, v128.load(minus + at));
  if (!v128.any_true(odd)) return;
  const lowest = v128.load32_splat(settings + LEVEL_TABLE);
  let least = f32x4.splat(Infinity);
  let turned = i32x4.splat(0);
  for (let k: usize = 0; k < 8; k++) {
    const size = v128.load(units + 16 * k);
    const wrong = f32x4.add(size, lowest);
    const right = f32x4.sub(size, lowest);
    const beside = v128.and(f32x4.mul(right, right), f32x4.lt(size, lowest));
    const weight = v128.load32_splat(weights + 4 * k);
    const loss = f32x4.mul(weight, f32x4.sub(f32x4.mul(wrong, wrong), beside));
    const less = f32x4.lt(loss, least);
    least = v128.bitselect(loss, least, less);
    turned = v128.bitselect(i32x4.splat(<i32>k), turned, less);
  }
  for (let k: usize = 0; k < 8; k++) {
    const own = v128.and(odd, i32x4.eq(turned, i32x4.splat(<i32>k)));
    const size = v128.load(units + 16 * k);
    v128.store(units + 16 * k, v128.bitselect(f32x4.neg(size), size, own));
    v128.store(minus + 16 * k, v128.xor(v128.load(minus + 16 * k), own));
  }
}

/**
 * Finds levels for eight values of the group in work; they go to `placed`.
 *
 * @param weights eight numbers
 * @param shiftCode which way the levels of the group are shifted, where groups have a shift
 */
export function placeEight(values: usize, weights: usize, shiftCode: v128): void {
  for (let at: usize = 0; at < 128; at += 16) {
    v128.store(units + at, f32x4.mul(v128.load(values + at), inverse));
  }
  if (signs < BESIDE) {
    if (shared) {
      placePoint(units, weights, f32x4.mul(f32x4.splat(shift), shiftCode), placed);
      return;
    }
    const up = placePoint(units, weights, f32x4.splat(shift), placed);
    const down = placePoint(units, weights, f32x4.splat(-shift), other);
    const less = f32x4.lt(down, up);
    for (let at: usize = 0; at < 128; at += 16) {
      v128.store(placed + at, v128.bitselect(v128.load(other + at), v128.load(placed + at), less));
    }
    return;
  }
  for (let at: usize = 0; at < 128; at += 16) {
    const x = v128.load(units + at);
    v128.store(minus + at, f32x4.lt(x, i32x4.splat(0)));
    v128.store(units + at, f32x4.abs(x));
  }
  if (signs == EVEN) evenOut(weights);
  for (let k: usize = 0; k < 8; k += pointWidth) {
    placePoint(units + 16 * k, weights + 4 * k, i32x4.splat(0), placed + 16 * k);
  }
  for (let at: usize = 0; at < 128; at += 16) {
    const level = v128.load(placed + at);
    v128.store(placed + at, v128.bitselect(f32x4.neg(level), level, v128.load(minus + at)));
  }
}
