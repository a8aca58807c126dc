import type { Split } from "./block.js";
import { digitOf } from "./numbers.js";
import type { Lattice } from "./points.js";

const { fround } = Math;

/** How a type searches its sub-blocks. */
export interface Method {
  readonly lattice: Lattice;
  /** Values in a sub-block. */
  readonly size: number;
  /** Inverse scales that are tried, times the extreme of the sub-block. */
  readonly numerators: readonly number[];
  /** Whether groups count as lying on the grid as long as no trial has placed them. */
  readonly onGridAtFirst: boolean;
  /** Whether a group is placed again at the scale that won, told which groups' codes were points. */
  placesAgain(onGrid: readonly boolean[], group: number): boolean;
}

/** `top` and `reach` steps to both sides of it, in float32. */
export function numerators(top: number, step: number, reach: number): number[] {
  return Array.from({ length: 2 * reach + 1 }, (_, t) => fround(top + fround(fround(step) * (t - reach))));
}

/** A sub-block: where it starts in its block. */
export interface SubBlock extends Split {
  readonly start: number;
}

export interface Placement {
  scale: number;
  /** Index of each group's point. */
  points: number[];
}

interface Placed {
  readonly point: number;
  readonly onGrid: boolean;
}

/** Sums over a sub-block of w·x·step and w·step². */
function project({ lattice, size }: Method, { sizes, weights, start }: SubBlock, points: readonly number[]) {
  const { width, steps } = lattice;
  let product = 0;
  let square = 0;
  for (let j = 0; j < size; j++) {
    const weight = weights[start + j]!;
    const step = steps[points[Math.floor(j / width)]! * width + (j % width)]!;
    product = fround(product + fround(fround(weight * sizes[start + j]!) * step));
    square = fround(square + fround(fround(weight * step) * step));
  }
  return { product, square };
}

/** The neighbour of a code with the least error, weighted by the roots of the weights: the first among equals. */
function nearestNeighbour(
  lattice: Lattice,
  code: number,
  sub: SubBlock,
  start: number,
  scale: number,
): number {
  const { width, steps } = lattice;
  let least = Infinity;
  let nearest = 0;
  for (const point of lattice.neighbours(code)) {
    let error = 0;
    for (let k = 0; k < width; k++) {
      const difference = fround(fround(scale * steps[point * width + k]!) - sub.sizes[start + k]!);
      error = fround(error + fround(fround(sub.roots[start + k]! * difference) * difference));
    }
    if (error < least) {
      least = error;
      nearest = point;
    }
  }
  return nearest;
}

/** Rounds a group to its code at an inverse scale, and to a point. */
function place(lattice: Lattice, sub: SubBlock, start: number, inverse: number, scale: number): Placed {
  let code = 0;
  for (let k = lattice.width - 1; k >= 0; k--) {
    code = code * lattice.base + digitOf(sub.sizes[start + k]!, inverse, lattice.base - 1);
  }
  const point = lattice.indexOf(code);
  if (point >= 0) return { point, onGrid: true };
  return { point: nearestNeighbour(lattice, code, sub, start, scale), onGrid: false };
}

/**
 * Searches the scale and the points of a sub-block: of all trials the one that leaves the least weighted error
 * at its own best scale. Then groups are placed again at that scale, which makes it move once more.
 *
 * @param extreme what the numerators are divided by
 * @param scale the scale in case that no trial has a projection
 */
export function search(method: Method, sub: SubBlock, extreme: number, scale: number): Placement {
  const { lattice, size } = method;
  const starts = Array.from(
    { length: size / lattice.width },
    (_, group) => sub.start + group * lattice.width,
  );
  const placement: Placement = { scale, points: starts.map(() => 0) };
  let onGrid = starts.map(() => method.onGridAtFirst);
  let best = 0;
  for (const numerator of method.numerators) {
    const inverse = fround(numerator / extreme);
    const placed = starts.map((start) => place(lattice, sub, start, inverse, fround(1 / inverse)));
    const points = placed.map(({ point }) => point);
    const { product, square } = project(method, sub, points);
    if (square > 0 && fround(product * product) > fround(best * square)) {
      placement.scale = fround(product / square);
      placement.points = points;
      best = fround(placement.scale * product);
      onGrid = placed.map((one) => one.onGrid);
    }
  }
  const again = starts.map((_, group) => method.placesAgain(onGrid, group));
  if (placement.scale > 0 && again.includes(true)) {
    const inverse = fround(1 / placement.scale);
    placement.points = starts.map((start, group) =>
      again[group] ? place(lattice, sub, start, inverse, placement.scale).point : placement.points[group]!,
    );
    const { product, square } = project(method, sub, placement.points);
    if (square > 0) placement.scale = fround(product / square);
  }
  return placement;
}
