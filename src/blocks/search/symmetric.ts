import { nearest } from "../encode/nearest.js";
import { packCodes, packLevels as packLevelsOf3 } from "../encode/q3_k.js";
import { packLevels as packLevelsOf6 } from "../encode/q6_k.js";
import { extremeOf, negligible } from "../encode/symmetric.js";
import { halfToFloat } from "../floats.js";
import {
  chooseStep,
  type Fit,
  fitsFrom,
  type Layout,
  refine,
  type Trial,
  trialOf,
  weigh,
} from "./symmetric-steps.js";

const { abs, fround, max, min } = Math;

/** Nearest of the levels low…high. */
function levelOf(value: number, low: number, high: number): number {
  return nearest(max(low, min(high, value)));
}

/** A type whose levels are −bound…bound − 1, and how its sub-blocks are tried. */
interface Uniform extends Layout {
  readonly bound: number;
  /** Where the first trial puts the value of largest magnitude (below zero), and how far the next ones. */
  readonly from: number;
  readonly by: number;
  readonly trials: number;
  /** Whether the largest value is tried above zero as well. */
  readonly both: boolean;
}

/** Consecutive trials of which the best is kept as a fit. */
const GROUP = 4;

const q3: Uniform = {
  size: 16,
  count: 16,
  codes: 32,
  first: 0.953125,
  spacing: 0.01171875,
  steps: 32,
  passes: 3,
  levelOf: (value) => levelOf(value, -4, 3),
  bound: 4,
  from: 8.125,
  by: -0.375,
  trials: 16,
  both: true,
};

const q6: Uniform = {
  size: 16,
  count: 16,
  codes: 128,
  first: 0.984375,
  spacing: 0.00390625,
  steps: 32,
  passes: 3,
  levelOf: (value) => levelOf(value, -32, 31),
  bound: 32,
  from: 33.3125,
  by: -0.4375,
  trials: 28,
  both: false,
};

/**
 * The fits of a sub-block: the best of each group of trials, by how much of the error its own best scale takes
 * away. Of the two ways round, levels −bound…bound − 1 come first and −bound + 1…bound last.
 */
function fitsOf(type: Uniform, values: Float32Array, weights: Float32Array): Fit[] {
  const { bound, trials } = type;
  const extreme = extremeOf(values);
  const nothing = abs(extreme) < negligible;
  const sides = type.both ? [0, 1] : [0];
  const groups: Trial[][] = [];
  for (const side of sides) {
    for (let t = 0; t < trials; t++) {
      const target = fround(fround(type.from) + fround(fround(type.by) * t));
      const inverse = fround(-target / (nothing ? 1 : extreme));
      let product = 0;
      let square = 0;
      for (const [j, x] of values.entries()) {
        const level = levelOf(fround(x * inverse), side - bound, side + bound - 1);
        product = fround(product + fround(fround(weights[j]! * x) * level));
        square = fround(square + fround(fround(weights[j]! * level) * level));
      }
      if (t % GROUP === 0) groups.push([]);
      const trial = trialOf(product, square);
      groups.at(-1)!.push(side === 0 ? trial : { ...trial, scale: -trial.scale });
    }
  }
  return fitsFrom(groups);
}

/** Searches the scales of a block and writes the levels (plus the bound) that go with them; returns the step. */
function search(
  type: Uniform,
  values: Float32Array,
  importance: Float32Array | undefined,
  codes: Int8Array,
  levels: Uint8Array,
): number {
  const { size, count, bound } = type;
  const block = weigh(values, importance, size);
  const fits: Fit[][] = [];
  for (let at = 0; at < values.length; at += size) {
    fits.push(fitsOf(type, values.subarray(at, at + size), block.weights.subarray(at, at + size)));
  }
  const start = chooseStep(type, fits, block.shares, codes);
  if (start === 0) return 0;
  const half = refine(type, block, start, codes);
  for (let s = 0; s < count; s++) {
    const scale = fround(halfToFloat(half) * codes[s]!);
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    for (let j = size * s; j < size * s + size; j++) {
      levels[j] = type.levelOf(fround(values[j]! * inverse)) + bound;
    }
  }
  return half;
}

/** Q3_K of whole blocks: a scale for every 16 values, in 6-bit steps of one half for all 256. */
export function searchQ3_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const levels = new Uint8Array(256);
  const codes = new Int8Array(16);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 110) {
    const block = out.subarray(at, at + 110).fill(0);
    const half = search(q3, values.subarray(o, o + 256), importance?.subarray(o, o + 256), codes, levels);
    if (half === 0) continue;
    block[108] = half;
    block[109] = half >>> 8;
    packCodes(
      Uint8Array.from(codes, (code) => code + 32),
      block.subarray(96, 108),
    );
    packLevelsOf3(levels, block);
  }
}

/** Q6_K of whole blocks: a scale for every 16 values, in 8-bit steps of one half for all 256. */
export function searchQ6_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const levels = new Uint8Array(256);
  const codes = new Int8Array(16);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 210) {
    const block = out.subarray(at, at + 210).fill(0);
    const half = search(q6, values.subarray(o, o + 256), importance?.subarray(o, o + 256), codes, levels);
    if (half === 0) continue;
    block[208] = half;
    block[209] = half >>> 8;
    block.set(codes, 192);
    packLevelsOf6(levels, block);
  }
}
