import { grid } from "../decode/grids.js";
import { nearest } from "../encode/nearest.js";
import { lattice } from "../encode/lattice/points.js";
import { sumOf, type Block } from "./lattice-block.js";
import type { LatticeKind } from "./lattice-kinds.js";

const { fround, max, min } = Math;

/** Points that are candidates for a group, those nearest to its values first; and for groups of four in trials. */
const candidates = 32;
const candidatesInTrials = 16;
/** Magnitudes are cut off here, in steps, to find candidates. */
const far = 64;

/** A sub-block at a scale: the points of its groups, and its sums of w·|x|·g and w·g². */
export interface Placed {
  readonly points: readonly number[];
  readonly product: number;
  readonly square: number;
}

export interface Placer {
  /** Places the groups of the sub-block from a value on; `trial` where that is not what will be stored. */
  place(block: Block, start: number, scale: number, trial: boolean): Placed;
}

/**
 * Finds the point with the least weighted error for each group, among the nearest ones of a code: that of the
 * group's values, rounded to levels.
 */
export function makePlacer(kind: LatticeKind): Placer {
  const { width, unit } = kind;
  const known = lattice(kind.grid);
  const points = Float32Array.from(grid(kind.grid), (level) => level * unit);
  const levels = [...new Set(points)].toSorted((a, b) => a - b);
  const digits = Uint8Array.from(points, (level) => levels.indexOf(level));
  const top = levels.at(-1)!;
  /** Largest error of an element, so that no sum exceeds 16 bits. */
  const cap = width === 4 ? 16383 : 8191;

  /**
   * Errors of an element on all levels, as integers: 2^8 times the weight's share of the largest. In steps of the
   * scale an element r has the error (g − r)²; beyond the levels, where r' is the nearest of them,
   * (r' − g)·(r' − g + 2·(r − r')) differs from that by a constant.
   */
  function errorsOf(size: number, share: number): number[] {
    const near = max(1, min(top, size));
    const half = fround(size - near);
    return levels.map((level) => {
      const off = fround(near - level);
      const sum = fround(off + fround(half + half));
      return nearest(min(cap, fround(fround(share * off) * sum)));
    });
  }

  function placeGroup({ sizes, shares }: Block, start: number, inverse: number, count: number): number {
    let code = 0;
    const errors: number[][] = [];
    for (let k = width - 1; k >= 0; k--) {
      const size = fround(inverse * sizes[start + k]!);
      const digit = nearest(fround(0.5 * fround(min(far, size) - 1)));
      code = code * known.base + max(0, min(known.base - 1, digit));
      errors[k] = errorsOf(size, shares[start + k]!);
    }
    let least = Infinity;
    let best = 0;
    for (const point of known.nearestPoints(code, candidates).slice(0, count)) {
      let error = 0;
      for (let k = 0; k < width; k++) error += errors[k]![digits[point * width + k]!]!;
      if (error >= least) continue;
      least = error;
      best = point;
    }
    return best;
  }

  return {
    place(block, start, scale, trial) {
      const inverse = fround(1 / scale);
      const count = trial && width === 4 ? candidatesInTrials : candidates;
      const found: number[] = [];
      const product = new Float32Array(4);
      const square = new Float32Array(4);
      for (let group = start; group < start + kind.size; group += width) {
        const point = placeGroup(block, group, inverse, count);
        found.push(point);
        for (let k = 0; k < width; k++) {
          const level = points[point * width + k]!;
          product[k & 3]! += fround(block.products[group + k]! * level);
          square[k & 3]! += fround(fround(block.weights[group + k]! * level) * level);
        }
      }
      return { points: found, product: sumOf(product), square: sumOf(square) };
    },
  };
}
