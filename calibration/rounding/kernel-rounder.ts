import type { FeedbackOutput } from "../../src/blocks/feedback/problem.js";
import { roundWithFeedback } from "../../src/blocks/feedback/reference.js";
import type { TargetType } from "../../src/pool/tiles.js";
import type { PanelProblem, PanelRounder, RoundedPanel } from "./types.js";

/** What a reader needs of what the kernels give. */
export function outputsOf(target: TargetType, { blocks, scales, zeroPoints }: FeedbackOutput): Uint8Array[] {
  if (typeof target === "string") return [blocks];
  return target.zeroPoints ? [blocks, scales, zeroPoints] : [blocks, scales];
}

/** Rounds pieces by the plain statement of the method. */
export class ReferenceRounder implements PanelRounder {
  round(problem: PanelProblem): RoundedPanel {
    const { target, rows, width, effort, rowFactor, rowFeedback } = problem;
    const output = roundWithFeedback(
      target,
      { rows, width, effort, rowFeedback: rowFactor !== null },
      {
        values: problem.values,
        carried: problem.columnFeedback,
        added: rowFeedback ?? new Float32Array(rows * width),
        factor: problem.columnFactor,
        pivots: problem.pivots,
        rowFactor: rowFactor ?? new Float32Array(rows * rows),
      },
    );
    return {
      outputs: outputsOf(target, output),
      stored: output.stored,
      products: output.errors,
      losses: output.losses,
    };
  }
}
