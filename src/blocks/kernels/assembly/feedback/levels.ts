// Grids of groups: see `src/blocks/feedback/levels.ts`.

import { stored } from "../search/halves";
import { MAGIC } from "../rounding";
import * as state from "./state";

/** The group in work: value = scale · level − offset. */
export let scale: v128 = i32x4.splat(0);
export let offset: v128 = i32x4.splat(0);
export let inverse: v128 = i32x4.splat(0);
let shift: v128 = i32x4.splat(0);
let lowest: v128 = i32x4.splat(0);
let highest: v128 = i32x4.splat(0);

/** Scales of codes by the table. */
// @ts-ignore: decorator
@inline function look(codes: v128): v128 {
  const table = state.settings + state.SCALE_TABLE;
  const index = i32x4.shl(i32x4.trunc_sat_f32x4_u(codes), 2);
  let found = v128.load32_zero(table + <usize>i32x4.extract_lane(index, 0));
  found = v128.load32_lane(table + <usize>i32x4.extract_lane(index, 1), found, 1);
  found = v128.load32_lane(table + <usize>i32x4.extract_lane(index, 2), found, 2);
  return v128.load32_lane(table + <usize>i32x4.extract_lane(index, 3), found, 3);
}

/** Scale of a group. */
// @ts-ignore: decorator
@inline export function scaleOf(scale: v128, code: v128): v128 {
  return state.tabled ? look(code) : f32x4.mul(scale, code);
}

/** Takes up a group by the numbers that its type stores. */
export function setGroup(ofScale: v128, ofOffset: v128, zero: v128, scaleCode: v128, offsetCode: v128): void {
  scale = scaleOf(ofScale, scaleCode);
  offset = f32x4.mul(ofOffset, offsetCode);
  const nothing = f32x4.eq(scale, i32x4.splat(0));
  inverse = v128.andnot(f32x4.pmin(f32x4.splat(f32.MAX_VALUE), f32x4.div(f32x4.splat(1), scale)), nothing);
  shift = f32x4.mul(offset, inverse);
  lowest = state.zeroPoints ? f32x4.neg(zero) : f32x4.splat(state.lowest);
  highest = state.zeroPoints ? f32x4.sub(f32x4.splat(state.highest), zero) : f32x4.splat(state.highest);
}

/** Takes up group `g` of the panel. */
export function setGroupOf(at: usize, g: usize): void {
  const b = (g * state.size) / state.values;
  setGroup(
    v128.load(at + state.SCALES + 16 * b),
    v128.load(at + state.OFFSETS + 16 * b),
    v128.load(at + state.ZEROS + 16 * b),
    v128.load(at + state.SCALE_CODES + 16 * g),
    v128.load(at + state.OFFSET_CODES + 16 * g),
  );
}

/** Levels nearest to values. */
// @ts-ignore: decorator
@inline export function levelOf(value: v128, codebook: bool): v128 {
  const units = f32x4.add(f32x4.mul(value, inverse), shift);
  if (!codebook) {
    const within = f32x4.pmax(lowest, f32x4.pmin(highest, units));
    const magic = f32x4.splat(MAGIC);
    return f32x4.sub(f32x4.add(within, magic), magic);
  }
  let level = v128.load32_splat(state.settings + state.LEVEL_TABLE);
  for (let i: usize = 1; i < <usize>state.levelCount; i++) {
    const from = v128.load32_splat(state.settings + state.MIDPOINT_TABLE + 4 * i);
    const own = v128.load32_splat(state.settings + state.LEVEL_TABLE + 4 * i);
    level = v128.bitselect(own, level, f32x4.ge(units, from));
  }
  return level;
}

// @ts-ignore: decorator
@inline export function valueOf(level: v128): v128 {
  return f32x4.sub(f32x4.mul(scale, level), offset);
}

/** Stores the values of some levels of the group. */
export function storeValues(levels: usize, to: usize, count: usize): void {
  for (let at: usize = 0; at < 16 * count; at += 16) v128.store(to + at, valueOf(v128.load(levels + at)));
}

/** Scales of blocks as halves store them, within what the type allows. */
// @ts-ignore: decorator
@inline export function allowedScale(scale: v128): v128 {
  return stored(f32x4.pmax(f32x4.splat(state.leastScale), scale));
}

// @ts-ignore: decorator
@inline export function allowedOffset(offset: v128): v128 {
  return stored(f32x4.pmax(f32x4.splat(state.leastOffset), offset));
}
