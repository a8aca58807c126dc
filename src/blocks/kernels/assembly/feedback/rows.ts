// Four rows of a panel, from their targets to their errors: see `src/blocks/feedback/reference.ts`.

import { turn4, turnRows } from "../turn";
import { descend } from "./descent";
import { gather } from "./gather";
import * as state from "./state";
import { added4, errors4, lanes, misses4, STATE, STORED, targets4, values4 } from "./state";

/** The rows while descent changes them. */
const working: usize = memory.data(5 * 256 + 2 * 4096, 16);

let loss: v128 = i32x4.splat(0);

/** A·D and the curvatures of the columns: see `src/blocks/feedback/metric.ts`. */
export function prepareMetric(): void {
  const width = state.width;
  for (let j: usize = 0; j < width; j++) {
    let curvature: f32 = 0;
    for (let k = j; k < width; k++) {
      const at: usize = 4 * (j * width + k);
      const factor = load<f32>(state.factorAt + at);
      const both = factor * load<f32>(state.pivotsAt + 4 * k);
      store<f32>(state.weightedAt + at, both);
      curvature += factor * both;
      if ((k & 7) == 7 && k < j + 8) store<f32>(state.eightsAt + 4 * j, curvature);
    }
    store<f32>(state.curvaturesAt + 4 * j, curvature);
    store<f32>(state.inversesAt + 4 * j, curvature > 0 ? 1 / curvature : 0);
  }
}

/** Reads the four rows of a matrix from row `first` on. */
// @ts-ignore: decorator
@inline function read(matrix: usize, first: usize, to: usize): void {
  const row: usize = 4 * state.width;
  turnRows(matrix + first * row, row, state.width, to);
}

/** Writes four rows of a matrix. */
// @ts-ignore: decorator
@inline function write(from: usize, matrix: usize, first: usize): void {
  const row: usize = 4 * state.width;
  const to = matrix + first * row;
  for (let j: usize = 0; j < state.width; j += 4) {
    const at = from + 16 * j;
    turn4(v128.load(at), v128.load(at, 16), v128.load(at, 32), v128.load(at, 48), to + 4 * j, row);
  }
}

/** Adds what the errors of the rows before make, four columns at a time. */
// @ts-ignore: decorator
@inline function addRows(first: usize): void {
  const row: usize = 4 * state.width;
  const step: usize = 4 * state.rows;
  for (let j: usize = 0; j < state.width; j += 4) {
    const sums = added4 + 16 * j;
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let c = v128.load(sums, 32);
    let d = v128.load(sums, 48);
    let by = state.rowFactorAt + 4 * first;
    let at = state.errorsAt + 4 * j;
    for (let r: usize = 0; r < first; r++) {
      const own = v128.load(by);
      a = f32x4.add(a, f32x4.mul(own, v128.load32_splat(at)));
      b = f32x4.add(b, f32x4.mul(own, v128.load32_splat(at + 4)));
      c = f32x4.add(c, f32x4.mul(own, v128.load32_splat(at + 8)));
      d = f32x4.add(d, f32x4.mul(own, v128.load32_splat(at + 12)));
      by += step;
      at += row;
    }
    v128.store(sums, a);
    v128.store(sums, b, 16);
    v128.store(sums, c, 32);
    v128.store(sums, d, 48);
  }
}

export function beginRows(first: usize): void {
  read(state.valuesAt, first, values4);
  read(state.addedAt, first, added4);
  read(state.carriedAt, first, targets4);
  if (state.rowFeedback) addRows(first);
  for (let at: usize = 0; at < 16 * state.width; at += 16) {
    const sum = f32x4.add(v128.load(values4 + at), v128.load(targets4 + at));
    v128.store(targets4 + at, f32x4.add(sum, v128.load(added4 + at)));
  }
}

/** Puts the targets of a block, row by row, and four times its pivots where the search reads them. */
export function placeBlock(b: usize, reach: f32, x: usize, weights: usize): void {
  const values = state.values;
  const most = f32x4.splat(reach);
  const least = f32x4.neg(most);
  for (let j: usize = 0; j < values; j += 4) {
    const at = targets4 + 16 * (b * values + j);
    turn4(
      f32x4.pmax(least, f32x4.pmin(most, v128.load(at))),
      f32x4.pmax(least, f32x4.pmin(most, v128.load(at, 16))),
      f32x4.pmax(least, f32x4.pmin(most, v128.load(at, 32))),
      f32x4.pmax(least, f32x4.pmin(most, v128.load(at, 48))),
      x + 4 * j,
      4 * values,
    );
  }
  for (let lane: usize = 0; lane < 4; lane++) {
    memory.copy(weights + 4 * lane * values, state.pivotsAt + 4 * b * values, 4 * values);
  }
}

// @ts-ignore: decorator
@inline function errorsOf(row: usize, from: usize, count: usize): void {
  for (let at: usize = 16 * from; at < 16 * (from + count); at += 16) {
    v128.store(errors4 + at, f32x4.sub(v128.load(values4 + at), v128.load(row + STORED + at)));
  }
}

/** Adds what the errors of a block make to the targets of the columns behind it. */
export function takeBlock(b: usize): void {
  const from = b * state.values;
  const end = from + state.values;
  errorsOf(lanes, from, state.values);
  gather(errors4 + 16 * from, from, state.values, end, state.width, targets4 + 16 * end);
}

/** Makes E·A (in `targets4`), V and the loss of the rows of a state. */
function close(row: usize, first: usize): void {
  errorsOf(row, 0, state.width);
  read(state.carriedAt, first, targets4);
  gather(errors4, 0, state.width, 0, state.width, targets4);
  loss = i32x4.splat(0);
  for (let j: usize = 0; j < state.width; j++) {
    const miss = f32x4.add(v128.load(targets4 + 16 * j), v128.load(added4 + 16 * j));
    v128.store(misses4 + 16 * j, miss);
    loss = f32x4.add(loss, f32x4.mul(f32x4.mul(v128.load32_splat(state.pivotsAt + 4 * j), miss), miss));
  }
}

export function endRows(first: usize): void {
  close(lanes, first);
  if (state.sweeps > 0) {
    const before = loss;
    memory.copy(working, lanes, STATE);
    descend(working);
    close(working, first);
    const better = f32x4.lt(loss, before);
    for (let at: usize = 0; at < STATE; at += 16) {
      v128.store(lanes + at, v128.bitselect(v128.load(working + at), v128.load(lanes + at), better));
    }
    if (!i32x4.all_true(better)) close(lanes, first);
  }
  write(targets4, state.errorsAt, first);
  write(lanes + STORED, state.storedAt, first);
  v128.store(state.lossesAt + 4 * first, loss);
}
