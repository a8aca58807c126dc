/** The two halves of a block of the affine types, whose multiples its scales and offsets are. */

import { floatToHalf, halfToFloat } from "../floats.js";
import { clamp, type Fit, nearest, type SubBlock } from "./k-affine-fit.js";

const { floor, fround, imul } = Math;

/** What the levels of scales and offsets are multiplied with. */
export interface Steps {
  readonly scale: number;
  readonly offset: number;
}

/** Steps that are tried of each kind, first by itself and then beside the other one. */
const alone = 64;
const together = 32;

/** 2^32 by the golden ratio: its multiples fill an interval evenly. */
const golden = 2654435769;

function roundToHalf(value: number): number {
  return halfToFloat(floatToHalf(value));
}

/** Inverse of a step; 0 of none. */
export function inverseOf(step: number): number {
  return step > 0 ? fround(1 / step) : 0;
}

/** Levels of a scale and an offset, and what they lose beyond the fit's own error. */
export interface Placed {
  readonly loss: number;
  readonly scale: number;
  readonly offset: number;
}

/** The offset's level for a level of the scale. */
function placeOffset(fit: Fit, steps: Steps, scale: number, top: number): Placed {
  const stored = fround(steps.scale * scale);
  const wanted = fround(fround(stored * fit.level) - fit.pull);
  const offset = nearest(clamp(fround(wanted * inverseOf(steps.offset)), top));
  const offScale = fround(stored - fit.scale);
  const offOffset = fround(wanted - fround(steps.offset * offset));
  const loss = fround(fround(fround(fit.curvature * offScale) * offScale) + fround(offOffset * offOffset));
  return { loss, scale, offset };
}

/** The better of the two levels around a fit's scale, each with the offset's level that suits it. */
export function place(fit: Fit, steps: Steps, top: number): Placed {
  const below = floor(clamp(fround(fit.scale * inverseOf(steps.scale)), top));
  const first = placeOffset(fit, steps, below, top);
  const second = placeOffset(fit, steps, clamp(below + 1, top), top);
  return second.loss < first.loss ? second : first;
}

function sumOf(subBlocks: readonly SubBlock[], loss: (fit: Fit) => number): number {
  let sum = 0;
  for (const { total, best } of subBlocks) sum = fround(sum + fround(total * loss(best)));
  return sum;
}

/**
 * Steps that store the fits of the sub-blocks with little loss. Both are 0 where there are no scales.
 *
 * @param first steps are tried from this multiple of the one that puts the largest number on the top level
 * @param range how far the multiples go beyond that
 */
export function chooseSteps(
  subBlocks: readonly SubBlock[],
  top: number,
  first: number,
  range: number,
): Steps {
  let largestScale = 0;
  let largestOffset = 0;
  for (const { best } of subBlocks) {
    const offset = fround(fround(best.scale * best.level) - best.pull);
    if (best.scale > largestScale) largestScale = best.scale;
    if (offset > largestOffset) largestOffset = offset;
  }
  const leastScale = fround(largestScale / top);
  const leastOffset = fround(largestOffset / top);
  const even = (least: number, index: number): number =>
    roundToHalf(fround(least * fround(first + fround(fround(range / alone) * index))));
  const leastOf = (least: number, lossOf: (step: number) => number): number => {
    let found = 0;
    let lowest = Infinity;
    for (let index = 0; index < alone; index++) {
      const step = even(least, index);
      const loss = lossOf(step);
      if (!(loss < lowest)) continue;
      lowest = loss;
      found = step;
    }
    return found;
  };
  const alongScale = leastOf(leastScale, (step) =>
    sumOf(subBlocks, (fit) => {
      const level = nearest(clamp(fround(fit.scale * inverseOf(step)), top));
      const off = fround(fround(level * step) - fit.scale);
      return fround(fround(fit.curvature * off) * off);
    }),
  );
  const alongOffset = leastOf(leastOffset, (step) =>
    sumOf(subBlocks, (fit) => {
      const level = nearest(clamp(fround(fit.scale * inverseOf(alongScale)), top));
      const wanted = fround(fround(fround(level * alongScale) * fit.level) - fit.pull);
      const offset = nearest(clamp(fround(wanted * inverseOf(step)), top));
      const off = fround(wanted - fround(offset * step));
      return fround(off * off);
    }),
  );
  let steps: Steps = { scale: alongScale, offset: alongOffset };
  const lossOf = (tried: Steps): number => sumOf(subBlocks, (fit) => place(fit, tried, top).loss);
  let lowest = lossOf(steps);
  for (let index = 0; index < together; index += 4) {
    const from = steps;
    for (let k = index + 1; k <= index + 4; k++) {
      const part = fround(fround(imul(k, golden) >>> 0) * 2 ** -32);
      const factor = fround(first + fround(range * part));
      const tried =
        (index & 4) === 0
          ? { ...from, scale: roundToHalf(fround(leastScale * factor)) }
          : { ...from, offset: roundToHalf(fround(leastOffset * factor)) };
      const loss = lossOf(tried);
      if (!(loss < lowest)) continue;
      lowest = loss;
      steps = tried;
    }
  }
  return steps;
}
