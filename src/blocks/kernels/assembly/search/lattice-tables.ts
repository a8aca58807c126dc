// The points of a grid around each code: a fixed number, the nearest first and among equally near ones those of
// lower index. See `lattice-place.ts` for the bytes of their slots.

import { base, digitOf, isEight, latticeBytesOf, measure, nearestFirst, pointsOf, useTables } from "../lattice/tables";

/** Points in a list. */
export const CANDIDATES: i32 = 32;
const LIST: usize = 64 * 2;

/** Lists whose tables are made, as bits by target. */
let made: i32 = 0;
/** Lists of the current target, and the points behind them. */
let lists: usize = 0;
let indices: usize = 0;

/** Bytes of the tables of a target. */
export function candidateBytes(target: i32): i32 {
  return (isEight(target) ? 6561 : 4096) * (64 + 32) * (CANDIDATES / 16);
}

// @ts-ignore: decorator
@inline export function candidatesOf(code: i32): usize {
  return lists + LIST * <usize>code;
}

// @ts-ignore: decorator
@inline export function pointOf(code: i32, place: i32): i32 {
  return load<u16>(indices + 2 * <usize>(code * CANDIDATES + place));
}

/** The byte of a slot of a point. */
function slotOf(target: i32, point: i32, slot: i32): i32 {
  if (!isEight(target)) return digitOf(target, load<u8>(base + 4 * point + slot));
  const at = base + 8 * point + 2 * slot;
  return digitOf(target, load<u8>(at)) + 4 * digitOf(target, load<u8>(at, 1));
}

/** Makes the tables of a target the current ones; at first use they are computed. */
export function useCandidates(target: i32): void {
  useTables(target);
  const eight = isEight(target);
  const codes = eight ? 6561 : 4096;
  lists = base + latticeBytesOf(target);
  indices = lists + LIST * <usize>codes;
  if (((made >> target) & 1) !== 0) return;
  made |= 1 << target;
  for (let code = 0; code < codes; code++) {
    const own = indices + 2 * <usize>(code * CANDIDATES);
    measure(code, eight ? 8 : 4, eight ? 3 : 8, pointsOf(target));
    nearestFirst(own, CANDIDATES, pointsOf(target));
    for (let i = 0; i < CANDIDATES; i++) {
      const point = <i32>load<u16>(own + 2 * i);
      const to = candidatesOf(code) + 64 * (i >> 4) + (i & 15);
      for (let slot = 0; slot < 4; slot++) store<u8>(to + 16 * slot, slotOf(target, point, slot));
    }
  }
}
