// What is known of the sub-blocks of up to 16 blocks, between the steps of their encoding. Four blocks lie beside
// each other, so that what is chosen for all of a block can take blocks as lanes.

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
export const MAGIC: f32 = 12582912;

/** Seven fields of 16 sub-blocks by 16 blocks and three of 16 blocks, 4 bytes a number. */
export const fields: usize = memory.data(7 * 1024 + 3 * 64, 16);

/** From a sub-block to the next, and from a block to the next. */
export const FIELD_STEP: usize = 64;
export const BLOCK_STEP: usize = 4;

/** Scale, minimum and sum of the weights. */
export const SCALES: usize = 0;
export const MINIMUMS: usize = 1024;
export const SUMS: usize = 2 * 1024;
/** The levels that the search ended at: value minus this, times the inverse scale, rounded. */
export const FROMS: usize = 3 * 1024;
export const INVERSES: usize = 4 * 1024;
/** Levels of the scales and minimums, i32, as ggml holds them in bytes. */
export const SCALE_LEVELS: usize = 5 * 1024;
export const MINIMUM_LEVELS: usize = 6 * 1024;
/** Of blocks: the halves that these levels multiply, and the mean square of the values. */
export const SCALE_HALVES: usize = 7 * 1024;
export const MINIMUM_HALVES: usize = 7 * 1024 + 64;
export const MEAN_SQUARES: usize = 7 * 1024 + 128;

/** Four nearest integers as ggml takes them: beyond 2^22 a fixed bit pattern of the argument, 0 for NaN. */
// @ts-ignore: decorator
@inline export function nearestOf(values: v128): v128 {
  const bits = v128.and(f32x4.add(values, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  return i32x4.sub(bits, i32x4.splat(0x400000));
}
