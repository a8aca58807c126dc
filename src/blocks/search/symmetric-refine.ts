import { halfToFloat } from "../floats.js";
import { type Block, halfStep, type Layout } from "./symmetric-steps.js";

const { fround, max, min } = Math;

/** Sums over a sub-block whose values are stored with a scale. */
export interface Sums {
  /** Σ weight · (value − scale · level)² */
  error: number;
  /** Σ weight · value · level */
  product: number;
  /** Σ weight · level² */
  square: number;
}

/** The sums over values at their nearest levels. */
export function sumsOf(
  values: Float32Array,
  weights: Float32Array,
  scale: number,
  levelOf: (value: number) => number,
): Sums {
  const inverse = scale === 0 ? 0 : fround(1 / scale);
  let error = 0;
  let product = 0;
  let square = 0;
  for (const [j, x] of values.entries()) {
    const level = levelOf(fround(x * inverse));
    const off = fround(x - fround(scale * level));
    const weight = weights[j]!;
    const weighted = fround(weight * level);
    error = fround(error + fround(fround(weight * off) * off));
    product = fround(product + fround(weighted * x));
    square = fround(square + fround(weighted * level));
  }
  return { error, product, square };
}

/** A step, as a half, and the codes of scales, with what they lose. */
export interface Choice {
  readonly half: number;
  readonly codes: Int8Array;
  readonly error: number;
}

/** A sub-block's part of values or weights. */
function partOf(all: Float32Array, { size }: Layout, s: number): Float32Array {
  return all.subarray(size * s, size * s + size);
}

/** Improves a step and its codes by the error itself; returns the best that it sees. */
export function refine(layout: Layout, block: Block, start: number, codes: Int8Array): Choice {
  const { count, codes: bound } = layout;
  let best: Choice = { half: start, codes, error: Infinity };
  let half = start;
  const moving = codes.slice();
  for (let pass = 0; pass < layout.passes; pass++) {
    const step = halfToFloat(half);
    let error = 0;
    let product = 0;
    let square = 0;
    for (let s = 0; s < count; s++) {
      const values = partOf(block.values, layout, s);
      const weights = partOf(block.weights, layout, s);
      const middle = moving[s]!;
      let least: Sums = { error: Infinity, product: 0, square: 0 };
      for (const code of [middle, max(-bound, middle - 1), min(bound - 1, middle + 1)]) {
        const sums = sumsOf(values, weights, fround(step * code), layout.levelOf);
        if (sums.error >= least.error) continue;
        least = sums;
        moving[s] = code;
      }
      const code = moving[s]!;
      const share = block.shares[s]!;
      error = fround(error + fround(share * least.error));
      product = fround(product + fround(share * fround(code * least.product)));
      square = fround(square + fround(share * fround(fround(code * least.square) * code)));
    }
    if (error < best.error) best = { half, codes: moving.slice(), error };
    if (square > 0) half = halfStep(fround(product / square));
  }
  return best;
}

/** Whether a half is infinite or not a number. */
export function isUnbounded(half: number): boolean {
  return (half & 0x7c00) === 0x7c00;
}

/** A choice, or another step with the codes of its scales (plus the bound) where that loses less. */
export function better(
  layout: Layout,
  block: Block,
  choice: Choice,
  half: number,
  codesAbove: Uint8Array,
): Choice {
  if (isUnbounded(half)) return choice;
  const codes = Int8Array.from(codesAbove, (code) => code - layout.codes);
  let error = 0;
  for (const [s, code] of codes.entries()) {
    const scale = fround(halfToFloat(half) * code);
    const sums = sumsOf(
      partOf(block.values, layout, s),
      partOf(block.weights, layout, s),
      scale,
      layout.levelOf,
    );
    error = fround(error + fround(block.shares[s]! * sums.error));
  }
  return error < choice.error ? { half, codes, error } : choice;
}
