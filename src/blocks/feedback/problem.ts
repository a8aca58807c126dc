/**
 * Rounding with feedback, one chunk of rows of one panel of columns at a time.
 *
 * A matrix W is to be stored as Q with the least tr(G·E·H·Eᵀ), E = W − Q, where H and G are second moments on the side
 * of the columns and of the rows. With H = A·D·Aᵀ and G = B·S·Bᵀ, A and B unit upper triangular, D and S diagonal, that
 * is Σ S_i·D_j·V_ij² with V = Bᵀ·E·A. So every value is rounded to what is nearest to it plus what the errors of the
 * rows and columns before add to its V: Babai's nearest plane, of which GPTQ and LDLQ are forms.
 */

import { BlockError } from "../errors.js";
import { checkNBits, type NBitsType } from "../nbits/types.js";
import { blockType } from "../table.js";
import type { BlockTypeName } from "../types.js";
import { LANES, MAX_ROWS, MAX_WIDTH } from "./grid.js";

/** What values are rounded to: blocks of a type, or codes of a few bits. */
export type FeedbackTarget = BlockTypeName | NBitsType;

/**
 * How much is done for a block. 0: its scales are searched for the values as feedback leaves them, then its values are
 * rounded one by one. 1: scales beside these are tried and fitted under the metric of the block. 2: in the end all
 * levels and scales of the panel take turns until each is the best beside the others.
 */
export type Effort = 0 | 1 | 2;

/** What a call rounds. */
export interface FeedbackShape {
  /** Rows, a multiple of 4 up to 256; rows of zeros may fill them up. */
  readonly rows: number;
  /** Columns, whole blocks, up to 256. */
  readonly width: number;
  readonly effort: Effort;
  /** Whether errors of the rows before count (`rowFactor`); never those of the other three of the same four rows. */
  readonly rowFeedback: boolean;
}

/** Where a call finds what it rounds; matrices are row-major. All numbers are finite. */
export interface FeedbackInput {
  /** W [rows][width]. */
  readonly values: Float32Array;
  /** E·A [rows][width] of the panels before, for the columns of this one. */
  readonly carried: Float32Array;
  /** What the chunks of rows before add to the targets, [rows][width]. */
  readonly added: Float32Array;
  /** A [width][width]: ones on the diagonal; what lies below is not read. */
  readonly factor: Float32Array;
  /** D [width], above 0. */
  readonly pivots: Float32Array;
  /** B [rows][rows], of which what lies above the diagonal is read, where the rows feed back. */
  readonly rowFactor: Float32Array;
}

/** What a call makes of it. */
export interface FeedbackOutput {
  /** Q [rows][width], the very values that a decoder gives. */
  readonly stored: Float32Array;
  /** E·A [rows][width], the errors of this panel added to `carried`. */
  readonly errors: Float32Array;
  /** Σ D_j·V_ij² over the columns of the panel, for each row. */
  readonly losses: Float32Array;
  /** Blocks of a type, row by row; the codes of a few bits, row by row. */
  readonly blocks: Uint8Array;
  /** For codes of a few bits a half for each block, row by row; empty for types. */
  readonly scales: Uint8Array;
  /** For codes of a few bits the zero point of each block, a byte each and with or without stored ones; else empty. */
  readonly zeroPoints: Uint8Array;
}

/** Values and bytes of a block of a target. */
export function blockOf(target: FeedbackTarget): { readonly values: number; readonly bytes: number } {
  if (typeof target === "string") return blockType(target);
  return { values: target.block, bytes: (target.block * target.bits) / 8 };
}

/** The largest magnitude that searches take: NVFP4's scales end at 448 and its levels at 6. */
export function reachOf(target: FeedbackTarget): number {
  return target === "NVFP4" ? 2688 : 65504;
}

/** How a target is called in messages. */
export function nameOf(target: FeedbackTarget): string {
  return typeof target === "string" ? target : `${target.bits} bits in blocks of ${target.block}`;
}

/**
 * Checks a shape.
 *
 * @throws BlockError `bad-nbits`; `bad-panel` for rows or a width out of range, or a width that is not whole blocks
 */
export function checkShape(target: FeedbackTarget, { rows, width }: FeedbackShape): void {
  if (typeof target !== "string") checkNBits(target, width, rows);
  if (!Number.isInteger(rows) || rows < LANES || rows > MAX_ROWS || rows % LANES !== 0) {
    throw new BlockError("bad-panel", `${rows} rows are not a multiple of ${LANES} up to ${MAX_ROWS}`);
  }
  const { values } = blockOf(target);
  if (!Number.isInteger(width) || width < 1 || width > MAX_WIDTH || width % values !== 0) {
    throw new BlockError(
      "bad-panel",
      `a panel of ${width} columns is not whole blocks of ${nameOf(target)}, ${values} values each, up to ${MAX_WIDTH}`,
    );
  }
}
