import { blockType } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
import type { Candidate } from "./assign.js";
import { PlanError } from "./errors.js";
import type { Mix } from "./mixes.js";

/** Mixes that the upstream converter has an output type for. */
const CONVERTER_MIXES: readonly string[] = ["F32", "F16", "BF16", "Q8_0"];

/**
 * Whether the upstream converter writes a tensor as F32 whatever is asked for: one dimension, norms, the
 * router, and everything whose name does not end in `.weight`.
 */
export function alwaysF32(name: string, ne: readonly number[]): boolean {
  return (
    ne.length <= 1 ||
    name.endsWith("_norm.weight") ||
    name.endsWith("ffn_gate_inp.weight") ||
    !name.endsWith(".weight")
  );
}

/**
 * The type of every tensor as llama.cpp's checkpoint converter chooses it for an output type: unlike
 * llama-quantize it gives embeddings and `per_layer_model_proj` the output type too, and a row that does
 * not fit becomes F16.
 *
 * @throws PlanError `not-a-converter-mix`
 */
export function converterTypes(candidates: readonly Candidate[], mix: Mix): readonly BlockTypeName[] {
  if (!CONVERTER_MIXES.includes(mix.name)) {
    throw new PlanError("not-a-converter-mix", `llama.cpp's converter cannot write ${mix.name}`, {
      exitCode: 2,
      advice: `To match the converter choose one of ${CONVERTER_MIXES.join(", ")}.`,
    });
  }
  return candidates.map(({ name, ne }) => {
    if (alwaysF32(name, ne)) return "F32";
    return (ne[0] ?? 0) % blockType(mix.type).values === 0 ? mix.type : "F16";
  });
}
