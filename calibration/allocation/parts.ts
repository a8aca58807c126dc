import type { Gemma4Config, Role, Weight } from "../../src/gemma4/types.js";
import { headWeight } from "../../src/gemma4/weights.js";
import type { BoundWeight } from "../../src/gemma4/bind.js";

/** Matrices that are rounded in both formats. */
const MATRICES: ReadonlySet<Role> = new Set([
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "ffn_gate",
  "ffn_up",
  "ffn_down",
  "experts_gate_up",
  "experts_down",
  "ple_gate",
  "ple_layer_projection",
]);

const TABLES: ReadonlySet<Role> = new Set(["embedding", "ple_table"]);

/** A matrix or table, by the use that is made of it: the table of a tied model is two parts. */
export interface Part {
  readonly weight: Weight;
  readonly kind: "matrix" | "table" | "head";
  /** Whether the checkpoint has a tensor of this name; not so the output matrix of a tied model. */
  readonly stored: boolean;
  /** Whether nothing rounds it in GGUF files. */
  readonly onnxOnly: boolean;
}

/** All parts of a model that may be rounded, in the order of the weights; the output matrix comes last. */
export function partsToRound(config: Gemma4Config, weights: readonly BoundWeight[]): Part[] {
  const parts = weights.flatMap(({ weight }): Part[] => {
    const { role, unused } = weight;
    if (unused || role === "head") return [];
    if (TABLES.has(role)) return [{ weight, kind: "table", stored: true, onnxOnly: false }];
    if (role === "ple_projection") return [{ weight, kind: "matrix", stored: true, onnxOnly: true }];
    return MATRICES.has(role) ? [{ weight, kind: "matrix", stored: true, onnxOnly: false }] : [];
  });
  const stored = weights.some(({ weight }) => weight.role === "head");
  return [...parts, { weight: headWeight(config), kind: "head", stored, onnxOnly: false }];
}
