import type { ImportanceEntry, ImportanceMatrix } from "../../formats/imatrix/types.js";
import { Kernels } from "../blocks/kernels/kernels.js";
import type { BlockTypeName } from "../blocks/types.js";
import { isTable, needsImportance } from "./assign.js";
import { PlanError } from "./errors.js";
import type { Mix } from "./mixes.js";
import type { PlannedMethod, PlannedTensor } from "./plan.js";

/** Whether an importance makes a difference to a type that is written by a method. */
export function heeds(type: BlockTypeName, method: PlannedMethod): boolean {
  if (method === "lattice") return false;
  return method === "search" || Kernels.heedsImportance(type);
}

/** Number of values that the importance of a tensor has: a value a column of each matrix. */
function expected({ ne }: PlannedTensor): number {
  return (ne[0] ?? 1) * (ne[2] ?? 1);
}

/** The tensor's importance, checked; tables have none, as nothing is multiplied by an embedding. */
function entryOf(tensor: PlannedTensor, matrix: ImportanceMatrix): ImportanceEntry | undefined {
  const entry = matrix.entries.get(tensor.name);
  if (entry === undefined || entry.values.length === expected(tensor)) return entry;
  if (isTable(tensor.name)) return undefined;
  throw new PlanError(
    "importance-mismatch",
    `${matrix.path}: ${tensor.name} has an importance of ${entry.values.length} values, expected ${expected(tensor)} (${tensor.ne.join(" × ")})`,
    { exitCode: 2, advice: "The importance matrix was made for another model: make one for this model." },
  );
}

function checkPresent(tensor: PlannedTensor, mix: Mix, matrix: ImportanceMatrix | undefined): void {
  const { name, type, unused } = tensor;
  // Nobody reads them, so that no garbage in them does harm.
  if (unused === true || !needsImportance(name, type, mix)) return;
  if (matrix === undefined) {
    throw new PlanError(
      "importance-required",
      `${mix.name} puts ${type} on tensor ${name}, which gives garbage without an importance matrix`,
      { exitCode: 2, advice: "Give one with --imatrix, or choose a mix of more bits." },
    );
  }
  throw new PlanError(
    "importance-missing",
    `${matrix.path}: no entry for tensor ${name}, on which ${mix.name} puts ${type}, which gives garbage without`,
    {
      exitCode: 2,
      advice: "Make the importance matrix with more text, or name another type for this tensor.",
    },
  );
}

/**
 * Gives every tensor whose type heeds it its part of an importance matrix.
 *
 * @throws PlanError `importance-required`, `importance-missing`, `importance-mismatch`, all exit code 2
 */
export function withImportance(
  tensors: readonly PlannedTensor[],
  mix: Mix,
  matrix: ImportanceMatrix | undefined,
): PlannedTensor[] {
  if (matrix !== undefined && !tensors.some(({ name }) => matrix.entries.has(name))) {
    const [first] = matrix.entries.keys();
    throw new PlanError(
      "importance-mismatch",
      `${matrix.path}: none of its ${matrix.entries.size} entries (${first}, …) is a tensor of this model`,
      { exitCode: 2, advice: "The importance matrix was made for another model: make one for this model." },
    );
  }
  return tensors.map((tensor) => {
    const entry = matrix === undefined ? undefined : entryOf(tensor, matrix);
    if (entry === undefined) checkPresent(tensor, mix, matrix);
    const heeded = entry !== undefined && heeds(tensor.type, tensor.method);
    return heeded ? { ...tensor, importance: entry.values } : tensor;
  });
}
