// Rows that become lanes: vector j holds value j of four rows.

/** Stores four vectors transposed, `step` bytes apart. */
// @ts-ignore: decorator
@inline export function turn4(a: v128, b: v128, c: v128, d: v128, to: usize, step: usize): void {
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<i64>(ab, cd, 0, 2));
  v128.store(to + step, v128.shuffle<i64>(ab, cd, 1, 3));
  v128.store(to + 2 * step, v128.shuffle<i64>(ab2, cd2, 0, 2));
  v128.store(to + 3 * step, v128.shuffle<i64>(ab2, cd2, 1, 3));
}

/** Stores four values of each of four rows that lie `stride` bytes apart, lanes by row and `step` bytes apart. */
// @ts-ignore: decorator
@inline export function turnFour(rows: usize, stride: usize, to: usize, step: usize): void {
  turn4(
    v128.load(rows),
    v128.load(rows + stride),
    v128.load(rows + 2 * stride),
    v128.load(rows + 3 * stride),
    to,
    step,
  );
}

/** Stores the first `values` values of four rows, lanes by row; a multiple of 4. */
// @ts-ignore: decorator
@inline export function turn(a: usize, b: usize, c: usize, d: usize, values: usize, to: usize): void {
  for (let at: usize = 0; at < 4 * values; at += 16) {
    turn4(v128.load(a + at), v128.load(b + at), v128.load(c + at), v128.load(d + at), to + 4 * at, 16);
  }
}

/** Stores the first `values` values of four rows that lie `stride` bytes apart, lanes by row. */
// @ts-ignore: decorator
@inline export function turnRows(rows: usize, stride: usize, values: usize, to: usize): void {
  turn(rows, rows + stride, rows + 2 * stride, rows + 3 * stride, values, to);
}

const few: usize = memory.data(4 * 16, 16);

/** Sums of the squares of four rows, lanes by row, each in the order of its values. */
// @ts-ignore: decorator
@inline export function squareSums(rows: usize, stride: usize, values: usize): v128 {
  let sum = i32x4.splat(0);
  for (let at = rows; at < rows + 4 * values; at += 16) {
    turnRows(at, stride, 4, few);
    const a = v128.load(few);
    const b = v128.load(few, 16);
    const c = v128.load(few, 32);
    const d = v128.load(few, 48);
    sum = f32x4.add(f32x4.add(sum, f32x4.mul(a, a)), f32x4.mul(b, b));
    sum = f32x4.add(f32x4.add(sum, f32x4.mul(c, c)), f32x4.mul(d, d));
  }
  return sum;
}
