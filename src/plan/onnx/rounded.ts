import { createHash } from "node:crypto";
import type { RoundedBytes } from "../rounded.js";
import type { OnnxPlan, PlannedMatrix } from "./plan.js";

/** Matrices of a plan that can be rounded with feedback: those of codes, but for tables, which nothing is multiplied by. */
export function roundableMatrices({ graphs }: OnnxPlan): PlannedMatrix[] {
  return graphs
    .flatMap(({ matrices }) => matrices)
    .filter(
      ({ form, weight, method, row, inputRow }) =>
        form.kind === "nbits" &&
        method === "search" &&
        row === inputRow &&
        weight.role !== "embedding" &&
        weight.role !== "ple_table",
    );
}

/**
 * A plan that takes the codes of some of its matrices from where they were made before.
 *
 * @param find codes, scales and zero points of a matrix, or of the rows of one that is cut; undefined for one that is
 *   still to be rounded by the plan's method
 */
export function withRoundedMatrices(
  plan: OnnxPlan,
  find: (matrix: PlannedMatrix) => RoundedBytes | undefined,
): OnnxPlan {
  const hashes: string[] = [];
  const graphs = plan.graphs.map((graph) => ({
    ...graph,
    matrices: graph.matrices.map((matrix): PlannedMatrix => {
      const rounded = find(matrix);
      if (rounded === undefined) return matrix;
      const bytes = rounded.pieces.reduce((sum, piece) => sum + piece.bytes, 0);
      if (bytes !== matrix.byteLength || rounded.pieces.length !== matrix.outputs.length) {
        throw new RangeError(
          `${matrix.name} was rounded to ${bytes} bytes in ${rounded.pieces.length} pieces, planned are ${matrix.byteLength} in ${matrix.outputs.length}`,
        );
      }
      hashes.push(`${graph.file} ${matrix.name} ${rounded.sha256}`);
      return { ...matrix, method: "gptq", rounded };
    }),
  }));
  if (hashes.length === 0) return plan;
  const hash = createHash("sha256")
    .update(JSON.stringify([plan.hash, hashes]))
    .digest("hex");
  return { ...plan, graphs, method: "gptq", hash };
}
