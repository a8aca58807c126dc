import type { TargetType } from "../../src/pool/tiles.js";

/** How long is looked for the codes of a block: 0 once through, 1 with its scales fitted again, 2 until it settles. */
export type Effort = 0 | 1 | 2;

/** A piece of a matrix, some rows of some columns, with what is known of the others. */
export interface PanelProblem {
  readonly target: TargetType;
  readonly effort: Effort;
  /** A multiple of 4, of at most 256. */
  readonly rows: number;
  /** Whole blocks, 256 columns at most. */
  readonly width: number;
  /** W, [rows, width] */
  readonly values: Float32Array;
  /** Feedback of the errors of earlier columns, [rows, width]. */
  readonly columnFeedback: Float32Array;
  /** Feedback of the errors of earlier rows, [rows, width]; null where rows have nothing to do with each other. */
  readonly rowFeedback: Float32Array | null;
  /** A of these columns, [width, width], unit upper triangular. */
  readonly columnFactor: Float32Array;
  /** D of these columns, [width]; all positive. */
  readonly pivots: Float32Array;
  /** B of these rows, [rows, rows], unit upper triangular; null without feedback over rows. */
  readonly rowFactor: Float32Array | null;
}

/** A piece that is rounded. */
export interface RoundedPanel {
  /** Blocks, or codes, scales (little-endian halves) and zero points (a byte each), row by row. */
  readonly outputs: readonly Uint8Array[];
  /** What a reader makes of the outputs, [rows, width]. */
  readonly stored: Float32Array;
  /** What later rows need: the column feedback plus E·A of these columns, [rows, width]. */
  readonly products: Float32Array;
  /** Σ D·v² of each row, [rows]. */
  readonly losses: Float32Array;
}

/** Rounds pieces, one after the other; what it gives is read before the next one. */
export interface PanelRounder {
  round(problem: PanelProblem): RoundedPanel;
}
