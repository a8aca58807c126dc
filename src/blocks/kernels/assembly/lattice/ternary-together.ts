// The best cut of 32 values whose levels are all shifted alike (IQ1_S): level 0 before `low` in sorted order,
// level 2 from `high` on. See `ternary-best.ts`.

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

/** Shifts of four groups. */
const UP: i32 = 0;
const DOWN: i32 = 15;

/**
 * For the scan: running sums of products, scaled, and of weights times 0.75 and 1.25; 33 and room for more.
 */
const scaled: usize = memory.data(4 * 40, 16);
const upRows: usize = memory.data(4 * 40, 16);
const downRows: usize = memory.data(4 * 40, 16);

// @ts-ignore: decorator
@inline function at(sums: usize, index: i32): f32 {
  return load<f32>(sums + 4 * <usize>index);
}

/** Takes a cut with the shifts in `which` (1: up, 2: down), with ggml's order of operations. */
// @ts-ignore: decorator
@inline function takeCut(products: usize, weights: usize, low: i32, high: i32, which: i32): void {
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
  if ((which & 1) !== 0) take(upProduct, upSquare, low, high, UP);
  if ((which & 2) !== 0) take(downProduct, downSquare, low, high, DOWN);
}

function takeAll(products: usize, weights: usize): void {
  begin();
  for (let low = 0; low <= 32; low++) {
    for (let high = low; high <= 32; high++) takeCut(products, weights, low, high, 3);
  }
}

/** Scales the products so that a cut reaches `bound` where product² reaches its square. */
// @ts-ignore: decorator
@inline function scaleProducts(products: usize, by: f32): void {
  for (let i: usize = 0; i < 144; i += 16) {
    v128.store(scaled + i, f32x4.mul(v128.load(products + i), f32x4.splat(by)));
  }
}

/** What the cuts at `low` and from `high` on add to the contenders. */
// @ts-ignore: decorator
@inline function consider(low: i32, high: i32, up: v128, upSquare: v128, down: v128, downSquare: v128): bool {
  const lanes = cutLanes(low, high);
  const upLanes = i32x4.bitmask(f32x4.ge(up, upSquare));
  const downLanes = i32x4.bitmask(f32x4.ge(down, downSquare));
  let rest = (upLanes | downLanes) & lanes;
  if (rest === 0) return true;
  const ratios = f32x4.pmax(f32x4.div(up, upSquare), f32x4.div(down, downSquare));
  rise = max(rise, largestOf(ratios, lanes));
  for (; rest !== 0; rest &= rest - 1) {
    const lane = ctz(rest);
    const which = ((upLanes >> lane) & 1) | (((downLanes >> lane) & 1) << 1);
    if (!note(low, high + lane, which)) return false;
  }
  return true;
}

/** Greatest score seen since the bound was raised, as a multiple of the bound. */
let rise: f32 = 0;

/** Notes the contenders; false when there are too many. `known` is the score of a cut. */
function scan(products: usize, weights: usize, known: f32): bool {
  const total = at(products, 32);
  const upWeight = f32x4.splat(at(weights, 32) * <f32>1.265625);
  const downWeight = f32x4.splat(at(weights, 32) * <f32>0.765625);
  for (let i: usize = 0; i < 144; i += 16) {
    const sums = v128.load(weights + i);
    v128.store(upRows + i, f32x4.mul(sums, f32x4.splat(0.75)));
    v128.store(downRows + i, f32x4.mul(sums, f32x4.splat(1.25)));
  }
  let bound = known * (1 - MARGIN);
  let by: f32 = 1 / sqrt(bound);
  scaleProducts(products, by);
  const scaledTotal = total * by;
  // All values on one level: it does not matter on which.
  if (scaledTotal * scaledTotal >= at(weights, 32) && !note(0, 0, 3)) return false;
  for (let high = 1; high < 32; high += 4) {
    const offset = <usize>high << 2;
    const upSquares = f32x4.sub(upWeight, v128.load(downRows + offset));
    const downSquares = f32x4.sub(downWeight, v128.load(upRows + offset));
    let sums = v128.load(scaled + offset);
    let upProducts = f32x4.sub(f32x4.splat(total * by * <f32>1.125), sums);
    let downProducts = f32x4.sub(f32x4.splat(total * by * <f32>0.875), sums);
    for (let low = 0; low < high + 4; low += 2) {
      const row = <usize>low << 2;
      let sum = v128.load32_splat(scaled + row);
      let up = f32x4.sub(upProducts, sum);
      let down = f32x4.sub(downProducts, sum);
      up = f32x4.mul(up, up);
      down = f32x4.mul(down, down);
      const upSquare = f32x4.add(upSquares, v128.load32_splat(upRows + row));
      const downSquare = f32x4.add(downSquares, v128.load32_splat(downRows + row));
      sum = v128.load32_splat(scaled + row, 4);
      let up2 = f32x4.sub(upProducts, sum);
      let down2 = f32x4.sub(downProducts, sum);
      up2 = f32x4.mul(up2, up2);
      down2 = f32x4.mul(down2, down2);
      const upSquare2 = f32x4.add(upSquares, v128.load32_splat(upRows + row, 4));
      const downSquare2 = f32x4.add(downSquares, v128.load32_splat(downRows + row, 4));
      const hits = v128.or(f32x4.ge(up, upSquare), f32x4.ge(down, downSquare));
      const hits2 = v128.or(f32x4.ge(up2, upSquare2), f32x4.ge(down2, downSquare2));
      if (!v128.any_true(v128.or(hits, hits2))) continue;
      rise = 0;
      if (!consider(low, high, up, upSquare, down, downSquare)) return false;
      if (!consider(low + 1, high, up2, upSquare2, down2, downSquare2)) return false;
      rise *= 1 - MARGIN;
      if (rise > 1) {
        bound *= rise;
        by = <f32>1 / sqrt(bound);
        scaleProducts(products, by);
        sums = v128.load(scaled + offset);
        upProducts = f32x4.sub(f32x4.splat(total * by * <f32>1.125), sums);
        downProducts = f32x4.sub(f32x4.splat(total * by * <f32>0.875), sums);
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

/** Finds the best cut from the running sums of a sub-block. One of the cuts of `guess` should be good. */
export function searchTogether(sums: usize, guess: usize): void {
  const weights = sums + sumsStride(32);
  const known = max(
    scoreOf(sums, weights, guessedLow(guess, 0), guessedHigh(guess, 0)),
    scoreOf(sums, weights, guessedLow(guess, 1), guessedHigh(guess, 1)),
  );
  begin();
  if (!isSafe(known, at(weights, 32)) || !scan(sums, weights, known)) {
    takeAll(sums, weights);
    return;
  }
  for (let i = 0; i < notedCuts(); i++) {
    const cut = notedCut(i);
    takeCut(sums, weights, cut >> 16, (cut >> 8) & 255, cut & 255);
  }
}
