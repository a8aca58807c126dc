import { nearest } from "../encode/nearest.js";
import { findScales, packCodes, packLevels as packLevelsOf3 } from "../encode/q3_k.js";
import { encodeQ6_K, packLevels as packLevelsOf6 } from "../encode/q6_k.js";
import { extremeOf, negligible } from "../encode/symmetric.js";
import { floatToHalf, halfToFloat } from "../floats.js";
import { better, type Choice, refine } from "./symmetric-refine.js";
import {
  type Block,
  chooseStep,
  type Fit,
  fitsFrom,
  type Layout,
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
  spacing: 0.015625,
  steps: 24,
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
  trials: 20,
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

/** The step and the codes that a search finds for a block, or undefined where no scale gains anything. */
function search(type: Uniform, block: Block): Choice | undefined {
  const { size, count } = type;
  const fits = Array.from({ length: count }, (_, s) =>
    fitsOf(
      type,
      block.values.subarray(size * s, size * s + size),
      block.weights.subarray(size * s, size * s + size),
    ),
  );
  const codes = new Int8Array(count);
  const start = chooseStep(type, fits, block.shares, codes);
  return start === 0 ? undefined : refine(type, block, start, codes);
}

/** The levels (plus the bound) of the values of a block. */
function levelsOf(type: Uniform, values: Float32Array, { half, codes }: Choice): Uint8Array {
  return Uint8Array.from(values, (x, j) => {
    const scale = fround(halfToFloat(half) * codes[Math.floor(j / type.size)]!);
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    return type.levelOf(fround(x * inverse)) + type.bound;
  });
}

/**
 * Q3_K of whole blocks: a scale for every 16 values, in 6-bit steps of one half for all 256. The scales are ggml's
 * where those lose less.
 */
export function searchQ3_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const theirs = new Uint8Array(16);
  const levels = new Uint8Array(256);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 110) {
    const own = importance?.subarray(o, o + 256);
    const block = weigh(values.subarray(o, o + 256), own, q3.size);
    const bytes = out.subarray(at, at + 110).fill(0);
    const searched = search(q3, block);
    if (searched === undefined) continue;
    const half = floatToHalf(findScales(block.values, own, theirs, levels));
    const choice = better(q3, block, searched, half, theirs);
    bytes[108] = choice.half;
    bytes[109] = choice.half >>> 8;
    packCodes(
      Uint8Array.from(choice.codes, (code) => code + 32),
      bytes.subarray(96, 108),
    );
    packLevelsOf3(levelsOf(q3, block.values, choice), bytes);
  }
}

/** A choice for a block of Q6_K, or ggml's where that loses less. */
function orGgmls(block: Block, choice: Choice, importance?: Float32Array): Choice {
  const stored = new Uint8Array(210);
  encodeQ6_K(block.values, stored, importance);
  const half = stored[208]! | (stored[209]! << 8);
  const above = stored.subarray(192, 208).map((code) => code + q6.codes);
  return better(q6, block, choice, half, above);
}

/**
 * Q6_K of whole blocks: a scale for every 16 values, in 8-bit steps of one half for all 256. The scales are ggml's
 * where those lose less.
 */
export function searchQ6_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < values.length; o += 256, at += 210) {
    const own = importance?.subarray(o, o + 256);
    const block = weigh(values.subarray(o, o + 256), own, q6.size);
    const bytes = out.subarray(at, at + 210).fill(0);
    const searched = search(q6, block);
    if (searched === undefined) continue;
    const choice = orGgmls(block, searched, own);
    bytes[208] = choice.half;
    bytes[209] = choice.half >>> 8;
    bytes.set(choice.codes, 192);
    packLevelsOf6(levelsOf(q6, block.values, choice), bytes);
  }
}
