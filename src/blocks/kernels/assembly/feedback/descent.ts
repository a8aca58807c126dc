// Coordinate descent on four rows of a panel: see `src/blocks/feedback/descent.ts`.

import { byOffset, byScale, fit, fitOffset, fitParts, fitScale } from "./fit";
import { influence } from "./gather";
import { allowedOffset, allowedScale, levelOf, offset, scale, scaleOf, setGroupOf, storeValues, valueOf } from "./levels";
import { placed, placeEight, pointWidth, SOLVERS, tables } from "./points";
import * as state from "./state";
import { LEVELS, misses4, OFFSET_CODES, OFFSETS, SCALE_CODES, SCALES, STORED } from "./state";

/** Parts of a group's values that a code multiplies, and what V changes by with it. */
const parts: usize = memory.data(4096, 16);
const by: usize = memory.data(4096, 16);

/** Σ_k V_k·A_jk·D_k over the columns from j on, in four sums. */
// @ts-ignore: decorator
@inline function pullOf(j: usize): v128 {
  const width = state.width;
  const weighted = state.weightedAt + 4 * j * width;
  let a = i32x4.splat(0);
  let b = a;
  let c = a;
  let d = a;
  let k = j;
  for (; k + 4 <= width; k += 4) {
    const miss = misses4 + 16 * k;
    const at = weighted + 4 * k;
    a = f32x4.add(a, f32x4.mul(v128.load32_splat(at), v128.load(miss)));
    b = f32x4.add(b, f32x4.mul(v128.load32_splat(at + 4), v128.load(miss, 16)));
    c = f32x4.add(c, f32x4.mul(v128.load32_splat(at + 8), v128.load(miss, 32)));
    d = f32x4.add(d, f32x4.mul(v128.load32_splat(at + 12), v128.load(miss, 48)));
  }
  const miss = misses4 + 16 * k;
  const at = weighted + 4 * k;
  if (k < width) a = f32x4.add(a, f32x4.mul(v128.load32_splat(at), v128.load(miss)));
  if (k + 1 < width) b = f32x4.add(b, f32x4.mul(v128.load32_splat(at + 4), v128.load(miss, 16)));
  if (k + 2 < width) c = f32x4.add(c, f32x4.mul(v128.load32_splat(at + 8), v128.load(miss, 32)));
  return f32x4.add(f32x4.add(a, c), f32x4.add(b, d));
}

/** Moves every level to the place that is best beside the others. */
// @ts-ignore: decorator
@inline function moveLevels(row: usize, codebook: bool): void {
  const width = state.width;
  for (let j: usize = 0; j < width; j++) {
    if (j % state.size == 0) setGroupOf(row, j / state.size);
    const before = v128.load(row + STORED + 16 * j);
    const inverse = v128.load32_splat(state.inversesAt + 4 * j);
    const level = levelOf(f32x4.add(before, f32x4.mul(pullOf(j), inverse)), codebook);
    const value = valueOf(level);
    const moved = f32x4.sub(value, before);
    v128.store(row + LEVELS + 16 * j, level);
    v128.store(row + STORED + 16 * j, value);
    if (!v128.any_true(f32x4.ne(moved, i32x4.splat(0)))) continue;
    let at = state.factorAt + 4 * (j * width + j);
    for (let miss = misses4 + 16 * j; miss < misses4 + 16 * width; miss += 16) {
      v128.store(miss, f32x4.sub(v128.load(miss), f32x4.mul(moved, v128.load32_splat(at))));
      at += 4;
    }
  }
}

/** Values that are best for eight columns beside the others, and the changes of what is stored. */
const best: usize = memory.data(8 * 16, 16);
const changes: usize = memory.data(8 * 16, 16);

/** Moves every eight values to the point that is nearest to what is best beside the others, where that helps. */
function movePoints(row: usize): void {
  const width = state.width;
  for (let j: usize = 0; j < width; j += 8) {
    const g = j / state.size;
    setGroupOf(row, g);
    memory.copy(best, row + STORED + 16 * j, 128);
    for (let b: usize = 0; b < 8; b++) {
      const pull = pullOf(j + b);
      const solver = tables + SOLVERS + 32 * (j + b);
      for (let a: usize = 0; a < 8; a++) {
        const own = v128.load(best + 16 * a);
        v128.store(best + 16 * a, f32x4.add(own, f32x4.mul(pull, v128.load32_splat(solver + 4 * a))));
      }
    }
    placeEight(best, state.curvaturesAt + 4 * j, v128.load(row + OFFSET_CODES + 16 * g));
    for (let k: usize = 0; k < 8; k++) {
      const value = valueOf(v128.load(placed + 16 * k));
      v128.store(best + 16 * k, value);
      v128.store(changes + 16 * k, f32x4.sub(value, v128.load(row + STORED + 16 * (j + k))));
    }
    influence(changes, j, 8, width, by);
    let gain = i32x4.splat(0);
    for (let k: usize = 0; k < width - j; k++) {
      const moved = v128.load(by + 16 * k);
      const miss = v128.load(misses4 + 16 * (j + k));
      const twice = f32x4.sub(f32x4.add(miss, miss), moved);
      const pivot = v128.load32_splat(state.pivotsAt + 4 * (j + k));
      gain = f32x4.add(gain, f32x4.mul(f32x4.mul(pivot, moved), twice));
    }
    const better = f32x4.gt(gain, i32x4.splat(0));
    if (!v128.any_true(better)) continue;
    for (let k: usize = 0; k < 8; k++) {
      const level = row + LEVELS + 16 * (j + k);
      const value = row + STORED + 16 * (j + k);
      v128.store(level, v128.bitselect(v128.load(placed + 16 * k), v128.load(level), better));
      v128.store(value, v128.bitselect(v128.load(best + 16 * k), v128.load(value), better));
    }
    move(j, by, v128.and(f32x4.splat(1), better));
  }
}

/** Takes what a change of the stored values adds away from the misses. */
// @ts-ignore: decorator
@inline function move(from: usize, influences: usize, change: v128): void {
  for (let at: usize = 0; at < 16 * (state.width - from); at += 16) {
    const miss = misses4 + 16 * from + at;
    v128.store(miss, f32x4.sub(v128.load(miss), f32x4.mul(change, v128.load(influences + at))));
  }
}

/** By how much the loss falls with a change of an amount. */
// @ts-ignore: decorator
@inline function gainOf(change: v128, product: v128, square: v128): v128 {
  return f32x4.mul(change, f32x4.sub(f32x4.add(product, product), f32x4.mul(change, square)));
}

/** Moves the codes of groups by one step where that helps, and the values of the group with them. */
function moveCodes(row: usize, ofScale: bool): void {
  const size = state.size;
  const lowest = f32x4.splat(ofScale ? state.lowestScaleCode : state.lowestOffsetCode);
  const highest = f32x4.splat(ofScale ? state.highestScaleCode : state.highestOffsetCode);
  const codes = row + (ofScale ? SCALE_CODES : OFFSET_CODES);
  for (let at: usize = 0; at < 16 * size; at += 16) v128.store(parts + at, f32x4.splat(-1));
  for (let g: usize = 0; g < state.width / size; g++) {
    const from = g * size;
    influence(ofScale ? row + LEVELS + 16 * from : parts, from, size, state.width, by);
    let square = i32x4.splat(0);
    let product = square;
    for (let j: usize = 0; j < state.width - from; j++) {
      const own = v128.load(by + 16 * j);
      const weighted = f32x4.mul(v128.load32_splat(state.pivotsAt + 4 * (from + j)), own);
      square = f32x4.add(square, f32x4.mul(weighted, own));
      product = f32x4.add(product, f32x4.mul(weighted, v128.load(misses4 + 16 * (from + j))));
    }
    setGroupOf(row, g);
    const b = from / state.values;
    const amount = ofScale ? scale : offset;
    const code = v128.load(codes + 16 * g);
    let best = code;
    let change = i32x4.splat(0);
    let most = change;
    // Codes of lattice types are odd multiples of the least one.
    const apart: f32 = pointWidth > 0 ? 2 * state.lowestScaleCode : 1;
    for (let step = -apart; step <= apart; step += 2 * apart) {
      const other = f32x4.pmax(lowest, f32x4.pmin(highest, f32x4.add(code, f32x4.splat(step))));
      const own = ofScale
        ? scaleOf(v128.load(row + SCALES + 16 * b), other)
        : f32x4.mul(v128.load(row + OFFSETS + 16 * b), other);
      const tried = f32x4.sub(own, amount);
      const gain = gainOf(tried, product, square);
      const better = f32x4.gt(gain, most);
      most = v128.bitselect(gain, most, better);
      change = v128.bitselect(tried, change, better);
      best = v128.bitselect(other, best, better);
    }
    v128.store(codes + 16 * g, best);
    move(from, by, change);
    setGroupOf(row, g);
    storeValues(row + LEVELS + 16 * from, row + STORED + 16 * from, size);
  }
}

/** Fits the halves of every block to its levels. */
function moveHalves(row: usize): void {
  const values = state.values;
  const groups = values / state.size;
  for (let b: usize = 0; b < state.width / values; b++) {
    const from = b * values;
    const first = b * groups;
    fitParts(row + LEVELS + 16 * from, row + SCALE_CODES + 16 * first, row + OFFSET_CODES + 16 * first);
    fit(from, state.width, misses4 + 16 * from);
    const scaleAt = row + SCALES + 16 * b;
    const grown = allowedScale(f32x4.add(v128.load(scaleAt), fitScale));
    move(from, byScale, f32x4.sub(grown, v128.load(scaleAt)));
    v128.store(scaleAt, grown);
    if (state.hasOffset) {
      const offsetAt = row + OFFSETS + 16 * b;
      const other = allowedOffset(f32x4.add(v128.load(offsetAt), fitOffset));
      move(from, byOffset, f32x4.sub(v128.load(offsetAt), other));
      v128.store(offsetAt, other);
    }
    for (let g = first; g < first + groups; g++) {
      setGroupOf(row, g);
      const at: usize = 16 * g * state.size;
      storeValues(row + LEVELS + at, row + STORED + at, state.size);
    }
  }
}

/** Descends on the rows of a state; `misses4` are kept up to date but for rounding. */
export function descend(row: usize): void {
  for (let sweep = 0; sweep < state.sweeps; sweep++) {
    if (pointWidth > 0) movePoints(row);
    else if (state.levelCount == 0) moveLevels(row, false);
    else moveLevels(row, true);
    if (state.scaleCodes) moveCodes(row, true);
    if (state.offsetCodes) moveCodes(row, false);
    if (!state.tabled) moveHalves(row);
  }
}
