import { createHash } from "node:crypto";
import { isTable } from "./assign.js";
import type { Plan, PlannedTensor } from "./plan.js";

/** Bytes of a tensor that were made before, with feedback of the errors of some values into others. */
export interface RoundedBytes {
  /** Of each output: a file and a place in it. */
  readonly pieces: readonly { readonly path: string; readonly offset: number; readonly bytes: number }[];
  readonly sha256: string;
  readonly effort: 0 | 1 | 2;
}

/**
 * Tensors of a plan that can be rounded with feedback: matrices, or stacks of them, to blocks of few bits. Tables are
 * none, as nothing is multiplied by them, but for that of a model whose output matrix it is as well.
 */
export function roundable({ tensors }: Plan): PlannedTensor[] {
  const tied = !tensors.some(({ name }) => name === "output.weight");
  return tensors.filter(({ name, ne, origin, method, type, unused = false }) => {
    if (unused) return false;
    const multiplied = name === "output.weight" || (tied && name === "token_embd.weight") || !isTable(name);
    return (
      origin.kind === "file" && method === "search" && type !== origin.type && ne.length >= 2 && multiplied
    );
  });
}

/**
 * A plan that takes the bytes of some of its tensors from where they were made before.
 *
 * @param find bytes of a tensor; undefined for one that is still to be rounded by the plan's method
 */
export function withRounded(plan: Plan, find: (tensor: PlannedTensor) => RoundedBytes | undefined): Plan {
  const hashes: string[] = [];
  const tensors = plan.tensors.map((tensor): PlannedTensor => {
    const rounded = find(tensor);
    if (rounded === undefined) return tensor;
    const bytes = rounded.pieces.reduce((sum, piece) => sum + piece.bytes, 0);
    if (bytes !== tensor.byteLength || rounded.pieces.length !== 1) {
      throw new RangeError(`${tensor.name} was rounded to ${bytes} bytes, planned are ${tensor.byteLength}`);
    }
    hashes.push(`${tensor.name} ${rounded.sha256}`);
    return { ...tensor, method: "gptq", rounded };
  });
  if (hashes.length === 0) return plan;
  const hash = createHash("sha256")
    .update(JSON.stringify([plan.hash, hashes]))
    .digest("hex");
  return { ...plan, tensors, method: "gptq", hash };
}
