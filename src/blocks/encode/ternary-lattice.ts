import { grid } from "../decode/grids.js";
import { floatToHalf } from "../floats.js";
import { nearest } from "./nearest.js";
import { type Rounding, type Search, searchApart, searchTogether, shifted } from "./ternary-cuts.js";
import { pointAt, pointsAround, vectorCode } from "./ternary-points.js";

// IQ1_S and IQ1_M round a sub-block to three levels, scaled and shifted by an eighth up or down. Both search the
// scale over every way to cut the sorted values in three, then move each group of eight to a lattice point.

const { abs, fround, max, min, sqrt } = Math;

/** The point around a vector with the least weighted squared error of eight values at a scale. */
function nearestPoint(
  code: number,
  x: Float32Array,
  weights: Float32Array,
  o: number,
  scale: number,
  levels: readonly number[],
): number {
  const points = grid("iq1s");
  let found = 0;
  let least = Infinity;
  for (const point of pointsAround(code)) {
    let error = 0;
    for (let j = 0; j < 8; j++) {
      const difference = fround(fround(scale * levels[points[8 * point + j]! + 1]!) - x[o + j]!);
      error = fround(error + fround(fround(weights[o + j]! * difference) * difference));
    }
    if (error < least) {
      least = error;
      found = point;
    }
  }
  return found;
}

/** Σ w·x·level and Σ w·level², in float32 in the order of the values. */
class LevelSums {
  product = 0;
  square = 0;

  add(point: number, x: Float32Array, weights: Float32Array, o: number, levels: readonly number[]): void {
    const points = grid("iq1s");
    for (let j = 0; j < 8; j++) {
      const level = levels[points[8 * point + j]! + 1]!;
      const weighted = fround(weights[o + j]! * level);
      this.product = fround(this.product + fround(weighted * x[o + j]!));
      this.square = fround(this.square + fround(weighted * level));
    }
  }
}

/** Rounds a sub-block. The indices of the points go to `indices`, which stay 0 where nothing is found. */
function round(x: Float32Array, weights: Float32Array, search: Search, indices: Uint16Array): Rounding {
  const order = [...x.keys()].toSorted((a, b) => x[a]! - x[b]!);
  const cut = search(order, x, weights);
  if (cut === undefined) return { scale: 0, shifts: 0 };
  const digits = new Uint8Array(x.length);
  for (const [rank, i] of order.entries()) digits[i] = rank < cut.low ? 0 : rank < cut.high ? 1 : 2;
  let { scale, shifts } = cut;
  if (scale < 0) {
    for (const [i, digit] of digits.entries()) digits[i] = 2 - digit;
    scale = -scale;
    shifts ^= (1 << indices.length) - 1;
  }
  const levelsOf = (group: number): readonly number[] => shifted[(shifts >> group) & 1]!;
  let moved = false;
  for (let group = 0; group < indices.length; group++) {
    const code = vectorCode(digits, 8 * group);
    const point = pointAt(code);
    moved ||= point === undefined;
    indices[group] = point ?? nearestPoint(code, x, weights, 8 * group, scale, levelsOf(group));
  }
  if (moved) {
    const sums = new LevelSums();
    for (const [group, point] of indices.entries()) sums.add(point, x, weights, 8 * group, levelsOf(group));
    if (sums.product > 0 && sums.square > 0) scale = fround(sums.product / sums.square);
  }
  return { scale, shifts };
}

/** The importance times sqrt(2·mean x² + x²); every value counts the same without an importance. */
function weigh(x: Float32Array, importance: Float32Array | undefined): Float32Array {
  let sum = 0;
  for (const value of x) sum = fround(sum + fround(value * value));
  const spread = fround(fround(2 * sum) / 256);
  return x.map((value, i) => (importance?.[i] ?? 1) * fround(sqrt(fround(spread + fround(value * value)))));
}

/** A block of 256 values, rounded in sub-blocks whose largest magnitude is not below `negligible`. */
function roundBlock(
  x: Float32Array,
  weights: Float32Array,
  size: number,
  negligible: number,
  search: Search,
) {
  const indices = new Uint16Array(32);
  const roundings: Rounding[] = [];
  for (let o = 0; o < 256; o += size) {
    const own = x.subarray(o, o + size);
    const small = own.every((value) => abs(value) < negligible);
    const groups = indices.subarray(o / 8, (o + size) / 8);
    roundings.push(
      small ? { scale: 0, shifts: 0 } : round(own, weights.subarray(o, o + size), search, groups),
    );
  }
  const largest = roundings.reduce((most, { scale }) => max(most, scale), 0);
  // A 3-bit code s stands for 2s + 1 steps of the block's scale.
  const step = fround(largest / 15);
  const inverse = fround(1 / step);
  const codes = roundings.map(({ scale }) =>
    max(0, min(7, nearest(0.5 * fround(fround(inverse * scale) - 1)))),
  );
  return { indices, roundings, largest, step, codes };
}

function eachBlock(
  values: Float32Array,
  importance: Float32Array | undefined,
  encode: (block: number, x: Float32Array, weights: Float32Array) => void,
): void {
  for (let o = 0; o < values.length; o += 256) {
    const x = values.subarray(o, o + 256);
    encode(o / 256, x, weigh(x, importance?.subarray(o, o + 256)));
  }
}

/** IQ1_S of whole blocks: a 3-bit scale and a shift for every 32 values. */
export function encodeIQ1_S(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  eachBlock(values, importance, (block, x, weights) => {
    const { indices, roundings, largest, step, codes } = roundBlock(
      x,
      weights,
      32,
      fround(1e-12),
      searchTogether,
    );
    const at = 50 * block;
    const half = largest > 0 ? floatToHalf(fround(step * 1.125)) : 0;
    out[at] = half;
    out[at + 1] = half >> 8;
    for (const [s, { shifts }] of roundings.entries()) {
      let high = largest > 0 ? (codes[s]! << 12) | (shifts > 0 ? 0x8000 : 0) : 0;
      for (let group = 0; group < 4; group++) {
        const index = indices[4 * s + group]!;
        out[at + 2 + 4 * s + group] = index;
        high |= (index >> 8) << (3 * group);
      }
      out[at + 34 + 2 * s] = high;
      out[at + 35 + 2 * s] = high >> 8;
    }
  });
}

/** IQ1_M of whole blocks: a 3-bit scale for every 16 values and a shift for every 8. */
export function encodeIQ1_M(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  eachBlock(values, importance, (block, x, weights) => {
    const { indices, roundings, largest, step, codes } = roundBlock(
      x,
      weights,
      16,
      fround(1e-7),
      searchApart,
    );
    const at = 56 * block;
    out.fill(0, at, at + 56);
    out.set(indices, at);
    for (const [group, index] of indices.entries())
      out[at + 32 + (group >> 1)]! |= (index >> 8) << (4 * (group & 1));
    if (largest === 0) return;
    const words = [0, 0, 0, 0];
    const sums = new LevelSums();
    for (const [s, { shifts }] of roundings.entries()) {
      const code = codes[s]!;
      words[s >> 2]! |= code << (3 * (s & 3));
      for (let side = 0; side < 2; side++) {
        const down = (shifts >> side) & 1;
        out[at + 32 + s]! |= down << (4 * side + 3);
        const levels = shifted[down]!.map((level) => level * (2 * code + 1));
        sums.add(indices[2 * s + side]!, x, weights, 16 * s + 8 * side, levels);
      }
    }
    const scale = sums.square > 0 ? fround(sums.product / sums.square) : step;
    const half = floatToHalf(fround(scale * fround(1.1125)));
    for (const [j, word] of words.entries()) {
      const stored = word | (((half >> (4 * j)) & 15) << 12);
      out[at + 48 + 2 * j] = stored;
      out[at + 49 + 2 * j] = stored >> 8;
    }
  });
}
