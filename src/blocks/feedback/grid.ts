/**
 * Where the values of a block may lie, as numbers that rounding with feedback works on: `reference.ts` and its kernels
 * know no other difference between types.
 *
 * A block has a scale and an offset, both halves, and its groups have whole numbers that multiply these. In a group
 * value = scale · scaleCode · level − offset · offsetCode, where the product of the first three and that of the last
 * two are exact in float32. Types without codes for their groups have constant ones.
 */

import type { Lattice } from "./points.js";

/** A range of whole numbers, both ends within. */
export interface Range {
  readonly lowest: number;
  readonly highest: number;
}

/** The grid of a type. */
export interface Grid {
  /** Values of a block. */
  readonly values: number;
  /** Values of a group, 16 or more. */
  readonly size: number;
  /** Levels of a value: all whole numbers of a range, */
  readonly levels: Range;
  /** or these, ascending, at most 16; `levels` then has the first and the last one. */
  readonly codebook?: readonly number[];
  /** Where levels are not chosen one by one, the points that eight of them make up. */
  readonly points?: Lattice;
  /** Codes that the scale of a group may have; absent where they are constant. */
  readonly scaleCodes?: Range;
  /** Codes that the offset of a group may have; absent where they are constant. */
  readonly offsetCodes?: Range;
  /** The scale of a group by its code, 256 of them, for types whose blocks have none. */
  readonly scales?: Float32Array;
  /** Whether blocks have an offset, and the least that it may be. */
  readonly offset?: { readonly least: number };
  /** The least that the scale of a block may be. */
  readonly leastScale: number;
  /** Whether each block has its own zero point: its levels are 0 … `levels.highest` less that. */
  readonly zeroPoints: boolean;
  /** Parts of a scale that the scales lie above and below it that are tried beside it; for types without codes. */
  readonly nearScales: readonly number[];
}

/** The most groups of a panel: `MAX_WIDTH` values in groups of 16. */
export const MAX_GROUPS = 16;

/** Widest panel, and most rows of a chunk. */
export const MAX_WIDTH = 256;
export const MAX_ROWS = 256;

/** Rows that are rounded side by side. */
export const LANES = 4;
