import { FeedbackKernels } from "../../src/blocks/kernels/feedback-kernels.js";
import type { PanelProblem, PanelRounder, RoundedPanel } from "./types.js";

/** Rounds pieces by the kernels, in a memory of its own. */
export class KernelRounder implements PanelRounder {
  readonly #kernels: FeedbackKernels;

  /** @param module from `compileKernels` */
  constructor(module: WebAssembly.Module) {
    this.#kernels = new FeedbackKernels(module);
  }

  /** What it gives is valid until the next call. */
  round(problem: PanelProblem): RoundedPanel {
    const { target, rows, width, effort, rowFactor, rowFeedback } = problem;
    const input = this.#kernels.open(target, { rows, width, effort, rowFeedback: rowFactor !== null });
    input.values.set(problem.values);
    input.carried.set(problem.columnFeedback);
    if (rowFeedback === null) input.added.fill(0);
    else input.added.set(rowFeedback);
    input.factor.set(problem.columnFactor);
    input.pivots.set(problem.pivots);
    if (rowFactor !== null) input.rowFactor.set(rowFactor);
    const { blocks, scales, zeroPoints, stored, errors, losses } = this.#kernels.round();
    const outputs =
      typeof target === "string"
        ? [blocks]
        : target.zeroPoints
          ? [blocks, scales, zeroPoints]
          : [blocks, scales];
    return { outputs, stored, products: errors, losses };
  }
}
