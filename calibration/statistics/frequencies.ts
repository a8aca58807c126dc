import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import { listWeights } from "../../src/gemma4/weights.js";
import type { TokenFrequencies } from "./types.js";

/** How often each row of the embedding, and of the table of per-layer embeddings, is read on a text. */
export function tokenFrequencies(
  { config, placeholders, padding }: CheckpointParts,
  windows: readonly Int32Array[],
): TokenFrequencies[] {
  const tables = listWeights(config).filter(({ role }) => role === "embedding" || role === "ple_table");
  const replaced = new Set(placeholders);
  return tables.map(({ name, role, shape }) => {
    const counts = new Float64Array(shape[0]!);
    for (const window of windows) {
      // Per-layer embeddings of a placeholder are those of the padding token.
      for (const id of window) counts[role === "ple_table" && replaced.has(id) ? padding : id]! += 1;
    }
    return { weight: name, counts };
  });
}
