// The best cut of 16 values whose two groups of eight are shifted each by itself (IQ1_M): level 0 before
// `low` in sorted order, level 2 from `high` on. See `ternary-best.ts`.

import {
  MARGIN,
  begin,
  cutLanes,
  isSafe,
  largestOf,
  note,
  notedCut,
  notedCuts,
  take,
} from "./ternary-best";
import { guessedHigh, guessedLow, sumsStride } from "./ternary-rank";

// Lanes are the shifts of both groups in the order in which they are taken: up and up, up and down, down and
// up, down and down. As bits, the first group's the lower, they are 0, 2, 1 and 3.

/**
 * For the scan, four shifts each: what a cut at `low` adds to a square, and what one at `high` takes from it.
 */
const lowSquares: usize = memory.data(4 * 4 * 24, 16);
const highSquares: usize = memory.data(4 * 4 * 24, 16);
const SHIFT: usize = 4 * 24;
/** Running sums of all products, scaled. */
const scaled: usize = memory.data(4 * 24, 16);

// @ts-ignore: decorator
@inline function at(sums: usize, index: i32): f32 {
  return load<f32>(sums + 4 * <usize>index);
}

/** A number for each shift of the first group. */
// @ts-ignore: decorator
@inline function first(up: f32, down: f32): v128 {
  return f32x4(up, up, down, down);
}

/** A number for each shift of the second group. */
// @ts-ignore: decorator
@inline function second(up: f32, down: f32): v128 {
  return f32x4(up, down, up, down);
}

// @ts-ignore: decorator
@inline function splat0(lanes: v128): v128 {
  return v128.shuffle<i32>(lanes, lanes, 0, 0, 0, 0);
}

// @ts-ignore: decorator
@inline function splat1(lanes: v128): v128 {
  return v128.shuffle<i32>(lanes, lanes, 1, 1, 1, 1);
}

// @ts-ignore: decorator
@inline function splat2(lanes: v128): v128 {
  return v128.shuffle<i32>(lanes, lanes, 2, 2, 2, 2);
}

// @ts-ignore: decorator
@inline function splat3(lanes: v128): v128 {
  return v128.shuffle<i32>(lanes, lanes, 3, 3, 3, 3);
}

/** Products of a group, for the shifts that `levels` holds its highest level of. */
// @ts-ignore: decorator
@inline function productsOf(products: usize, low: i32, high: i32, levels: v128): v128 {
  const total = f32x4.mul(f32x4.splat(at(products, 16)), levels);
  return f32x4.sub(total, f32x4.splat(at(products, low) + at(products, high)));
}

/** Squares of a group: `lows` and `highs` is what a weight adds when its value moves to the next lower level. */
// @ts-ignore: decorator
@inline function squaresOf(weights: usize, low: i32, high: i32, levels: v128, lows: v128, highs: v128): v128 {
  const total = f32x4.mul(f32x4.mul(f32x4.splat(at(weights, 16)), levels), levels);
  const more = f32x4.add(total, f32x4.mul(f32x4.splat(at(weights, low)), lows));
  return f32x4.add(more, f32x4.mul(f32x4.splat(at(weights, high)), highs));
}

/** Products of a cut. */
// @ts-ignore: decorator
@inline function productsAt(sums: usize, low: i32, high: i32): v128 {
  return f32x4.add(
    productsOf(sums, low, high, first(1.125, 0.875)),
    productsOf(sums + 2 * sumsStride(16), low, high, second(1.125, 0.875)),
  );
}

/** Squares of a cut. */
// @ts-ignore: decorator
@inline function squaresAt(sums: usize, low: i32, high: i32): v128 {
  const kind = sumsStride(16);
  return f32x4.add(
    squaresOf(sums + kind, low, high, first(1.125, 0.875), first(0.75, 1.25), first(-1.25, -0.75)),
    squaresOf(sums + 3 * kind, low, high, second(1.125, 0.875), second(0.75, 1.25), second(-1.25, -0.75)),
  );
}

/** Products and squares of a cut, by shift. */
const cutSums: usize = memory.data(2 * 16, 16);

/** Takes a cut with the shifts in `which` (bit k for lane k), with ggml's order of operations. */
// @ts-ignore: decorator
@inline function takeCut(sums: usize, low: i32, high: i32, which: i32): void {
  v128.store(cutSums, productsAt(sums, low, high));
  v128.store(cutSums, squaresAt(sums, low, high), 16);
  for (let rest = which; rest !== 0; rest &= rest - 1) {
    const lane = ctz(rest);
    const shifts = ((lane & 1) << 1) | (lane >> 1);
    take(load<f32>(cutSums + 4 * lane), load<f32>(cutSums + 4 * lane, 16), low, high, shifts);
  }
}

function takeAll(sums: usize): void {
  begin();
  for (let low = 0; low <= 16; low++) {
    for (let high = low; high <= 16; high++) takeCut(sums, low, high, 15);
  }
}

/** Scales the products so that a cut reaches the bound where product² reaches its square. */
// @ts-ignore: decorator
@inline function scaleProducts(sums: usize, by: f32): void {
  const other = sums + 2 * sumsStride(16);
  for (let i: usize = 0; i < 80; i += 16) {
    const both = f32x4.add(v128.load(sums + i), v128.load(other + i));
    v128.store(scaled + i, f32x4.mul(both, f32x4.splat(by)));
  }
}

/** Fills `lowSquares` and `highSquares`. */
// @ts-ignore: decorator
@inline function weighSquares(weights: usize, others: usize): void {
  for (let i: usize = 0; i < 80; i += 16) {
    const a = v128.load(weights + i);
    const b = v128.load(others + i);
    const a5 = f32x4.mul(a, f32x4.splat(1.25));
    const b5 = f32x4.mul(b, f32x4.splat(1.25));
    const a3 = f32x4.mul(a, f32x4.splat(0.75));
    const b3 = f32x4.mul(b, f32x4.splat(0.75));
    v128.store(highSquares + i, f32x4.add(a5, b5));
    v128.store(highSquares + i + SHIFT, f32x4.add(a5, b3));
    v128.store(highSquares + i + 2 * SHIFT, f32x4.add(a3, b5));
    v128.store(highSquares + i + 3 * SHIFT, f32x4.add(a3, b3));
    v128.store(lowSquares + i, f32x4.add(a3, b3));
    v128.store(lowSquares + i + SHIFT, f32x4.add(a3, b5));
    v128.store(lowSquares + i + 2 * SHIFT, f32x4.add(a5, b3));
    v128.store(lowSquares + i + 3 * SHIFT, f32x4.add(a5, b5));
  }
}

/** Greatest score seen since the bound was raised, as a multiple of the bound. */
let rise: f32 = 0;

/**
 * Notes the contenders among the cuts at `low` and from `high` on, from their scaled products² and their
 * squares.
 */
// @ts-ignore: decorator
@inline function consider(
  low: i32,
  high: i32,
  a: v128,
  b: v128,
  c: v128,
  d: v128,
  squareA: v128,
  squareB: v128,
  squareC: v128,
  squareD: v128,
): bool {
  const lanes = cutLanes(low, high);
  const lanesA = i32x4.bitmask(f32x4.ge(a, squareA));
  const lanesB = i32x4.bitmask(f32x4.ge(b, squareB));
  const lanesC = i32x4.bitmask(f32x4.ge(c, squareC));
  const lanesD = i32x4.bitmask(f32x4.ge(d, squareD));
  const ratios = f32x4.pmax(
    f32x4.pmax(f32x4.div(a, squareA), f32x4.div(b, squareB)),
    f32x4.pmax(f32x4.div(c, squareC), f32x4.div(d, squareD)),
  );
  rise = largestOf(ratios, lanes) * (1 - MARGIN);
  for (let rest = (lanesA | lanesB | lanesC | lanesD) & lanes; rest !== 0; rest &= rest - 1) {
    const lane = ctz(rest);
    const one = ((lanesA >> lane) & 1) | (((lanesB >> lane) & 1) << 1);
    const other = ((lanesC >> lane) & 1) | (((lanesD >> lane) & 1) << 1);
    if (!note(low, high + lane, one | (other << 2))) return false;
  }
  return true;
}

/** Totals of both groups times levels, by shift. */
// @ts-ignore: decorator
@inline function totals(one: f32, other: f32, up: f32, down: f32): v128 {
  return f32x4.add(
    f32x4.mul(f32x4.splat(one), first(up, down)),
    f32x4.mul(f32x4.splat(other), second(up, down)),
  );
}

/** Notes the contenders; false when there are too many. `known` is the score of a cut. */
function scan(sums: usize, known: f32): bool {
  const kind = sumsStride(16);
  const weights = sums + kind;
  const others = sums + 3 * kind;
  weighSquares(weights, others);
  let bound = known * (1 - MARGIN);
  let by: f32 = 1 / sqrt(bound);
  scaleProducts(sums, by);
  const products = totals(at(sums, 16), at(sums + 2 * kind, 16), 1.125, 0.875);
  const squares = totals(at(weights, 16), at(others, 16), 1.265625, 0.765625);
  let scaledProducts = f32x4.mul(products, f32x4.splat(by));
  const reached = f32x4.ge(f32x4.mul(scaledProducts, scaledProducts), squares);
  if (v128.any_true(reached) && !note(0, 0, 15)) return false;
  for (let high = 1; high < 16; high += 4) {
    const offset = <usize>high << 2;
    const squaresA = f32x4.sub(splat0(squares), v128.load(highSquares + offset));
    const squaresB = f32x4.sub(splat1(squares), v128.load(highSquares + offset + SHIFT));
    const squaresC = f32x4.sub(splat2(squares), v128.load(highSquares + offset + 2 * SHIFT));
    const squaresD = f32x4.sub(splat3(squares), v128.load(highSquares + offset + 3 * SHIFT));
    let sum = v128.load(scaled + offset);
    let productsA = f32x4.sub(splat0(scaledProducts), sum);
    let productsB = f32x4.sub(splat1(scaledProducts), sum);
    let productsC = f32x4.sub(splat2(scaledProducts), sum);
    let productsD = f32x4.sub(splat3(scaledProducts), sum);
    for (let low = 0; low < high + 4; low++) {
      const row = <usize>low << 2;
      sum = v128.load32_splat(scaled + row);
      let a = f32x4.sub(productsA, sum);
      let b = f32x4.sub(productsB, sum);
      let c = f32x4.sub(productsC, sum);
      let d = f32x4.sub(productsD, sum);
      a = f32x4.mul(a, a);
      b = f32x4.mul(b, b);
      c = f32x4.mul(c, c);
      d = f32x4.mul(d, d);
      const squareA = f32x4.add(squaresA, v128.load32_splat(lowSquares + row));
      const squareB = f32x4.add(squaresB, v128.load32_splat(lowSquares + row + SHIFT));
      const squareC = f32x4.add(squaresC, v128.load32_splat(lowSquares + row + 2 * SHIFT));
      const squareD = f32x4.add(squaresD, v128.load32_splat(lowSquares + row + 3 * SHIFT));
      const hits = v128.or(
        v128.or(f32x4.ge(a, squareA), f32x4.ge(b, squareB)),
        v128.or(f32x4.ge(c, squareC), f32x4.ge(d, squareD)),
      );
      if (!v128.any_true(hits)) continue;
      if (!consider(low, high, a, b, c, d, squareA, squareB, squareC, squareD)) return false;
      if (rise > 1) {
        bound *= rise;
        by = <f32>1 / sqrt(bound);
        scaleProducts(sums, by);
        scaledProducts = f32x4.mul(products, f32x4.splat(by));
        sum = v128.load(scaled + offset);
        productsA = f32x4.sub(splat0(scaledProducts), sum);
        productsB = f32x4.sub(splat1(scaledProducts), sum);
        productsC = f32x4.sub(splat2(scaledProducts), sum);
        productsD = f32x4.sub(splat3(scaledProducts), sum);
      }
    }
  }
  return true;
}

/** The four scores of a cut. */
// @ts-ignore: decorator
@inline function scoresOf(sums: usize, low: i32, high: i32): v128 {
  const products = productsAt(sums, low, high);
  return f32x4.div(f32x4.mul(products, products), squaresAt(sums, low, high));
}

/** Finds the best cut from the running sums of a sub-block. One of the cuts of `guess` should be good. */
export function searchApart(sums: usize, guess: usize): void {
  const kind = sumsStride(16);
  const known = largestOf(
    f32x4.pmax(
      scoresOf(sums, guessedLow(guess, 0), guessedHigh(guess, 0)),
      scoresOf(sums, guessedLow(guess, 1), guessedHigh(guess, 1)),
    ),
    15,
  );
  begin();
  if (!isSafe(known, at(sums + kind, 16) + at(sums + 3 * kind, 16)) || !scan(sums, known)) {
    takeAll(sums);
    return;
  }
  for (let i = 0; i < notedCuts(); i++) {
    const cut = notedCut(i);
    takeCut(sums, cut >> 16, (cut >> 8) & 255, cut & 255);
  }
}
