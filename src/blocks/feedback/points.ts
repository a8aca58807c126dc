/**
 * Groups of eight values whose levels are points of a lattice: the point with the least weighted error of all, by sums
 * over halves of a point. Sums are float32; `fround` stands wherever the kernels round.
 */

import type { Group } from "./levels.js";

const { abs, fround } = Math;

/** Values that are placed together: a point of eight, or two of four. */
export const EIGHT = 8;

/** The lattice of a type. */
export interface Points {
  /** Elements of a point. */
  readonly width: 4 | 8;
  /** Levels of an element, ascending. */
  readonly levels: readonly number[];
  /** Number of a level for each element of each point. */
  readonly digits: Uint8Array;
  /** Whether signs are beside the points, and whether eight of them have to have an even number of minuses. */
  readonly signs: "points" | "all" | "even";
  /** What all levels of a point are shifted by, up or down: with its group of values, or each by itself. */
  readonly shift?: { readonly by: number; readonly shared: boolean };
}

/** Where the halves of each point are in the tables of their sums: the elements of a half are digits of a number. */
export function halvesOf({ width, levels, digits }: Points): { low: Uint16Array; high: Uint16Array } {
  const count = digits.length / width;
  const half = width / 2;
  const numberAt = (from: number): number => {
    let number = 0;
    for (let k = half - 1; k >= 0; k--) number = number * levels.length + digits[from + k]!;
    return number;
  };
  return {
    low: Uint16Array.from({ length: count }, (_, p) => numberAt(p * width)),
    high: Uint16Array.from({ length: count }, (_, p) => numberAt(p * width + half)),
  };
}

/** Sums of each number of `a` with each of `b`, those of `a` first. */
function cross(a: Float32Array, b: Float32Array): Float32Array {
  const out = new Float32Array(a.length * b.length);
  for (let n = 0, at = 0; n < b.length; n++) {
    for (let m = 0; m < a.length; m++, at++) out[at] = a[m]! + b[n]!;
  }
  return out;
}

/** Sums of the errors of two or four elements for all their levels. */
function sumsOf(errors: readonly Float32Array[]): Float32Array {
  const [a, b, c, d] = errors as [Float32Array, Float32Array, Float32Array?, Float32Array?];
  return c === undefined || d === undefined ? cross(a, b) : cross(cross(a, b), cross(c, d));
}

export interface Lattice extends Points {
  readonly low: Uint16Array;
  readonly high: Uint16Array;
}

/** The first best point for `width` values in levels; its levels go to `found`, and its error is returned. */
function placePoint(
  { width, levels, digits, low, high }: Lattice,
  units: Float32Array,
  weights: Float32Array,
  shift: number,
  found: Float32Array,
): number {
  const errors: Float32Array[] = [];
  for (let k = 0; k < width; k++) {
    const own = new Float32Array(levels.length);
    for (let digit = 0; digit < levels.length; digit++) {
      const off = fround(units[k]! - fround(levels[digit]! + shift));
      own[digit] = fround(weights[k]! * off) * off;
    }
    errors.push(own);
  }
  const half = width / 2;
  const lowSums = sumsOf(errors.slice(0, half));
  const highSums = sumsOf(errors.slice(half));
  let least = Infinity;
  let best = 0;
  for (let p = 0; p < low.length; p++) {
    const error = fround(lowSums[low[p]!]! + highSums[high[p]!]!);
    if (!(error < least)) continue;
    least = error;
    best = p;
  }
  for (let k = 0; k < width; k++) found[k] = levels[digits[best * width + k]!]! + shift;
  return least;
}

/** Levels for eight values of a group; `shared` shifts are those of the group. */
export function placeEight(
  lattice: Lattice,
  { inverse }: Group,
  shiftCode: number,
  values: Float32Array,
  weights: Float32Array,
): Float32Array {
  const { width, signs, shift, levels } = lattice;
  const units = values.map((x) => x * inverse);
  const found = new Float32Array(EIGHT);
  if (signs === "points") {
    const by = shift?.by ?? 0;
    if (shift?.shared ?? true) {
      placePoint(lattice, units, weights, by * shiftCode, found);
      return found;
    }
    const other = new Float32Array(EIGHT);
    const up = placePoint(lattice, units, weights, by, found);
    const down = placePoint(lattice, units, weights, -by, other);
    return down < up ? other : found;
  }
  const minus = Array.from(units, (x) => x < 0);
  const sizes = units.map(abs);
  if (signs === "even" && minus.filter(Boolean).length % 2 === 1) {
    // The sign that costs the least on the lowest level.
    const lowest = levels[0]!;
    let turned = 0;
    let least = Infinity;
    for (const [k, size] of sizes.entries()) {
      const wrong = fround(size + lowest);
      const right = fround(size - lowest);
      const beside = size < lowest ? fround(right * right) : 0;
      const loss = fround(weights[k]! * fround(fround(wrong * wrong) - beside));
      if (!(loss < least)) continue;
      least = loss;
      turned = k;
    }
    minus[turned] = !minus[turned];
    sizes[turned] = -sizes[turned]!;
  }
  for (let k = 0; k < EIGHT; k += width) {
    placePoint(lattice, sizes.subarray(k, k + width), weights.subarray(k, k + width), 0, found.subarray(k));
  }
  return found.map((level, k) => (minus[k]! ? -level : level));
}
