import { formatSize } from "../../src/base/sizes.js";
import { StatisticsError } from "./errors.js";
import type { Moments } from "./types.js";

/** Widths of blocks are multiples of this: no block type has longer blocks. */
const BLOCK_QUANTUM = 256;

/** Inputs up to this width are looked at whole: that of E2B's MLP, whose moments cost as much as its layer. */
const FULL_COLUMNS = 6144;

/**
 * About so many columns of a full matrix are computed at once: below the diagonal only, which at 6,144 columns takes
 * 2.7 s for 4,096 rows where the whole matrix takes 3.7 s.
 */
const PIECE_COLUMNS = 1536;

/** Copies of the moments at a time: what is summed, what the runtime makes of a batch, and what it hands out. */
const COPIES = 3;

const FLOAT_BYTES = 4;

/** How the moments of an input are taken. */
export interface MomentPlan {
  readonly columns: number;
  readonly blockWidth: number;
  /** Every so many rows one is looked at. */
  readonly stride: number;
}

/** Rows and columns of a matrix of moments that are computed at once. */
export interface Piece {
  readonly row: number;
  readonly rows: number;
  readonly column: number;
  readonly columns: number;
}

/** An input whose moments are wanted. */
export interface MomentDemand {
  readonly input: string;
  readonly columns: number;
  /** Matrices of moments: one, or one an expert. */
  readonly count: number;
}

export interface MomentLimits {
  readonly memory: number;
  readonly fullColumns?: number;
  /** Lengths of the windows: the stride has no divisor in common with them, so that every place gets its turn. */
  readonly lengths: ReadonlySet<number>;
  /** Whether there are moments between two models besides. */
  readonly cross?: boolean;
}

/** Values of the moments of an input in blocks of a width. */
function valuesOf({ columns, count }: MomentDemand, width: number): number {
  return columns * Math.min(columns, width) * count;
}

/**
 * Divides memory among the moments of a step. All get blocks on the diagonal; what is left goes to the narrow ones
 * first, and what a matrix does not need of its share is there for the wider ones.
 *
 * @throws StatisticsError `memory-too-small`, exit code 2
 */
export function planMoments(demands: readonly MomentDemand[], limits: MomentLimits): Map<string, MomentPlan> {
  const plans = new Map<string, MomentPlan>();
  const bytes = FLOAT_BYTES * COPIES * (limits.cross === true ? 2 : 1);
  const ascending = demands.toSorted((a, b) => valuesOf(a, a.columns) - valuesOf(b, b.columns));
  const least = ascending.reduce((sum, demand) => sum + valuesOf(demand, BLOCK_QUANTUM), 0);
  let spare = limits.memory / bytes - least;
  if (spare < 0) {
    throw new StatisticsError(
      "memory-too-small",
      `${formatSize(limits.memory)} do not hold the moments of ${demands.map(({ input }) => input).join(", ")} even in blocks of ${BLOCK_QUANTUM} columns, expected ${formatSize(least * bytes)} or more`,
      { exitCode: 2, advice: "Raise --memory." },
    );
  }
  for (const [index, demand] of ascending.entries()) {
    const { input, columns, count } = demand;
    const start = valuesOf(demand, BLOCK_QUANTUM);
    const share = start + spare / (ascending.length - index);
    const fits = valuesOf(demand, columns) <= share;
    const width = fits ? columns : Math.floor(share / columns / count / BLOCK_QUANTUM) * BLOCK_QUANTUM;
    const stride = count > 1 ? 1 : strideFor(columns * width, limits);
    plans.set(input, { columns, blockWidth: width, stride });
    spare -= valuesOf(demand, width) - start;
  }
  return plans;
}

/** So that moments of `size` values cost no more than full ones of the widest input that is looked at whole. */
function strideFor(size: number, { fullColumns = FULL_COLUMNS, lengths }: MomentLimits): number {
  let stride = Math.max(1, Math.ceil(size / fullColumns ** 2));
  while ([...lengths].some((length) => divisor(stride, length) > 1)) stride++;
  return stride;
}

function divisor(a: number, b: number): number {
  return b === 0 ? a : divisor(b, a % b);
}

/** Values of one matrix of moments. */
export function momentValues({ columns, blockWidth }: Pick<MomentPlan, "columns" | "blockWidth">): number {
  const whole = Math.floor(columns / blockWidth);
  return whole * blockWidth ** 2 + (columns - whole * blockWidth) ** 2;
}

/**
 * What is computed of a matrix of moments.
 *
 * @param symmetric whether the part above the diagonal can be left out
 */
export function piecesOf({ columns, blockWidth }: MomentPlan, symmetric: boolean): Piece[] {
  const full = blockWidth === columns;
  const count = Math.max(1, Math.round(columns / PIECE_COLUMNS));
  const step = full ? Math.ceil(columns / count) : blockWidth;
  const pieces: Piece[] = [];
  for (let row = 0; row < columns; row += step) {
    const rows = Math.min(step, columns - row);
    if (!full) pieces.push({ row, rows, column: row, columns: rows });
    else pieces.push({ row, rows, column: 0, columns: symmetric ? row + rows : columns });
  }
  return pieces;
}

/** Sums moments piece by piece. */
export class MomentSum {
  readonly #plan: Pick<MomentPlan, "columns" | "blockWidth">;
  readonly #values: Float32Array;
  #tokens = 0;

  constructor(plan: Pick<MomentPlan, "columns" | "blockWidth">) {
    this.#plan = plan;
    this.#values = new Float32Array(momentValues(plan));
  }

  /** @param values [piece.rows, piece.columns] */
  add({ row, rows, column, columns }: Piece, values: Float32Array): void {
    const { blockWidth } = this.#plan;
    const full = blockWidth === this.#plan.columns;
    // Blocks before this one are whole.
    const start = full ? row * blockWidth + column : row * blockWidth;
    const step = full ? blockWidth : columns;
    const sum = this.#values;
    for (let i = 0; i < rows; i++) {
      const at = start + i * step;
      for (let j = 0; j < columns; j++) sum[at + j]! += values[i * columns + j]!;
    }
  }

  /** Counts rows that were added. */
  count(tokens: number): void {
    this.#tokens += tokens;
  }

  /** @param symmetric whether the part above the diagonal is still to be filled from below it */
  finish(symmetric: boolean): Moments {
    const { columns, blockWidth } = this.#plan;
    if (symmetric && blockWidth === columns) mirror(this.#values, columns);
    return { columns, blockWidth, values: this.#values, tokens: this.#tokens };
  }
}

/** Copies what is below the diagonal to above it, in tiles that stay in the cache. */
export function mirror(values: Float32Array, columns: number): void {
  const tile = 64;
  for (let top = 0; top < columns; top += tile) {
    for (let left = 0; left <= top; left += tile) {
      const bottom = Math.min(top + tile, columns);
      for (let row = top; row < bottom; row++) {
        const right = Math.min(left + tile, row);
        for (let column = left; column < right; column++) {
          values[column * columns + row] = values[row * columns + column]!;
        }
      }
    }
  }
}
