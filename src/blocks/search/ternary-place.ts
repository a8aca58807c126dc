import { grid } from "../decode/grids.js";
import { nearest } from "../encode/nearest.js";
import { shifted } from "../encode/ternary-cuts.js";
import { pointAt, pointsAround, vectorCode } from "../encode/ternary-points.js";
import { sumOf, type Block } from "./lattice-block.js";
import type { Placer } from "./lattice-place.js";
import type { TernaryKind } from "./ternary-kinds.js";

// Places groups of eight values on the ternary lattice of IQ1, with both shifts of the levels.

const { fround, min } = Math;

/** Points that are candidates for a group whose nearest digits are none, those nearest to these first. */
const candidates = 32;
/** Largest error of a value, so that no sum exceeds 16 bits. */
const cap = 8191;
/** What marks a point as one whose levels are shifted down. */
const downMark = 2048;

/** Shift of the levels, up and down. */
const shifts = [0.125, -0.125] as const;

/** Groups with one shift, in four lanes: points, and sums of w·x·g and w·g². */
interface Unit {
  readonly points: number[];
  readonly product: Float32Array;
  readonly square: Float32Array;
}

/**
 * The point for eight values at a scale. In steps of the scale, with the shift taken off, a value v has the error
 * w·(v − g)² at the level g; beside that of the best level these are 0 and two of w·(1 − 2v), w·(1 + 2v) and their
 * difference. As integers, 2^8 times the weight's share of the largest, they say which candidate is the best.
 */
function placeGroup({ sizes, shares }: Block, start: number, inverse: number, shift: number): number {
  const errors: [number, number, number][] = [];
  const digits = new Uint8Array(8);
  for (let k = 0; k < 8; k++) {
    const value = fround(fround(inverse * sizes[start + k]!) - shift);
    const double = fround(value + value);
    const share = shares[start + k]!;
    const above = fround(share * fround(1 - double));
    const below = fround(share * fround(1 + double));
    const least = min(0, above, below);
    errors.push(
      [below, 0, above].map((error) => nearest(min(cap, fround(error - least)))) as [number, number, number],
    );
    digits[k] = double > 1 ? 2 : double < -1 ? 0 : 1;
  }
  const code = vectorCode(digits, 0);
  const point = pointAt(code);
  if (point !== undefined) return point;
  const points = grid("iq1s");
  let found = 0;
  let least = Infinity;
  for (const candidate of pointsAround(code).slice(0, candidates)) {
    let error = 0;
    for (let k = 0; k < 8; k++) error += errors[k]![points[8 * candidate + k]! + 1]!;
    if (error >= least) continue;
    least = error;
    found = candidate;
  }
  return found;
}

/** Places consecutive groups, their levels shifted up or down. */
function placeUnit(block: Block, starts: readonly number[], inverse: number, down: 0 | 1): Unit {
  const product = new Float32Array(4);
  const square = new Float32Array(4);
  const points = starts.map((start) => {
    const point = placeGroup(block, start, inverse, shifts[down]);
    for (let k = 0; k < 8; k++) {
      const level = shifted[down]![grid("iq1s")[8 * point + k]! + 1]!;
      product[k & 3]! += fround(block.products[start + k]! * level);
      square[k & 3]! += fround(fround(block.weights[start + k]! * level) * level);
    }
    return point | (down * downMark);
  });
  return { points, product, square };
}

/** Error of a unit at its scale, beside what is the same for both shifts. */
function errorOf({ product, square }: Unit, scale: number): number {
  return sumOf(product.map((own, lane) => scale * fround(fround(scale * square[lane]!) - fround(own + own))));
}

/** Places sub-blocks with the better shift of each unit; points whose levels are shifted down are marked. */
export function makeTernaryPlacer(kind: TernaryKind): Placer {
  return {
    place(block, start, scale) {
      const inverse = fround(1 / scale);
      const points: number[] = [];
      const product = new Float32Array(4);
      const square = new Float32Array(4);
      for (let unit = start; unit < start + kind.size; unit += kind.unit) {
        const starts = Array.from({ length: kind.unit / 8 }, (_, group) => unit + 8 * group);
        const up = placeUnit(block, starts, inverse, 0);
        const down = placeUnit(block, starts, inverse, 1);
        const better = errorOf(down, scale) < errorOf(up, scale) ? down : up;
        points.push(...better.points);
        for (let lane = 0; lane < 4; lane++) {
          product[lane]! += better.product[lane]!;
          square[lane]! += better.square[lane]!;
        }
      }
      return { points, product: sumOf(product), square: sumOf(square) };
    },
  };
}
