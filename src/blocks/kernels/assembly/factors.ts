// Rows times a factor a column and a factor a row, before they are encoded.

import { float, floats } from "./number";
import { check } from "./plain";

/**
 * Puts float32 values in the place of values of any source, each times the factors of its column and its row. The
 * wider values lie over the narrower ones, so the last row is done first, and its last values.
 *
 * @param columns a float32 factor for each column, or 0 for none
 * @param scales a float32 factor for each row, or 0 for none
 * @returns index of the first value that was not finite, or -1; then nothing has been changed
 */
export function multiplyRows<S>(input: usize, rows: i32, row: i32, columns: usize, scales: usize): i32 {
  const bad = check<S>(input, rows * row);
  if (bad >= 0) return bad;
  const tail = row & ~3;
  for (let r = rows - 1; r >= 0; r--) {
    const from = input + <usize>(r * row) * sizeof<S>();
    const to = input + <usize>(r * row) * 4;
    const own: f32 = scales === 0 ? 1 : load<f32>(scales + <usize>r * 4);
    for (let i = row - 1; i >= tail; i--) {
      const factor: f32 = columns === 0 ? own : own * load<f32>(columns + <usize>i * 4);
      store<f32>(to + <usize>i * 4, float<S>(from + <usize>i * sizeof<S>()) * factor);
    }
    const all = f32x4.splat(own);
    for (let i = tail - 4; i >= 0; i -= 4) {
      const factors = columns === 0 ? all : f32x4.mul(all, v128.load(columns + <usize>i * 4));
      v128.store(to + <usize>i * 4, f32x4.mul(floats<S>(from + <usize>i * sizeof<S>()), factors));
    }
  }
  return -1;
}
