// The best cut of 16 values whose two groups of eight are shifted each by itself (IQ1_M): level 0 before `low` in
// sorted order, level 2 from `high` on. See `ternary-best.ts`.

import {
  MARGIN,
  begin,
  isSafe,
  largestLane,
  note,
  notedCuts,
  notedHigh,
  notedLow,
  take,
} from "./ternary-best";
import { sumsStride } from "./ternary-rank";

// Lanes are the shifts of both groups in the order in which they are taken: up and up, up and down, down and up,
// down and down. As bits, the first group's the lower, they are 0, 2, 1 and 3.

/** For the scan: running sums of all products, scaled, and what a cut at `high` takes from each square. */
const scaled: usize = memory.data(4 * 24, 16);
const squares: usize = memory.data(4 * 4 * 24, 16);
const SQUARES: usize = 4 * 24;

// @ts-ignore: decorator
@inline function at(sums: usize, index: i32): f32 {
  return load<f32>(sums + 4 * <usize>index);
}

// @ts-ignore: decorator
@inline function first(up: f32, down: f32): v128 {
  return f32x4(up, up, down, down);
}

// @ts-ignore: decorator
@inline function second(up: f32, down: f32): v128 {
  return f32x4(up, down, up, down);
}

/** Products of a group, for the shifts that `levels` holds its highest level of. */
// @ts-ignore: decorator
@inline function productsOf(products: usize, low: i32, high: i32, levels: v128): v128 {
  const total = f32x4.mul(f32x4.splat(at(products, 16)), levels);
  return f32x4.sub(total, f32x4.splat(at(products, low) + at(products, high)));
}

/** Squares of a group: `lows` and `highs` are what a weight gains when its value has the next lower level. */
// @ts-ignore: decorator
@inline function squaresOf(weights: usize, low: i32, high: i32, levels: v128, lows: v128, highs: v128): v128 {
  const total = f32x4.mul(f32x4.mul(f32x4.splat(at(weights, 16)), levels), levels);
  const more = f32x4.add(total, f32x4.mul(f32x4.splat(at(weights, low)), lows));
  return f32x4.add(more, f32x4.mul(f32x4.splat(at(weights, high)), highs));
}

/** Takes all shifts of a cut, with ggml's order of operations. */
// @ts-ignore: decorator
@inline function takeCut(sums: usize, low: i32, high: i32): void {
  const kind = sumsStride(16);
  const product = f32x4.add(
    productsOf(sums, low, high, first(1.125, 0.875)),
    productsOf(sums + 2 * kind, low, high, second(1.125, 0.875)),
  );
  const square = f32x4.add(
    squaresOf(sums + kind, low, high, first(1.125, 0.875), first(0.75, 1.25), first(-1.25, -0.75)),
    squaresOf(sums + 3 * kind, low, high, second(1.125, 0.875), second(0.75, 1.25), second(-1.25, -0.75)),
  );
  take(f32x4.extract_lane(product, 0), f32x4.extract_lane(square, 0), low, high, 0);
  take(f32x4.extract_lane(product, 1), f32x4.extract_lane(square, 1), low, high, 2);
  take(f32x4.extract_lane(product, 2), f32x4.extract_lane(square, 2), low, high, 1);
  take(f32x4.extract_lane(product, 3), f32x4.extract_lane(square, 3), low, high, 3);
}

function takeAll(sums: usize): void {
  begin();
  for (let low = 0; low <= 16; low++) {
    for (let high = low; high <= 16; high++) takeCut(sums, low, high);
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

// @ts-ignore: decorator
@inline function scaleSquares(weights: usize, others: usize): void {
  for (let i: usize = 0; i < 80; i += 16) {
    const a = v128.load(weights + i);
    const b = v128.load(others + i);
    const a2 = f32x4.mul(a, f32x4.splat(1.25));
    const b2 = f32x4.mul(b, f32x4.splat(1.25));
    const a1 = f32x4.mul(a, f32x4.splat(0.75));
    const b1 = f32x4.mul(b, f32x4.splat(0.75));
    v128.store(squares + i, f32x4.add(a2, b2));
    v128.store(squares + i + SQUARES, f32x4.add(a2, b1));
    v128.store(squares + i + 2 * SQUARES, f32x4.add(a1, b2));
    v128.store(squares + i + 3 * SQUARES, f32x4.add(a1, b1));
  }
  // Behind the last cut there is none.
  for (let k: usize = 0; k < 4; k++) v128.store(squares + SQUARES * k + 68, f32x4.splat(-Infinity));
}

/** Notes the contenders; false when there are too many. `known` is the score of a cut. */
function scan(sums: usize, known: f32): bool {
  const kind = sumsStride(16);
  const weights = sums + kind;
  const others = sums + 3 * kind;
  scaleSquares(weights, others);
  let bound = known * (1 - MARGIN);
  let by: f32 = 1 / sqrt(bound);
  scaleProducts(sums, by);
  const levelTotals = f32x4.add(
    f32x4.mul(f32x4.splat(at(sums, 16)), first(1.125, 0.875)),
    f32x4.mul(f32x4.splat(at(sums + 2 * kind, 16)), second(1.125, 0.875)),
  );
  const squareTotals = f32x4.add(
    f32x4.mul(f32x4.splat(at(weights, 16)), first(1.265625, 0.765625)),
    f32x4.mul(f32x4.splat(at(others, 16)), second(1.265625, 0.765625)),
  );
  for (let low = 0; low <= 16; low++) {
    const rowSquares = f32x4.add(
      squareTotals,
      f32x4.add(
        f32x4.mul(f32x4.splat(at(weights, low)), first(0.75, 1.25)),
        f32x4.mul(f32x4.splat(at(others, low)), second(0.75, 1.25)),
      ),
    );
    let rowProducts = f32x4.sub(f32x4.mul(levelTotals, f32x4.splat(by)), f32x4.splat(at(scaled, low)));
    for (let high = low; high <= 16; high += 4) {
      const offset: usize = 4 * <usize>high;
      const products = v128.load(scaled + offset);
      const a = f32x4.sub(v128.shuffle<i32>(rowProducts, rowProducts, 0, 0, 0, 0), products);
      const b = f32x4.sub(v128.shuffle<i32>(rowProducts, rowProducts, 1, 1, 1, 1), products);
      const c = f32x4.sub(v128.shuffle<i32>(rowProducts, rowProducts, 2, 2, 2, 2), products);
      const d = f32x4.sub(v128.shuffle<i32>(rowProducts, rowProducts, 3, 3, 3, 3), products);
      const a2 = f32x4.mul(a, a);
      const b2 = f32x4.mul(b, b);
      const c2 = f32x4.mul(c, c);
      const d2 = f32x4.mul(d, d);
      const squareA = f32x4.sub(v128.shuffle<i32>(rowSquares, rowSquares, 0, 0, 0, 0), v128.load(squares + offset));
      const squareB = f32x4.sub(v128.shuffle<i32>(rowSquares, rowSquares, 1, 1, 1, 1), v128.load(squares + offset + SQUARES));
      const squareC = f32x4.sub(v128.shuffle<i32>(rowSquares, rowSquares, 2, 2, 2, 2), v128.load(squares + offset + 2 * SQUARES));
      const squareD = f32x4.sub(v128.shuffle<i32>(rowSquares, rowSquares, 3, 3, 3, 3), v128.load(squares + offset + 3 * SQUARES));
      const hitsA = f32x4.ge(a2, squareA);
      const hitsB = f32x4.ge(b2, squareB);
      const hitsC = f32x4.ge(c2, squareC);
      const hitsD = f32x4.ge(d2, squareD);
      if (!v128.any_true(v128.or(v128.or(hitsA, hitsB), v128.or(hitsC, hitsD)))) continue;
      const lanesA = i32x4.bitmask(hitsA);
      const lanesB = i32x4.bitmask(hitsB);
      const lanesC = i32x4.bitmask(hitsC);
      const lanesD = i32x4.bitmask(hitsD);
      const count = popcnt(lanesA | (lanesB << 4) | (lanesC << 8) | (lanesD << 12));
      if (!note(low, high, lanesA | lanesB | lanesC | lanesD, count)) return false;
      const ratios = f32x4.pmax(
        f32x4.pmax(f32x4.div(a2, squareA), f32x4.div(b2, squareB)),
        f32x4.pmax(f32x4.div(c2, squareC), f32x4.div(d2, squareD)),
      );
      const rise = largestLane(ratios) * (1 - MARGIN);
      if (rise > 1) {
        bound *= rise;
        by = <f32>1 / sqrt(bound);
        scaleProducts(sums, by);
        rowProducts = f32x4.sub(f32x4.mul(levelTotals, f32x4.splat(by)), f32x4.splat(at(scaled, low)));
      }
    }
  }
  return true;
}

/** The greatest of a cut's four scores. */
// @ts-ignore: decorator
@inline function scoreOf(sums: usize, low: i32, high: i32): f32 {
  const kind = sumsStride(16);
  const product = f32x4.add(
    productsOf(sums, low, high, first(1.125, 0.875)),
    productsOf(sums + 2 * kind, low, high, second(1.125, 0.875)),
  );
  const square = f32x4.add(
    squaresOf(sums + kind, low, high, first(1.125, 0.875), first(0.75, 1.25), first(-1.25, -0.75)),
    squaresOf(sums + 3 * kind, low, high, second(1.125, 0.875), second(0.75, 1.25), second(-1.25, -0.75)),
  );
  return largestLane(f32x4.div(f32x4.mul(product, product), square));
}

/** Finds the best cut from the running sums of a sub-block. */
export function searchApart(sums: usize): void {
  const kind = sumsStride(16);
  const known = max(scoreOf(sums, 5, 13), scoreOf(sums, 3, 11));
  begin();
  if (!isSafe(known, at(sums + kind, 16) + at(sums + 3 * kind, 16)) || !scan(sums, known)) {
    takeAll(sums);
    return;
  }
  for (let i = 0; i < notedCuts(); i++) takeCut(sums, notedLow(i), notedHigh(i));
}
