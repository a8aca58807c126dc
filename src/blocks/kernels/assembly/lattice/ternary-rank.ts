// Sorted order of four sub-blocks at a time, lanes by sub-block, and running sums over it.

import { turnFour } from "../turn";

/** Value j of four sub-blocks. */
const turned: usize = memory.data(32 * 16, 16);
/** Position of value j among the sorted values of its sub-block, four sub-blocks. */
export const ranks: usize = memory.data(32 * 16, 16);
/** Terms in sorted order, lanes by sub-block: `size` vectors of each kind. */
const sorted: usize = memory.data(64 * 16, 16);

/** Running sums: 384 bytes for a sub-block. */
const SUMS: usize = 384;
const sums: usize = memory.data(4 * 384, 16);

/** Bytes from one kind of running sums to the next: `size` + 1 of them and room for a vector more. */
// @ts-ignore: decorator
@inline export function sumsStride(size: usize): usize {
  return 4 * size + 32;
}

/** Running sums of sub-block `s` of four. */
// @ts-ignore: decorator
@inline export function sumsOf(s: i32): usize {
  return sums + SUMS * <usize>s;
}

/**
 * Ranks the values of four consecutive sub-blocks. Equal values, zeros of both signs among them, keep their
 * order: a value moves up one place for every later value that is smaller, and that one moves down.
 */
// @ts-ignore: decorator
@inline export function rankFour(x: usize, size: usize): void {
  const end: usize = 16 * size;
  for (let j: usize = 0; j < end; j += 64) turnFour(x + (j >> 2), end >> 2, turned + j, 16);
  for (let j: usize = 0; j < end; j += 16) v128.store(ranks + j, i32x4.splat(<i32>(j >> 4)));
  for (let i: usize = 0; i < end; i += 64) {
    const a = v128.load(turned + i);
    const b = v128.load(turned + i, 16);
    const c = v128.load(turned + i, 32);
    const d = v128.load(turned + i, 48);
    const ab = f32x4.gt(a, b);
    const ac = f32x4.gt(a, c);
    const ad = f32x4.gt(a, d);
    const bc = f32x4.gt(b, c);
    const bd = f32x4.gt(b, d);
    const cd = f32x4.gt(c, d);
    let rankA = i32x4.sub(v128.load(ranks + i), i32x4.add(i32x4.add(ab, ac), ad));
    let rankB = i32x4.sub(i32x4.add(v128.load(ranks + i, 16), ab), i32x4.add(bc, bd));
    let rankC = i32x4.sub(i32x4.add(v128.load(ranks + i, 32), i32x4.add(ac, bc)), cd);
    let rankD = i32x4.add(i32x4.add(v128.load(ranks + i, 48), ad), i32x4.add(bd, cd));
    for (let j = i + 64; j < end; j += 16) {
      const other = v128.load(turned + j);
      const overA = f32x4.gt(a, other);
      const overB = f32x4.gt(b, other);
      const overC = f32x4.gt(c, other);
      const overD = f32x4.gt(d, other);
      rankA = i32x4.sub(rankA, overA);
      rankB = i32x4.sub(rankB, overB);
      rankC = i32x4.sub(rankC, overC);
      rankD = i32x4.sub(rankD, overD);
      const over = i32x4.add(i32x4.add(overA, overB), i32x4.add(overC, overD));
      v128.store(ranks + j, i32x4.add(v128.load(ranks + j), over));
    }
    v128.store(ranks + i, rankA);
    v128.store(ranks + i, rankB, 16);
    v128.store(ranks + i, rankC, 32);
    v128.store(ranks + i, rankD, 48);
  }
}

/** Guesses for four sub-blocks, by lane: `low` and `high` of two cuts. */
const guesses: usize = memory.data(4 * 16, 16);

/** Guesses of sub-block `s` of four. */
// @ts-ignore: decorator
@inline export function guessesOf(s: i32): usize {
  return guesses + 4 * <usize>s;
}

// @ts-ignore: decorator
@inline export function guessedLow(guess: usize, index: usize): i32 {
  return load<i32>(guess + 32 * index);
}

// @ts-ignore: decorator
@inline export function guessedHigh(guess: usize, index: usize): i32 {
  return load<i32>(guess + 32 * index, 16);
}

/**
 * Guesses cuts of the four sub-blocks that were ranked: where values round to levels shifted up, and to
 * levels shifted down, at a scale that is usual for normal values. Returns the largest magnitudes.
 */
// @ts-ignore: decorator
@inline export function guessFour(size: usize): v128 {
  let most = i32x4.splat(0);
  let sum = i32x4.splat(0);
  for (let j: usize = 0; j < 16 * size; j += 16) {
    const magnitude = f32x4.abs(v128.load(turned + j));
    most = f32x4.pmax(most, magnitude);
    sum = f32x4.add(sum, magnitude);
  }
  const scale = f32x4.mul(sum, f32x4.splat(<f32>1.6 / <f32>size));
  const upLow = f32x4.mul(scale, f32x4.splat(-0.375));
  const upHigh = f32x4.mul(scale, f32x4.splat(0.625));
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  let c = i32x4.splat(0);
  let d = i32x4.splat(0);
  for (let j: usize = 0; j < 16 * size; j += 16) {
    const x = v128.load(turned + j);
    a = i32x4.sub(a, f32x4.lt(x, upLow));
    b = i32x4.sub(b, f32x4.lt(x, upHigh));
    c = i32x4.sub(c, f32x4.lt(x, f32x4.neg(upHigh)));
    d = i32x4.sub(d, f32x4.lt(x, f32x4.neg(upLow)));
  }
  v128.store(guesses, a);
  v128.store(guesses, b, 16);
  v128.store(guesses, c, 32);
  v128.store(guesses, d, 48);
  return most;
}

/** Sums terms in sorted order for four sub-blocks, one kind of them. Zeros lie behind the sums. */
// @ts-ignore: decorator
@inline function run(from: usize, size: usize, to: usize): void {
  let sum = i32x4.splat(0);
  for (let r: usize = 0; r < 4 * size; r += 16) {
    const terms = from + 4 * r;
    for (let i: usize = 0; i < 64; i += 16) {
      sum = f32x4.add(sum, v128.load(terms + i));
      v128.store(terms + i, sum);
    }
    turnFour(terms, 16, to + r + 4, SUMS);
  }
  for (let s: usize = 0; s < 4; s++) {
    store<f32>(to + SUMS * s, 0);
    v128.store(to + SUMS * s + 4 * size + 4, i32x4.splat(0));
  }
}

/** Puts value j of sub-block `s` at its place among the sorted terms. */
// @ts-ignore: decorator
@inline function place(from: usize, to: usize, at: i32): void {
  store<i32>(to + <usize>at, load<i32>(from));
}

/** Places value j of four sub-blocks, its terms of both kinds, `kinds` bytes apart. */
// @ts-ignore: decorator
@inline function placeFour(
  products: usize,
  weights: usize,
  j: usize,
  size: usize,
  to: usize,
  kinds: usize,
): void {
  const places = i32x4.add(i32x4.shl(v128.load(ranks + 16 * j), 4), i32x4(0, 4, 8, 12));
  const a = i32x4.extract_lane(places, 0);
  const b = i32x4.extract_lane(places, 1);
  const c = i32x4.extract_lane(places, 2);
  const d = i32x4.extract_lane(places, 3);
  const step: usize = 4 * size;
  place(products + 4 * j, to, a);
  place(products + 4 * j + step, to, b);
  place(products + 4 * j + 2 * step, to, c);
  place(products + 4 * j + 3 * step, to, d);
  place(weights + 4 * j, to + kinds, a);
  place(weights + 4 * j + step, to + kinds, b);
  place(weights + 4 * j + 2 * step, to + kinds, c);
  place(weights + 4 * j + 3 * step, to + kinds, d);
}

/**
 * Running sums over the sorted values of four sub-blocks: of w·x, then of w. They start with 0, and are
 * float32 sums in that order.
 *
 * @param products w·x of the values in their own order
 */
// @ts-ignore: decorator
@inline export function sumTogether(products: usize, weights: usize): void {
  for (let j: usize = 0; j < 32; j++) placeFour(products, weights, j, 32, sorted, 512);
  run(sorted, 32, sums);
  run(sorted + 512, 32, sums + sumsStride(32));
}

/**
 * The same for the first eight values of four sub-blocks of sixteen, then for the last eight; a sum stays
 * where it is at values of the other eight.
 */
// @ts-ignore: decorator
@inline export function sumApart(products: usize, weights: usize): void {
  for (let r: usize = 0; r < 1024; r += 16) v128.store(sorted + r, i32x4.splat(0));
  for (let j: usize = 0; j < 8; j++) placeFour(products, weights, j, 16, sorted, 256);
  for (let j: usize = 8; j < 16; j++) placeFour(products, weights, j, 16, sorted + 512, 256);
  for (let kind: usize = 0; kind < 4; kind++) run(sorted + 256 * kind, 16, sums + sumsStride(16) * kind);
}
