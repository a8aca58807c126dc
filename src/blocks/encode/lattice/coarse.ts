import { nearest } from "../nearest.js";
import type { SubBlock } from "./search.js";

const { fround, max, min } = Math;

/** Levels that the coarse scale is fitted to: 0…4. */
const top = 4;

/** The inverse scale, of nine around the one that puts the largest value on level 4, with the least error. */
function bestInverse({ sizes, weights, start }: SubBlock, largest: number): number {
  const error = (inverse: number, level: (value: number) => number): number => {
    const scale = fround(1 / inverse);
    let sum = 0;
    for (let j = start; j < start + 32; j++) {
      const difference = fround(sizes[j]! - fround(scale * level(fround(inverse * sizes[j]!))));
      sum = fround(sum + fround(fround(weights[j]! * difference) * difference));
    }
    return sum;
  };
  let best = fround(top / largest);
  // Here levels are bytes: the one of a negated size is taken for a large number.
  let least = error(best, (value) => nearest(value) & 255);
  for (const step of [-4, -3, -2, -1, 1, 2, 3, 4]) {
    const inverse = fround(fround(fround(fround(0.1) * step) + top) / largest);
    const sum = error(inverse, (value) => min(top, nearest(value)));
    if (sum < least) {
      least = sum;
      best = inverse;
    }
  }
  return best;
}

/**
 * A scale for 32 sizes on levels 0…4, before the lattice comes in: the best of nine, then up to five passes that
 * move single levels as long as that lowers the weighted error. 0 where there is nothing to fit.
 */
export function coarseScale(sub: SubBlock): number {
  const { sizes, weights, start } = sub;
  const largest = sizes.subarray(start, start + 32).reduce((a, b) => max(a, b), 0);
  if (largest < fround(1e-15)) return 0;
  const inverse = bestInverse(sub, largest);
  // The levels, again as bytes.
  const levels = new Uint8Array(32);
  let product = 0;
  let square = 0;
  for (let j = 0; j < 32; j++) {
    const weight = weights[start + j]!;
    const level = min(top, nearest(fround(inverse * sizes[start + j]!)));
    levels[j] = level;
    product = fround(product + fround(fround(weight * sizes[start + j]!) * level));
    square = fround(square + fround(fround(weight * level) * level));
  }
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (let j = 0; j < 32; j++) {
      const size = sizes[start + j]!;
      const weight = weights[start + j]!;
      const projected = fround(weight * size);
      const level = levels[j]!;
      const restProduct = fround(product - fround(projected * level));
      const restSquare = fround(square - fround(fround(weight * level) * level));
      if (!(restProduct > 0 && restSquare > 0)) continue;
      const moved = min(top, nearest(fround(fround(size * restSquare) / restProduct)));
      if (moved === level) continue;
      const newProduct = fround(restProduct + fround(projected * moved));
      const newSquare = fround(restSquare + fround(fround(weight * moved) * moved));
      const gain = fround(fround(newProduct * newProduct) * square);
      if (!(gain > fround(fround(product * product) * newSquare))) continue;
      levels[j] = moved;
      product = newProduct;
      square = newSquare;
      changed = true;
    }
  }
  return square > 0 ? fround(product / square) : 0;
}
