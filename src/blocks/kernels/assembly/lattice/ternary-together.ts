// The best cut of 32 values whose levels are all shifted alike (IQ1_S): level 0 before `low` in sorted order,
// level 2 from `high` on. See `ternary-best.ts`.

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

/** Shifts of four groups. */
const UP: i32 = 0;
const DOWN: i32 = 15;

/** For the scan: running sums of products, scaled, and of weights times 1.25 and 0.75; 33 and room for more. */
const scaled: usize = memory.data(4 * 40, 16);
const upSquares: usize = memory.data(4 * 40, 16);
const downSquares: usize = memory.data(4 * 40, 16);

// @ts-ignore: decorator
@inline function at(sums: usize, index: i32): f32 {
  return load<f32>(sums + 4 * <usize>index);
}

/** Takes both shifts of a cut, with ggml's order of operations. */
// @ts-ignore: decorator
@inline function takeCut(products: usize, weights: usize, low: i32, high: i32): void {
  let first = at(products, low);
  let middle = (at(products, high) - first) * <f32>0.125;
  let last = at(products, 32) - at(products, high);
  const upProduct = first * <f32>-0.875 + middle + last * <f32>1.125;
  const downProduct = first * <f32>-1.125 - middle + last * <f32>0.875;
  first = at(weights, low);
  middle = (at(weights, high) - first) * <f32>0.125 * <f32>0.125;
  last = at(weights, 32) - at(weights, high);
  const upSquare = first * <f32>0.875 * <f32>0.875 + middle + last * <f32>1.125 * <f32>1.125;
  const downSquare = first * <f32>1.125 * <f32>1.125 + middle + last * <f32>0.875 * <f32>0.875;
  take(upProduct, upSquare, low, high, UP);
  take(downProduct, downSquare, low, high, DOWN);
}

function takeAll(products: usize, weights: usize): void {
  begin();
  for (let low = 0; low <= 32; low++) {
    for (let high = low; high <= 32; high++) takeCut(products, weights, low, high);
  }
}

/** Scales the products so that a cut reaches `bound` where product² reaches its square. */
// @ts-ignore: decorator
@inline function scaleProducts(products: usize, by: f32): void {
  for (let i: usize = 0; i < 144; i += 16) {
    v128.store(scaled + i, f32x4.mul(v128.load(products + i), f32x4.splat(by)));
  }
}

/** Notes the contenders; false when there are too many. `known` is the score of a cut. */
function scan(products: usize, weights: usize, known: f32): bool {
  const total = at(products, 32);
  const weight = at(weights, 32);
  for (let i: usize = 0; i < 144; i += 16) {
    const sums = v128.load(weights + i);
    v128.store(upSquares + i, f32x4.mul(sums, f32x4.splat(1.25)));
    v128.store(downSquares + i, f32x4.mul(sums, f32x4.splat(0.75)));
  }
  // Behind the last cut there is none.
  v128.store(upSquares + 132, f32x4.splat(-Infinity));
  v128.store(downSquares + 132, f32x4.splat(-Infinity));
  let bound = known * (1 - MARGIN);
  let by: f32 = 1 / sqrt(bound);
  scaleProducts(products, by);
  for (let low = 0; low <= 32; low++) {
    const up = f32x4.splat(weight * <f32>1.265625 + at(weights, low) * <f32>0.75);
    const down = f32x4.splat(weight * <f32>0.765625 + at(weights, low) * <f32>1.25);
    let upTotal = f32x4.splat(total * by * <f32>1.125 - at(scaled, low));
    let downTotal = f32x4.splat(total * by * <f32>0.875 - at(scaled, low));
    for (let high = low; high <= 32; high += 4) {
      const offset: usize = 4 * <usize>high;
      const sums = v128.load(scaled + offset);
      const upProduct = f32x4.sub(upTotal, sums);
      const downProduct = f32x4.sub(downTotal, sums);
      const upScore = f32x4.mul(upProduct, upProduct);
      const downScore = f32x4.mul(downProduct, downProduct);
      const upSquare = f32x4.sub(up, v128.load(upSquares + offset));
      const downSquare = f32x4.sub(down, v128.load(downSquares + offset));
      const upHits = f32x4.ge(upScore, upSquare);
      const downHits = f32x4.ge(downScore, downSquare);
      const hits = v128.or(upHits, downHits);
      if (!v128.any_true(hits)) continue;
      const upLanes = i32x4.bitmask(upHits);
      const downLanes = i32x4.bitmask(downHits);
      if (!note(low, high, upLanes | downLanes, popcnt(upLanes) + popcnt(downLanes))) return false;
      const ratios = f32x4.pmax(f32x4.div(upScore, upSquare), f32x4.div(downScore, downSquare));
      const rise = largestLane(ratios) * (1 - MARGIN);
      if (rise > 1) {
        bound *= rise;
        by = <f32>1 / sqrt(bound);
        scaleProducts(products, by);
        upTotal = f32x4.splat(total * by * <f32>1.125 - at(scaled, low));
        downTotal = f32x4.splat(total * by * <f32>0.875 - at(scaled, low));
      }
    }
  }
  return true;
}

/** The greater of a cut's two scores. */
// @ts-ignore: decorator
@inline function scoreOf(products: usize, weights: usize, low: i32, high: i32): f32 {
  const product = at(products, 32);
  const weight = at(weights, 32);
  const sum = at(products, low) + at(products, high);
  const up = product * <f32>1.125 - sum;
  const down = product * <f32>0.875 - sum;
  const upSquare = weight * <f32>1.265625 + at(weights, low) * <f32>0.75 - at(weights, high) * <f32>1.25;
  const downSquare = weight * <f32>0.765625 + at(weights, low) * <f32>1.25 - at(weights, high) * <f32>0.75;
  return max((up * up) / upSquare, (down * down) / downSquare);
}

/** Finds the best cut from the running sums of a sub-block. */
export function searchTogether(sums: usize): void {
  const weights = sums + sumsStride(32);
  let known = max(scoreOf(sums, weights, 9, 26), scoreOf(sums, weights, 6, 23));
  begin();
  if (!isSafe(known, at(weights, 32)) || !scan(sums, weights, known)) {
    takeAll(sums, weights);
    return;
  }
  for (let i = 0; i < notedCuts(); i++) takeCut(sums, weights, notedLow(i), notedHigh(i));
}
