// Q6_K: 16 sub-blocks of 16 values; a searched scale for each, in 8-bit steps of one half for all 256.
//
// Lanes are sub-blocks: each lane of a vector belongs to one of four sub-blocks, and the values are walked in
// order. So every sum of a sub-block is taken in the order of ggml's scalar code and has the same bits.

import { halfOf, isInfinite } from "./half";
import { firstFrom, floats, infinity, larger, largest, magnitudes } from "./number";
import { NON_FINITE, OVERFLOW, stop } from "./problem";

const VALUES: i32 = 256;
const BYTES: usize = 210;

/** Magnitudes below this count as zero. */
const NEGLIGIBLE: f32 = 1e-15;

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const MAGIC: f32 = 12582912;

/** The block as float32. */
const block: usize = memory.data(4 * 256, 16);
/** For four sub-blocks, transposed: value j of each, its square and its cube, 16 vectors of each. */
const turned: usize = memory.data(3 * 16 * 16, 16);
const SQUARES: usize = 16 * 16;
const CUBES: usize = 2 * 16 * 16;
/** The scale of each sub-block, and the inverse scale that the search ended at (0: all levels are zero). */
const scales: usize = memory.data(4 * 16, 16);
const inverses: usize = memory.data(4 * 16, 16);
/** Levels of the block, 0…63. */
const levels: usize = memory.data(256, 16);

/** Stores four values of each of four sub-blocks with their powers, lanes by sub-block. */
// @ts-ignore: decorator
@inline function turn4(from: usize, to: usize): void {
  const a = v128.load(from);
  const b = v128.load(from, 64);
  const c = v128.load(from, 128);
  const d = v128.load(from, 192);
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  powers(to, v128.shuffle<i64>(ab, cd, 0, 2));
  powers(to + 16, v128.shuffle<i64>(ab, cd, 1, 3));
  powers(to + 32, v128.shuffle<i64>(ab2, cd2, 0, 2));
  powers(to + 48, v128.shuffle<i64>(ab2, cd2, 1, 3));
}

// @ts-ignore: decorator
@inline function powers(to: usize, x: v128): void {
  const square = f32x4.mul(x, x);
  v128.store(to, x);
  v128.store(to, square, SQUARES);
  v128.store(to, f32x4.mul(square, x), CUBES);
}

/** Level sums of two trials: Σ x³·level and Σ x²·level² of the first, then of the second. */
const sums: usize = memory.data(4 * 16, 16);

/** Where the search stands: the scale, the inverse scale that led to it, and scale · Σ x³·level. */
let bestScale: v128 = i32x4.splat(0);
let bestInverse: v128 = i32x4.splat(0);
let best: v128 = i32x4.splat(0);

/** Levels of one value of four sub-blocks; see `search` for the clamps. */
// @ts-ignore: decorator
@inline function levelsFor(x: v128, inverse: v128, upper: bool, lower: bool): v128 {
  let level = f32x4.nearest(f32x4.mul(x, inverse));
  if (upper) level = f32x4.pmin(level, f32x4.splat(31));
  if (lower) level = f32x4.pmax(level, f32x4.splat(-32));
  return level;
}

/**
 * The sums of two trials. Two at a time keep the adders busy: within one trial every addition waits for the one
 * before it.
 */
// @ts-ignore: decorator
@inline function sum(a: v128, b: v128, upper: bool, lower: bool): void {
  let productA = i32x4.splat(0);
  let squareA = i32x4.splat(0);
  let productB = i32x4.splat(0);
  let squareB = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * 16; at += 32) {
    let x = v128.load(at);
    let square = v128.load(at, SQUARES);
    let cube = v128.load(at, CUBES);
    let levelA = levelsFor(x, a, upper, lower);
    let levelB = levelsFor(x, b, upper, lower);
    productA = f32x4.add(productA, f32x4.mul(cube, levelA));
    productB = f32x4.add(productB, f32x4.mul(cube, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(f32x4.mul(square, levelA), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(f32x4.mul(square, levelB), levelB));
    x = v128.load(at, 16);
    square = v128.load(at, SQUARES + 16);
    cube = v128.load(at, CUBES + 16);
    levelA = levelsFor(x, a, upper, lower);
    levelB = levelsFor(x, b, upper, lower);
    productA = f32x4.add(productA, f32x4.mul(cube, levelA));
    productB = f32x4.add(productB, f32x4.mul(cube, levelB));
    squareA = f32x4.add(squareA, f32x4.mul(f32x4.mul(square, levelA), levelA));
    squareB = f32x4.add(squareB, f32x4.mul(f32x4.mul(square, levelB), levelB));
  }
  v128.store(sums, productA);
  v128.store(sums, squareA, 16);
  v128.store(sums, productB, 32);
  v128.store(sums, squareB, 48);
}

/** Takes a trial over where it is better than what the search has. */
function settle(inverse: v128, product: v128, square: v128): void {
  const scale = f32x4.div(product, square);
  const better = v128.and(
    f32x4.gt(square, i32x4.splat(0)),
    f32x4.gt(f32x4.mul(product, product), f32x4.mul(best, square)),
  );
  bestScale = v128.bitselect(scale, bestScale, better);
  bestInverse = v128.bitselect(inverse, bestInverse, better);
  best = v128.bitselect(f32x4.mul(scale, product), best, better);
}

/** Trial `t` of 18: the inverse scale that puts the extreme value on level -(32 + step/10), in float32 like ggml. */
// @ts-ignore: decorator
@inline function trial(t: i32, extreme: v128): v128 {
  const step = t < 9 ? t - 9 : t - 8;
  return f32x4.div(f32x4.splat(-(<f32>32 + <f32>0.1 * <f32>step)), extreme);
}

// @ts-ignore: decorator
@inline function attempt(from: i32, to: i32, extreme: v128, upper: bool, lower: bool): void {
  for (let t = from; t < to; t += 2) {
    const a = trial(t, extreme);
    const b = trial(t + 1, extreme);
    sum(a, b, upper, lower);
    settle(a, v128.load(sums), v128.load(sums, 16));
    settle(b, v128.load(sums, 32), v128.load(sums, 48));
  }
}

/**
 * Tries 19 inverse scales for four sub-blocks. `upper` says whether a value can reach a level above 31.
 *
 * Most clamps of levels cannot matter and are not made. The extreme value itself falls below level -32 only from
 * 32.5 on, in the last trials; a value of the other sign passes 31 only from 31.5 on, so never in the first
 * four, and in no trial unless it is nearly as large as the extreme value.
 */
// @ts-ignore: decorator
@inline function search(extreme: v128, upper: bool): void {
  const start = f32x4.div(f32x4.splat(-32), extreme);
  sum(start, start, upper, false);
  const product = v128.load(sums);
  const square = v128.load(sums, 16);
  bestScale = v128.andnot(f32x4.div(product, square), f32x4.eq(square, i32x4.splat(0)));
  bestInverse = start;
  best = f32x4.mul(bestScale, product);
  attempt(0, 4, extreme, false, false);
  attempt(4, 12, extreme, upper, false);
  attempt(12, 18, extreme, upper, true);
}

/** Finds the scales of sub-blocks `s` to `s + 3`. */
function searchFour(s: usize): void {
  const from = block + 64 * s;
  for (let j: usize = 0; j < 4; j++) turn4(from + 16 * j, turned + 64 * j);
  // The first value of largest magnitude, and the largest magnitude on the other side of zero.
  let extreme = i32x4.splat(0);
  let size = i32x4.splat(0);
  let high = i32x4.splat(0);
  let low = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * 16; at += 16) {
    const x = v128.load(at);
    const magnitude = f32x4.abs(x);
    const more = f32x4.gt(magnitude, size);
    extreme = v128.bitselect(x, extreme, more);
    size = f32x4.pmax(size, magnitude);
    high = f32x4.pmax(high, x);
    low = f32x4.pmin(low, x);
  }
  const nothing = f32x4.lt(size, f32x4.splat(NEGLIGIBLE));
  extreme = v128.bitselect(f32x4.splat(1), extreme, nothing);
  const other = f32x4.pmin(high, f32x4.neg(low));
  // 0.957 is a little less than 31.5 / 32.9.
  if (v128.any_true(f32x4.gt(other, f32x4.mul(size, f32x4.splat(0.957))))) search(extreme, true);
  else search(extreme, false);
  v128.store(scales + 4 * s, v128.andnot(bestScale, nothing));
  v128.store(inverses + 4 * s, v128.andnot(bestInverse, nothing));
}

/** Nearest integers of four numbers plus 32, at least 0 and at most 63. */
// @ts-ignore: decorator
@inline function stored(values: v128): v128 {
  const bits = v128.and(f32x4.add(values, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  const level = i32x4.sub(bits, i32x4.splat(0x400000 - 32));
  return i32x4.max_s(i32x4.min_s(level, i32x4.splat(63)), i32x4.splat(0));
}

/** Stores the levels of a sub-block: its values divided by `d`, or as the search left them where d is 0. */
// @ts-ignore: decorator
@inline function assign(s: usize, d: f32): void {
  const from = block + 64 * s;
  let a: v128, b: v128, c: v128, e: v128;
  if (d != 0) {
    const by = f32x4.splat(d);
    a = stored(f32x4.div(v128.load(from), by));
    b = stored(f32x4.div(v128.load(from, 16), by));
    c = stored(f32x4.div(v128.load(from, 32), by));
    e = stored(f32x4.div(v128.load(from, 48), by));
  } else {
    const inverse = load<f32>(inverses + 4 * s);
    if (inverse == 0) {
      v128.store(levels + 16 * s, i32x4.splat(0));
      return;
    }
    const by = f32x4.splat(inverse);
    a = stored(f32x4.mul(v128.load(from), by));
    b = stored(f32x4.mul(v128.load(from, 16), by));
    c = stored(f32x4.mul(v128.load(from, 32), by));
    e = stored(f32x4.mul(v128.load(from, 48), by));
  }
  const packed = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, e));
  v128.store(levels + 16 * s, packed);
}

// @ts-ignore: decorator
@inline function lowBits(at: usize): v128 {
  return v128.and(v128.load(levels + at), i8x16.splat(15));
}

// @ts-ignore: decorator
@inline function highBits(at: usize): v128 {
  return i8x16.shr_u(v128.load(levels + at), 4);
}

/** Packs the levels: low nibbles in pairs 64 values apart, then the high two bits of values 32 apart. */
// @ts-ignore: decorator
@inline function pack(output: usize): void {
  for (let h: usize = 0; h < 2; h++) {
    for (let l: usize = 0; l < 32; l += 16) {
      const at: usize = 128 * h + l;
      const ql = output + 64 * h + l;
      v128.store(ql, v128.or(lowBits(at), i8x16.shl(lowBits(at + 64), 4)));
      v128.store(ql, v128.or(lowBits(at + 32), i8x16.shl(lowBits(at + 96), 4)), 32);
      const first = v128.or(highBits(at), i8x16.shl(highBits(at + 32), 2));
      const second = v128.or(i8x16.shl(highBits(at + 64), 4), i8x16.shl(highBits(at + 96), 6));
      v128.store(output + 128 + 32 * h + l, v128.or(first, second));
    }
  }
}

/** Reads a block as float32; returns the bits of its largest magnitude in the source type. */
// @ts-ignore: decorator
@inline function read<S>(input: usize): i32 {
  let most = i32x4.splat(0);
  for (let i: usize = 0; i < 256 * sizeof<S>(); i += 16) most = larger<S>(most, magnitudes<S>(input + i));
  for (let i: usize = 0; i < 256; i += 4) v128.store(block + 4 * i, floats<S>(input + i * sizeof<S>()));
  return largest<S>(most);
}

function halfToFloat(half: i32): f32 {
  const magnitude = half & 0x7fff;
  const value: f32 =
    magnitude < 0x400
      ? <f32>magnitude * <f32>(1.0 / 16777216.0)
      : reinterpret<f32>((magnitude << 13) + (112 << 23));
  return half == magnitude ? value : -value;
}

/** Nearest integer, ties to even, of a number within 2^22. */
// @ts-ignore: decorator
@inline function nearestInteger(value: f32): i32 {
  return (reinterpret<i32>(value + MAGIC) & 0x7fffff) - 0x400000;
}

export function q6_k<S>(input: usize, output: usize, values: i32): i32 {
  for (let i = 0; i < values; i += VALUES) {
    const most = read<S>(input);
    if (most >= infinity<S>()) return stop(NON_FINITE, i + firstFrom<S>(input, VALUES, infinity<S>()));
    for (let s: usize = 0; s < 16; s += 4) searchFour(s);
    let extreme: f32 = 0;
    let lost = false;
    for (let s: usize = 0; s < 16; s++) {
      const scale = load<f32>(scales + 4 * s);
      if (abs(scale) > abs(extreme)) extreme = scale;
      // Where the sums of squares overflow, the scale is NaN, and ggml would store zeros.
      lost = lost || scale != scale;
    }
    if (abs(extreme) < NEGLIGIBLE && !lost) {
      memory.fill(output, 0, BYTES);
    } else {
      const inverse: f32 = -128 / extreme;
      const half = halfOf(1 / inverse);
      if (lost || isInfinite(half)) return stop(OVERFLOW, i + firstFrom<S>(input, VALUES, most));
      store<u16>(output, half, 208);
      const d = halfToFloat(half);
      for (let s: usize = 0; s < 16; s++) {
        const code = min(127, nearestInteger(inverse * load<f32>(scales + 4 * s)));
        store<i8>(output + s, code, 192);
        assign(s, d * <f32>code);
      }
      pack(output);
    }
    input += VALUES * sizeof<S>();
    output += BYTES;
  }
  return -1;
}
