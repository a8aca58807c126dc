// The 16 uneven levels of IQ4_NL and IQ4_XS and which of them is nearest to a number.
//
// The midpoints between levels are halves of integers, so the nearest level of v follows from floor(2v), exactly:
// a table holds it for each. Ties go to the upper level. ggml compares the float32 differences to both neighbours
// instead; they are exact wherever the comparison is close, so that this is the same.

import { MAGIC } from "../rounding";

const values: usize = memory.data<i8>([
  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
]);

/** Numbers that are looked up are within these bounds, at most a last digit beyond. */
export const REACH: f32 = 134;
/** Place of floor(2v) = 0 in the tables. */
const ZERO: i32 = 272;
const ENTRIES: i32 = 2 * 272;

/** Level and index for each floor(2v). */
const levelTable: usize = memory.data(4 * 2 * 272, 16);
const indexTable: usize = memory.data(2 * 272, 16);

for (let i = 0, index = 0; i < ENTRIES; i++) {
  // Twice the midpoint above this level is the sum of both.
  while (
    index < 15 &&
    i - ZERO >= <i32>load<i8>(values + <usize>index) + <i32>load<i8>(values + <usize>index, 1)
  ) {
    index++;
  }
  store<f32>(levelTable + 4 * <usize>i, <f32>load<i8>(values + <usize>index));
  store<u8>(indexTable + <usize>i, index);
}

/** floor(2v) of four numbers in the low bits of what has those of `MAGIC` above them. */
// @ts-ignore: decorator
@inline function places(v: v128): v128 {
  return f32x4.add(f32x4.floor(f32x4.add(v, v)), f32x4.splat(MAGIC));
}

/** The bits of `MAGIC`. */
const ORIGIN: i32 = 0x4b400000;

/** Where the level for a place is. */
// @ts-ignore: decorator
@inline function levelAt(place: i32): usize {
  return levelTable + <usize>((place - (ORIGIN - ZERO)) << 2);
}

/** Nearest levels of four numbers. */
// @ts-ignore: decorator
@inline export function levelsOf(v: v128): v128 {
  const at = places(v);
  let four = v128.load32_zero(levelAt(i32x4.extract_lane(at, 0)));
  four = v128.load_lane<u32>(levelAt(i32x4.extract_lane(at, 1)), four, 1);
  four = v128.load_lane<u32>(levelAt(i32x4.extract_lane(at, 2)), four, 2);
  return v128.load_lane<u32>(levelAt(i32x4.extract_lane(at, 3)), four, 3);
}

/** Index of the level for a place. */
// @ts-ignore: decorator
@inline function indexFor(place: i32): u32 {
  return load<u8>(indexTable + <usize>(place - (ORIGIN - ZERO)));
}

/** Indices of the levels nearest to four values times an inverse scale, in the low nibbles of four bytes. */
// @ts-ignore: decorator
@inline export function indices(values: usize, inverse: v128): u32 {
  const v = f32x4.mul(v128.load(values), inverse);
  const at = places(f32x4.pmax(f32x4.pmin(v, f32x4.splat(REACH)), f32x4.splat(-REACH)));
  const low = indexFor(i32x4.extract_lane(at, 0)) | (indexFor(i32x4.extract_lane(at, 1)) << 8);
  return low | (indexFor(i32x4.extract_lane(at, 2)) << 16) | (indexFor(i32x4.extract_lane(at, 3)) << 24);
}
