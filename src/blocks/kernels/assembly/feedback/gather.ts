// Sums over the rows of A. They run in the order of the columns, eight sums at a time, which keeps the adders busy.

import { factorAt, width } from "./state";

// @ts-ignore: decorator
@inline function add(sum: v128, x: v128, at: usize): v128 {
  return f32x4.add(sum, f32x4.mul(x, v128.load32_splat(at)));
}

/**
 * Adds Σ_k x[k]·A[k][j] to the sums of columns j.
 *
 * @param x vector of column `first` of the panel, others behind it; k runs over `count` of them, up to j
 * @param from first column of the sums, a multiple of 8 and not before `first`
 * @param to column behind the last, a multiple of 8
 * @param sums vector of column `from`
 */
export function gather(x: usize, first: usize, count: usize, from: usize, to: usize, sums: usize): void {
  const row: usize = 4 * width;
  const end = first + count;
  for (let j = from; j < to; j += 8) {
    let a = v128.load(sums);
    let b = v128.load(sums, 16);
    let c = v128.load(sums, 32);
    let d = v128.load(sums, 48);
    let e = v128.load(sums, 64);
    let f = v128.load(sums, 80);
    let g = v128.load(sums, 96);
    let h = v128.load(sums, 112);
    let at = factorAt + first * row + 4 * j;
    let k = first;
    for (const whole = min(j, end); k < whole; k++) {
      const own = v128.load(x + 16 * (k - first));
      a = add(a, own, at);
      b = add(b, own, at + 4);
      c = add(c, own, at + 8);
      d = add(d, own, at + 12);
      e = add(e, own, at + 16);
      f = add(f, own, at + 20);
      g = add(g, own, at + 24);
      h = add(h, own, at + 28);
      at += row;
    }
    v128.store(sums, a);
    v128.store(sums, b, 16);
    v128.store(sums, c, 32);
    v128.store(sums, d, 48);
    v128.store(sums, e, 64);
    v128.store(sums, f, 80);
    v128.store(sums, g, 96);
    v128.store(sums, h, 112);
    // On the diagonal each sum ends at its own column.
    for (; k < min(j + 8, end); k++) {
      const own = v128.load(x + 16 * (k - first));
      for (let i = k - j; i < 8; i++) {
        const sum = sums + 16 * i;
        v128.store(sum, add(v128.load(sum), own, at + 4 * i));
      }
      at += row;
    }
    sums += 128;
  }
}

/** Stores Σ_k x[k]·A[k][j] for columns j from that of x on; see `gather`. */
// @ts-ignore: decorator
@inline export function influence(x: usize, first: usize, count: usize, to: usize, sums: usize): void {
  memory.fill(sums, 0, 16 * (to - first));
  gather(x, first, count, first, to, sums);
}
