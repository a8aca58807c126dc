import type { Grid } from "./grid.js";

/** A change of a group's scale, offset or zero point that is tried. */
export interface Trial {
  /** Steps of the scale's code, or for blocks of one scale the part by which that grows. */
  readonly scale: number;
  /** Steps of the offset's code. */
  readonly offset: number;
  readonly zero: number;
}

const none: Trial = { scale: 0, offset: 0, zero: 0 };

/** Scale and offset one step on: each alone, then both, which keeps the middle of the levels where it is or not. */
const bothCodes: readonly Trial[] = [
  none,
  { scale: 1, offset: 0, zero: 0 },
  { scale: -1, offset: 0, zero: 0 },
  { scale: 0, offset: 1, zero: 0 },
  { scale: 0, offset: -1, zero: 0 },
  { scale: 1, offset: 1, zero: 0 },
  { scale: -1, offset: -1, zero: 0 },
];

/** What is tried for a group at its turn; the first of them changes nothing, and is all that effort 0 does. */
export function trialsOf(grid: Grid, effort: number): readonly Trial[] {
  if (effort === 0) return [none];
  if (grid.offsetCodes !== undefined) return bothCodes;
  const { scaleCodes, nearScales } = grid;
  if (grid.points !== undefined) {
    const step = 2 * scaleCodes!.lowest;
    return [none, ...[-step, step].map((scale) => ({ ...none, scale }))];
  }
  if (scaleCodes !== undefined) {
    // Codes of eight bits lie so close together that the next one changes next to nothing.
    const step = scaleCodes.highest - scaleCodes.lowest === 255 ? 2 : 1;
    return [none, ...[-2, -1, 1, 2].map((steps) => ({ ...none, scale: steps * step }))];
  }
  const points = grid.zeroPoints ? [-1, 1].map((zero) => ({ ...none, zero })) : [];
  return [none, ...points, ...nearScales.map((scale) => ({ ...none, scale }))];
}

/** How often the halves of a block are fitted and its values rounded anew. */
export function refitsOf(grid: Grid, effort: number): number {
  if (effort === 0) return 0;
  // To place points takes long, and the second time gains a third of a percent.
  return grid.points === undefined ? 2 : 1;
}

/** How often the levels and scales of the panel take turns; five times would lose another half a percent less. */
export function sweepsOf(effort: number): number {
  return effort === 2 ? 3 : 0;
}
