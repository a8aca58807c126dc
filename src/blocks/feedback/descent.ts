/**
 * Coordinate descent on a rounded row of a panel: every level moves to where the loss of the whole panel is least beside
 * the others, and codes, scales and offsets do so as well. Sums are float32; `fround` stands wherever the kernels round.
 */

import { fitOf, influence, partsOf } from "./block.js";
import type { Grid } from "./grid.js";
import { allowedOffset, allowedScale, groupOf, levelOf, valueOf } from "./levels.js";
import { dot, type Metric } from "./metric.js";
import { EIGHT, type Lattice, placeEight } from "./points.js";

const { fround, max, min } = Math;

/** A row of a panel as it is stored; blocks and groups are numbered along it. */
export interface Row {
  readonly scales: Float32Array;
  readonly offsets: Float32Array;
  readonly zeros: Float32Array;
  readonly scaleCodes: Float32Array;
  readonly offsetCodes: Float32Array;
  readonly levels: Float32Array;
  readonly stored: Float32Array;
}

function groupAt(grid: Grid, row: Row, g: number) {
  const b = Math.floor((g * grid.size) / grid.values);
  return groupOf(
    grid,
    row.scales[b]!,
    row.offsets[b]!,
    row.zeros[b]!,
    row.scaleCodes[g]!,
    row.offsetCodes[g]!,
  );
}

/** Moves every level to the place that is best beside the others. */
function moveLevels(grid: Grid, metric: Metric, row: Row, misses: Float32Array): void {
  const { width, weighted, inverses, factor } = metric;
  for (let j = 0; j < width; j++) {
    const group = groupAt(grid, row, Math.floor(j / grid.size));
    const pull = dot(misses, weighted, j * width, j, width);
    const best = fround(row.stored[j]! + fround(pull * inverses[j]!));
    const level = levelOf(grid, group, best);
    const value = valueOf(group, level);
    const moved = fround(value - row.stored[j]!);
    row.levels[j] = level;
    row.stored[j] = value;
    if (moved === 0) continue;
    for (let k = j; k < width; k++) misses[k]! -= fround(moved * factor[j * width + k]!);
  }
}

/** Moves every eight values to the point that is nearest to what is best beside the others, where that helps. */
function movePoints(
  grid: Grid,
  lattice: Lattice,
  metric: Metric,
  solvers: Float32Array,
  row: Row,
  misses: Float32Array,
): void {
  const { width, weighted, curvatures, pivots } = metric;
  for (let j = 0; j < width; j += EIGHT) {
    const g = Math.floor(j / grid.size);
    const group = groupAt(grid, row, g);
    const best = row.stored.slice(j, j + EIGHT);
    for (let b = 0; b < EIGHT; b++) {
      const pull = dot(misses, weighted, (j + b) * width, j + b, width);
      for (let a = 0; a < EIGHT; a++) best[a]! += fround(pull * solvers[EIGHT * (j + b) + a]!);
    }
    const own = curvatures.subarray(j, j + EIGHT);
    const levels = placeEight(lattice, group, row.offsetCodes[g]!, best, own);
    const stored = levels.map((level) => valueOf(group, level));
    const by = influence(
      metric,
      stored.map((value, k) => value - row.stored[j + k]!),
      j,
      width,
    );
    let gain = 0;
    for (const [k, moved] of by.entries()) {
      const miss = misses[j + k]!;
      const twice = fround(fround(miss + miss) - moved);
      gain = fround(gain + fround(fround(pivots[j + k]! * moved) * twice));
    }
    if (!(gain > 0)) continue;
    row.levels.set(levels, j);
    row.stored.set(stored, j);
    move(misses, j, by, 1);
  }
}

/** Takes what a change of the stored values adds away from the misses. */
function move(misses: Float32Array, from: number, by: Float32Array, change: number): void {
  for (const [j, own] of by.entries()) misses[from + j]! -= fround(change * own);
}

/** One step up or down, or none: by how much the loss falls with a change of an amount. */
function gainOf(change: number, product: number, square: number): number {
  return fround(change * fround(fround(product + product) - fround(change * square)));
}

/** Moves the codes of groups by one step where that helps, and the values of the group with them. */
function moveCodes(grid: Grid, metric: Metric, row: Row, misses: Float32Array, of: "scale" | "offset"): void {
  const { size } = grid;
  const { width, pivots } = metric;
  const range = of === "scale" ? grid.scaleCodes : grid.offsetCodes;
  if (range === undefined) return;
  const codes = of === "scale" ? row.scaleCodes : row.offsetCodes;
  for (let g = 0; g < width / size; g++) {
    const from = g * size;
    const levels = row.levels.subarray(from, from + size);
    const by = influence(metric, of === "scale" ? levels : new Float32Array(size).fill(-1), from, width);
    let square = 0;
    let product = 0;
    for (const [j, own] of by.entries()) {
      const weighted = fround(pivots[from + j]! * own);
      square = fround(square + fround(weighted * own));
      product = fround(product + fround(weighted * misses[from + j]!));
    }
    const amountOf = (): number => {
      const group = groupAt(grid, row, g);
      return of === "scale" ? group.scale : group.offset;
    };
    const code = codes[g]!;
    const amount = amountOf();
    let best = code;
    let change = 0;
    let most = 0;
    for (const step of grid.points ? [-2 * range.lowest, 2 * range.lowest] : [-1, 1]) {
      codes[g] = max(range.lowest, min(range.highest, code + step));
      const tried = fround(amountOf() - amount);
      const gain = gainOf(tried, product, square);
      if (!(gain > most)) continue;
      most = gain;
      change = tried;
      best = codes[g]!;
    }
    codes[g] = best;
    move(misses, from, by, change);
    const group = groupAt(grid, row, g);
    for (let j = from; j < from + size; j++) row.stored[j] = valueOf(group, row.levels[j]!);
  }
}

/** Fits the halves of every block to its levels. */
function moveHalves(grid: Grid, metric: Metric, row: Row, misses: Float32Array): void {
  const { size, values } = grid;
  if (grid.scales !== undefined) return;
  for (let b = 0; b < metric.width / values; b++) {
    const from = b * values;
    const groups = values / size;
    const parts = partsOf(grid, {
      levels: row.levels.subarray(from, from + values),
      scaleCodes: row.scaleCodes.subarray(b * groups, (b + 1) * groups),
      offsetCodes: row.offsetCodes.subarray(b * groups, (b + 1) * groups),
    });
    const byScale = influence(metric, parts.scale, from, metric.width);
    // The offset is taken off.
    const byOffset = grid.offset && influence(metric, parts.offset, from, metric.width);
    const fit = fitOf(metric.pivots, from, misses.subarray(from), byScale, byOffset);
    const scale = allowedScale(grid, row.scales[b]! + fit.scale);
    move(misses, from, byScale, fround(scale - row.scales[b]!));
    row.scales[b] = scale;
    if (byOffset !== undefined) {
      const offset = allowedOffset(grid, row.offsets[b]! + fit.offset);
      move(misses, from, byOffset, fround(row.offsets[b]! - offset));
      row.offsets[b] = offset;
    }
    for (let g = b * groups; g < (b + 1) * groups; g++) {
      const group = groupAt(grid, row, g);
      for (let j = g * size; j < (g + 1) * size; j++) row.stored[j] = valueOf(group, row.levels[j]!);
    }
  }
}

/** Descends for some sweeps; `misses` (V of the row) are kept up to date but for rounding. */
export function descend(
  grid: Grid,
  metric: Metric,
  solvers: Float32Array,
  row: Row,
  misses: Float32Array,
  sweeps: number,
): void {
  for (let sweep = 0; sweep < sweeps; sweep++) {
    if (grid.points === undefined) moveLevels(grid, metric, row, misses);
    else movePoints(grid, grid.points, metric, solvers, row, misses);
    moveCodes(grid, metric, row, misses, "scale");
    moveCodes(grid, metric, row, misses, "offset");
    moveHalves(grid, metric, row, misses);
  }
}
