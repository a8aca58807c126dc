// Rounds a block of four rows with feedback among its own columns: see `src/blocks/feedback/block.ts`.

import { fitOffset, fitParts, fitScale, fit } from "./fit";
import { gather } from "./gather";
import { allowedOffset, allowedScale, levelOf, setGroup, valueOf } from "./levels";
import { placed, placeEight, pointWidth } from "./points";
import * as state from "./state";
import { DRAFT, LEVELS, LOSS, MISSES, OFFSET_CODES, OFFSETS, SCALE_CODES, SCALES, STATE, STORED, ZEROS } from "./state";

/** The draft that is the best so far, and another one. */
const best: usize = memory.data(5 * 256 + 3 * 4096 + 16, 16);
const tried: usize = memory.data(5 * 256 + 3 * 4096 + 16, 16);

/** What the columns of the block are to be rounded to, and those of the group in work. */
const fed: usize = memory.data(4096, 16);
const fedGroup: usize = memory.data(4096, 16);

/** Levels, stored values and misses of a group by the last trial, and by the best. */
const FIELD: usize = 4096;
const group: usize = memory.data(3 * 4096, 16);
const bestGroup: usize = memory.data(3 * 4096, 16);

/** Numbers of the group: unchanged, and by the last trial. */
let baseScale: v128 = i32x4.splat(0);
let baseOffset: v128 = i32x4.splat(0);
let baseZero: v128 = i32x4.splat(0);
let baseScaleCode: v128 = i32x4.splat(0);
let baseOffsetCode: v128 = i32x4.splat(0);
let ownScale: v128 = i32x4.splat(0);
let ownOffset: v128 = i32x4.splat(0);
let ownZero: v128 = i32x4.splat(0);
let ownScaleCode: v128 = i32x4.splat(0);
let ownOffsetCode: v128 = i32x4.splat(0);

// @ts-ignore: decorator
@inline function clamp(value: v128, lowest: f32, highest: f32): v128 {
  return f32x4.pmax(f32x4.splat(lowest), f32x4.pmin(f32x4.splat(highest), value));
}

/** Changes the numbers of the group by a trial, within what the type can store. */
// @ts-ignore: decorator
@inline function change(trial: i32): void {
  const at = state.settings + state.TRIAL_TABLE + 16 * <usize>trial;
  const byScale = load<f32>(at);
  const byZero = load<f32>(at, 8);
  ownScale = baseScale;
  ownOffset = baseOffset;
  ownZero = baseZero;
  ownScaleCode = baseScaleCode;
  ownOffsetCode = baseOffsetCode;
  if (state.scaleCodes) {
    const code = f32x4.add(baseScaleCode, f32x4.splat(byScale));
    ownScaleCode = clamp(code, state.lowestScaleCode, state.highestScaleCode);
    if (!state.offsetCodes) return;
    const other = f32x4.add(baseOffsetCode, v128.load32_splat(at + 4));
    ownOffsetCode = clamp(other, state.lowestOffsetCode, state.highestOffsetCode);
  } else if (byZero != 0) {
    ownZero = clamp(f32x4.add(baseZero, f32x4.splat(byZero)), 0, state.highest);
  } else if (byScale != 0) {
    ownScale = allowedScale(f32x4.mul(baseScale, v128.load32_splat(at + 12)));
    if (!state.hasOffset) return;
    const middle: f32 = (state.lowest + state.highest) / 2;
    const moved = f32x4.mul(f32x4.sub(baseScale, ownScale), f32x4.splat(middle));
    ownOffset = allowedOffset(f32x4.add(baseOffset, moved));
  }
}

/** How levels are chosen. */
const WHOLE = 0;
const CODEBOOK = 1;
const POINTS = 2;

/** What eight columns are to be rounded to together: each as if those before it were not rounded. */
const wanted: usize = memory.data(8 * 16, 16);

/** Finds levels for the eight columns from column `at` of the group on, which is column `j` of the panel. */
function place(at: usize, j: usize): void {
  memory.copy(wanted, fedGroup + 16 * at, 128);
  const row: usize = 4 * state.width;
  for (let a: usize = 0; a < 8; a++) {
    const rest = f32x4.sub(v128.load(state.values4 + 16 * (j + a)), v128.load(wanted + 16 * a));
    const factor = state.factorAt + (j + a) * row + 4 * j;
    for (let b = a + 1; b < 8; b++) {
      const own = v128.load(wanted + 16 * b);
      v128.store(wanted + 16 * b, f32x4.add(own, f32x4.mul(rest, v128.load32_splat(factor + 4 * b))));
    }
  }
  placeEight(wanted, state.eightsAt + 4 * j, ownOffsetCode);
}

/** Rounds the columns of the group one by one; returns their loss. `first` is its first column in the panel. */
// @ts-ignore: decorator
@inline function roundGroup(first: usize, targets: usize, kind: i32): v128 {
  const size = state.size;
  memory.copy(fedGroup, targets, 16 * size);
  const ofValues = state.values4 + 16 * first;
  const ofPivots = state.pivotsAt + 4 * first;
  const row: usize = 4 * state.width;
  let diagonal = state.factorAt + first * row + 4 * first;
  let loss = i32x4.splat(0);
  for (let j: usize = 0; j < size; j++) {
    const target = v128.load(fedGroup + 16 * j);
    if (kind == POINTS && (j & 7) == 0) place(j, first + j);
    const level = kind == POINTS ? v128.load(placed + 16 * (j & 7)) : levelOf(target, kind == CODEBOOK);
    const value = valueOf(level);
    const miss = f32x4.sub(target, value);
    v128.store(group + 16 * j, level);
    v128.store(group + 16 * j, value, FIELD);
    v128.store(group + 16 * j, miss, 2 * FIELD);
    loss = f32x4.add(loss, f32x4.mul(f32x4.mul(v128.load32_splat(ofPivots + 4 * j), miss), miss));
    const error = f32x4.sub(v128.load(ofValues + 16 * j), value);
    let at = diagonal + 4;
    for (let fed = fedGroup + 16 * (j + 1); fed < fedGroup + 16 * size; fed += 16) {
      v128.store(fed, f32x4.add(v128.load(fed), f32x4.mul(error, v128.load32_splat(at))));
      at += 4;
    }
    diagonal += row + 4;
  }
  return loss;
}

/** Takes what the last trial made of the group over, where that is better. */
// @ts-ignore: decorator
@inline function keep(better: v128): void {
  const bytes: usize = 16 * state.size;
  for (let field: usize = 0; field < 3 * FIELD; field += FIELD) {
    for (let at = field; at < field + bytes; at += 16) {
      v128.store(bestGroup + at, v128.bitselect(v128.load(group + at), v128.load(bestGroup + at), better));
    }
  }
}

/** Rounds a block into `tried`, whose scales and codes are where it begins; each group takes its best trial. */
function attempt(from: usize): void {
  const size = state.size;
  const count = state.values;
  memory.copy(fed, state.targets4 + 16 * from, 16 * count);
  let loss = i32x4.splat(0);
  for (let g: usize = 0; g < count / size; g++) {
    const start = g * size;
    baseScale = v128.load(tried + SCALES);
    baseOffset = v128.load(tried + OFFSETS);
    baseZero = v128.load(tried + ZEROS);
    baseScaleCode = v128.load(tried + SCALE_CODES + 16 * g);
    baseOffsetCode = v128.load(tried + OFFSET_CODES + 16 * g);
    let scale = baseScale;
    let offset = baseOffset;
    let zero = baseZero;
    let scaleCode = baseScaleCode;
    let offsetCode = baseOffsetCode;
    let least = i32x4.splat(0);
    for (let trial = 0; trial < state.trials; trial++) {
      change(trial);
      setGroup(ownScale, ownOffset, ownZero, ownScaleCode, ownOffsetCode);
      const first = from + start;
      const targets = fed + 16 * start;
      const own =
        pointWidth > 0
          ? roundGroup(first, targets, POINTS)
          : state.levelCount == 0
            ? roundGroup(first, targets, WHOLE)
            : roundGroup(first, targets, CODEBOOK);
      if (trial == 0) {
        least = own;
        for (let field: usize = 0; field < 3 * FIELD; field += FIELD) {
          memory.copy(bestGroup + field, group + field, 16 * size);
        }
        continue;
      }
      const better = f32x4.lt(own, least);
      if (!v128.any_true(better)) continue;
      keep(better);
      least = v128.bitselect(own, least, better);
      scale = v128.bitselect(ownScale, scale, better);
      offset = v128.bitselect(ownOffset, offset, better);
      zero = v128.bitselect(ownZero, zero, better);
      scaleCode = v128.bitselect(ownScaleCode, scaleCode, better);
      offsetCode = v128.bitselect(ownOffsetCode, offsetCode, better);
    }
    v128.store(tried + SCALES, scale);
    v128.store(tried + OFFSETS, offset);
    v128.store(tried + ZEROS, zero);
    v128.store(tried + SCALE_CODES + 16 * g, scaleCode);
    v128.store(tried + OFFSET_CODES + 16 * g, offsetCode);
    memory.copy(tried + LEVELS + 16 * start, bestGroup, 16 * size);
    memory.copy(tried + STORED + 16 * start, bestGroup + FIELD, 16 * size);
    memory.copy(tried + MISSES + 16 * start, bestGroup + 2 * FIELD, 16 * size);
    loss = f32x4.add(loss, least);
    // The errors go where the levels of the last trial were.
    for (let at: usize = 0; at < 16 * size; at += 16) {
      const value = v128.load(state.values4 + 16 * (from + start) + at);
      v128.store(group + at, f32x4.sub(value, v128.load(bestGroup + at, FIELD)));
    }
    const next = start + size;
    gather(group, from + start, size, from + next, from + count, fed + 16 * next);
  }
  v128.store(tried + LOSS, loss);
}

/** Copies a block's scales and codes, `block` and `g` being the numbers of the block and of its first group. */
// @ts-ignore: decorator
@inline function copyNumbers(from: usize, fromBlock: usize, fromGroup: usize, to: usize, block: usize, g: usize): void {
  const codes: usize = 16 * (state.values / state.size);
  memory.copy(to + SCALES + 16 * block, from + SCALES + 16 * fromBlock, 16);
  memory.copy(to + OFFSETS + 16 * block, from + OFFSETS + 16 * fromBlock, 16);
  memory.copy(to + ZEROS + 16 * block, from + ZEROS + 16 * fromBlock, 16);
  memory.copy(to + SCALE_CODES + 16 * g, from + SCALE_CODES + 16 * fromGroup, codes);
  memory.copy(to + OFFSET_CODES + 16 * g, from + OFFSET_CODES + 16 * fromGroup, codes);
}

/** Puts the halves that suit the levels of the best draft into the other one, with its codes. */
// @ts-ignore: decorator
@inline function refit(from: usize): void {
  copyNumbers(best, 0, 0, tried, 0, 0);
  if (state.tabled) return;
  fitParts(best + LEVELS, best + SCALE_CODES, best + OFFSET_CODES);
  fit(from, from + state.values, best + MISSES);
  v128.store(tried + SCALES, allowedScale(f32x4.add(v128.load(best + SCALES), fitScale)));
  if (!state.hasOffset) return;
  v128.store(tried + OFFSETS, allowedOffset(f32x4.add(v128.load(best + OFFSETS), fitOffset)));
}

/** Rounds block `b` of the panel; its scales and codes are in `lanes`, and everything about it is then. */
export function roundBlock(b: usize): void {
  const from = b * state.values;
  const g = from / state.size;
  copyNumbers(state.lanes, b, g, tried, 0, 0);
  attempt(from);
  memory.copy(best, tried, DRAFT);
  for (let pass = 0; pass < state.refits; pass++) {
    refit(from);
    attempt(from);
    const better = f32x4.lt(v128.load(tried + LOSS), v128.load(best + LOSS));
    if (!v128.any_true(better)) continue;
    for (let at: usize = 0; at < DRAFT; at += 16) {
      v128.store(best + at, v128.bitselect(v128.load(tried + at), v128.load(best + at), better));
    }
  }
  copyNumbers(best, 0, 0, state.lanes, b, g);
  memory.copy(state.lanes + LEVELS + 16 * from, best + LEVELS, 16 * state.values);
  memory.copy(state.lanes + STORED + 16 * from, best + STORED, 16 * state.values);
}
