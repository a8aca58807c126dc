/**
 * Rounds a block of one row with feedback among its own columns: the plain statement of what the kernels do for four
 * rows. Sums are float32 in the order of the columns; `fround` stands wherever the kernels round.
 */

import type { Grid } from "./grid.js";
import { allowedOffset, allowedScale, type Group, groupOf, levelOf, valueOf } from "./levels.js";
import type { Metric } from "./metric.js";
import { EIGHT, placeEight } from "./points.js";
import type { Trial } from "./trials.js";

const { fround, max, min } = Math;

/** What a block is stored with. */
export interface Scales {
  readonly scale: number;
  readonly offset: number;
  readonly zero: number;
  readonly scaleCodes: Float32Array;
  readonly offsetCodes: Float32Array;
}

/** A block as it can be stored. */
export interface Draft extends Scales {
  readonly levels: Float32Array;
  readonly stored: Float32Array;
  /** V of its columns. */
  readonly misses: Float32Array;
  /** Σ D·V². */
  readonly loss: number;
}

/** A block to round: the first column, W of its columns and what they are to be rounded to before any of them is. */
export interface Block {
  readonly from: number;
  readonly values: Float32Array;
  readonly targets: Float32Array;
}

/** Numbers of one group. */
interface Numbers {
  readonly scale: number;
  readonly offset: number;
  readonly zero: number;
  readonly scaleCode: number;
  readonly offsetCode: number;
}

/** Changes the numbers of a group, within what the type can store. */
function change(grid: Grid, numbers: Numbers, trial: Trial): Numbers {
  const { scaleCodes, offsetCodes, levels } = grid;
  if (scaleCodes !== undefined) {
    return {
      ...numbers,
      scaleCode: max(scaleCodes.lowest, min(scaleCodes.highest, numbers.scaleCode + trial.scale)),
      offsetCode:
        offsetCodes === undefined
          ? numbers.offsetCode
          : max(offsetCodes.lowest, min(offsetCodes.highest, numbers.offsetCode + trial.offset)),
    };
  }
  if (trial.zero !== 0) return { ...numbers, zero: max(0, min(levels.highest, numbers.zero + trial.zero)) };
  if (trial.scale === 0) return numbers;
  const scale = allowedScale(grid, numbers.scale * fround(1 + trial.scale));
  if (grid.offset === undefined) return { ...numbers, scale };
  // The middle of the levels stays where it is; such types add their offset.
  const middle = (levels.lowest + levels.highest) / 2;
  const moved = fround(fround(numbers.scale - scale) * middle);
  return { ...numbers, scale, offset: allowedOffset(grid, numbers.offset + moved) };
}

/** A group's columns rounded one by one. */
interface Rounded {
  readonly levels: Float32Array;
  readonly stored: Float32Array;
  readonly misses: Float32Array;
  readonly loss: number;
}

function roundGroup(
  grid: Grid,
  { factor, pivots, eights, width }: Metric,
  group: Group,
  shiftCode: number,
  first: number,
  values: Float32Array,
  targets: Float32Array,
): Rounded {
  const { size } = grid;
  const fed = targets.slice();
  const levels = new Float32Array(size);
  const stored = new Float32Array(size);
  const misses = new Float32Array(size);
  let loss = 0;
  for (let j = 0; j < size; j++) {
    if (grid.points === undefined) {
      levels[j] = levelOf(grid, group, fed[j]!);
    } else if (j % EIGHT === 0) {
      const own = eights.subarray(first + j, first + j + EIGHT);
      const wanted = fed.slice(j, j + EIGHT);
      for (let a = 0; a < EIGHT; a++) {
        const rest = fround(values[j + a]! - wanted[a]!);
        for (let b = a + 1; b < EIGHT; b++) {
          wanted[b]! += fround(rest * factor[(first + j + a) * width + first + j + b]!);
        }
      }
      levels.set(placeEight(grid.points, group, shiftCode, wanted, own), j);
    }
    stored[j] = valueOf(group, levels[j]!);
    misses[j] = fed[j]! - stored[j]!;
    loss = fround(loss + fround(fround(pivots[first + j]! * misses[j]!) * misses[j]!));
    const error = fround(values[j]! - stored[j]!);
    const row = (first + j) * width + first;
    for (let k = j + 1; k < size; k++) fed[k]! += fround(error * factor[row + k]!);
  }
  return { levels, stored, misses, loss };
}

/** Rounds a block group by group; each takes the trial that loses the least. */
export function attempt(
  grid: Grid,
  metric: Metric,
  trials: readonly Trial[],
  block: Block,
  scales: Scales,
): Draft {
  const { size, values: count } = grid;
  const fed = block.targets.slice();
  let { scale, offset, zero } = scales;
  const scaleCodes = scales.scaleCodes.slice();
  const offsetCodes = scales.offsetCodes.slice();
  const levels = new Float32Array(count);
  const stored = new Float32Array(count);
  const misses = new Float32Array(count);
  let loss = 0;
  for (let g = 0; g < count / size; g++) {
    const start = g * size;
    const first = block.from + start;
    const base = { scale, offset, zero, scaleCode: scaleCodes[g]!, offsetCode: offsetCodes[g]! };
    const values = block.values.subarray(start, start + size);
    const targets = fed.subarray(start, start + size);
    let best: Rounded | undefined;
    for (const trial of trials) {
      const numbers = change(grid, base, trial);
      const group = groupOf(
        grid,
        numbers.scale,
        numbers.offset,
        numbers.zero,
        numbers.scaleCode,
        numbers.offsetCode,
      );
      const rounded = roundGroup(grid, metric, group, numbers.offsetCode, first, values, targets);
      if (best !== undefined && !(rounded.loss < best.loss)) continue;
      best = rounded;
      ({ scale, offset, zero } = numbers);
      scaleCodes[g] = numbers.scaleCode;
      offsetCodes[g] = numbers.offsetCode;
    }
    levels.set(best!.levels, start);
    stored.set(best!.stored, start);
    misses.set(best!.misses, start);
    loss = fround(loss + best!.loss);
    for (let j = 0; j < size; j++) {
      const error = fround(values[j]! - best!.stored[j]!);
      const row = (first + j) * metric.width + block.from;
      for (let k = start + size; k < count; k++) fed[k]! += fround(error * metric.factor[row + k]!);
    }
  }
  return { scale, offset, zero, scaleCodes, offsetCodes, levels, stored, misses, loss };
}

/** What a column's V changes by with the scale (or offset) of the block, over columns up to `to`. */
export function influence(
  { factor, width }: Metric,
  parts: Float32Array,
  from: number,
  to: number,
): Float32Array {
  const out = new Float32Array(to - from);
  for (let k = 0; k < parts.length; k++) {
    for (let j = k; j < out.length; j++)
      out[j]! += fround(parts[k]! * factor[(from + k) * width + from + j]!);
  }
  return out;
}

/** Sums over the columns of D times the products of two influences and the misses. */
export function fitOf(
  pivots: Float32Array,
  from: number,
  misses: Float32Array,
  byScale: Float32Array,
  byOffset: Float32Array | undefined,
): { scale: number; offset: number } {
  let [ss, so, oo, sv, ov] = [0, 0, 0, 0, 0];
  for (const [j, own] of byScale.entries()) {
    const weighted = fround(pivots[from + j]! * own);
    ss = fround(ss + fround(weighted * own));
    sv = fround(sv + fround(weighted * misses[j]!));
    if (byOffset === undefined) continue;
    const other = byOffset[j]!;
    const weightedOther = fround(pivots[from + j]! * other);
    so = fround(so + fround(weighted * other));
    oo = fround(oo + fround(weightedOther * other));
    ov = fround(ov + fround(weightedOther * misses[j]!));
  }
  const alone = { scale: ss > 0 ? fround(sv / ss) : 0, offset: 0 };
  if (byOffset === undefined) return alone;
  const product = fround(ss * oo);
  const determinant = fround(product - fround(so * so));
  // Nearly parallel influences leave nothing but rounding errors.
  if (!(determinant > fround(product * fround(2 ** -12)))) return alone;
  return {
    scale: fround(fround(fround(sv * oo) - fround(ov * so)) / determinant),
    offset: fround(fround(fround(sv * so) - fround(ov * ss)) / determinant),
  };
}

/** The parts of a block's values that its scale and its offset multiply. */
export function partsOf(
  grid: Grid,
  draft: Pick<Draft, "levels" | "scaleCodes" | "offsetCodes">,
): { scale: Float32Array; offset: Float32Array } {
  const { size } = grid;
  return {
    scale: draft.levels.map((level, j) => level * draft.scaleCodes[Math.floor(j / size)]!),
    offset: draft.levels.map((_, j) => draft.offsetCodes[Math.floor(j / size)]!),
  };
}

/** The halves that suit a block's levels best. */
function refit(grid: Grid, metric: Metric, from: number, draft: Draft): Scales {
  if (grid.scales !== undefined) return draft;
  const parts = partsOf(grid, draft);
  const to = from + grid.values;
  const byScale = influence(metric, parts.scale, from, to);
  const byOffset = grid.offset && influence(metric, parts.offset, from, to);
  const fit = fitOf(metric.pivots, from, draft.misses, byScale, byOffset);
  return {
    ...draft,
    scale: allowedScale(grid, draft.scale + fit.scale),
    offset: grid.offset ? allowedOffset(grid, draft.offset + fit.offset) : draft.offset,
  };
}

/** The best draft of a block that its effort finds, beginning with scales that were searched. */
export function roundBlock(
  grid: Grid,
  metric: Metric,
  trials: readonly Trial[],
  refits: number,
  block: Block,
  scales: Scales,
): Draft {
  let best = attempt(grid, metric, trials, block, scales);
  for (let pass = 0; pass < refits; pass++) {
    const tried = attempt(grid, metric, trials, block, refit(grid, metric, block.from, best));
    if (tried.loss < best.loss) best = tried;
  }
  return best;
}
