import type { GgufModel } from "../../formats/gguf/types.js";
import { findBlockType } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
import { layerOf, quantizeOrder } from "./assign.js";
import { PlanError } from "./errors.js";
import { makePlan, type ModelTensor, type Plan, type PlanOptions } from "./plan.js";

/** What a plan needs of a GGUF model. */
export type GgufSourceModel = Pick<GgufModel, "paths" | "metadata" | "tensors">;

export interface GgufPlanOptions extends PlanOptions {
  readonly model: GgufSourceModel;
  /** Keep the tensors of each part of a split model together, part after part. */
  readonly keepSplit?: boolean | undefined;
}

const ARCHITECTURE = "gemma4";
const UNUSED_WHEN_SHARED = /^blk\.\d+\.attn_(?:k|v|k_norm)\.weight$/;

/** A whole number of the metadata, of a list the first one (layer 0). */
function numberOf(model: GgufSourceModel, key: string, fallback?: number): number {
  const value = model.metadata.get(`${ARCHITECTURE}.${key}`)?.value;
  const first = typeof value === "object" && value !== null && 0 in value ? value[0] : value;
  if (typeof first === "number" && Number.isSafeInteger(first) && first >= 0) return first;
  if (value === undefined && fallback !== undefined) return fallback;
  const found = value === undefined ? "is missing" : "is no count";
  throw new PlanError(
    "bad-metadata",
    `${model.paths[0] ?? "the GGUF file"}: ${ARCHITECTURE}.${key} ${found}`,
  );
}

function sourceType(path: string, name: string, type: string): BlockTypeName {
  const known = findBlockType(type)?.name;
  if (known === "F32" || known === "F16" || known === "BF16") return known;
  throw new PlanError("source-is-rounded", `${path}: tensor ${name} is ${type}, expected F32, F16 or BF16`, {
    exitCode: 2,
    advice:
      "Rounding twice loses more than once: start from the checkpoint, or from a GGUF in BF16, F16 or F32.",
  });
}

/**
 * Plans a GGUF from another one in F32, F16 or BF16. Tensors come in llama-quantize's order: with unused
 * keys and values kept, the tensors are byte for byte those that llama-quantize writes.
 *
 * @throws PlanError `not-gemma4`, `bad-metadata`, `source-is-rounded`, and see `makePlan`
 */
export function planGgufSource(options: GgufPlanOptions): Plan {
  const { model } = options;
  const architecture = model.metadata.get("general.architecture")?.value;
  if (architecture !== ARCHITECTURE) {
    throw new PlanError(
      "not-gemma4",
      `${model.paths[0] ?? "the GGUF file"}: general.architecture is ${JSON.stringify(architecture) ?? "missing"}, expected "${ARCHITECTURE}"`,
      { exitCode: 2 },
    );
  }
  const layers = numberOf(model, "block_count");
  const firstSharing = layers - numberOf(model, "attention.shared_kv_layers", 0);
  const tensors: ModelTensor[] = model.tensors
    .toSorted((a, b) => (options.keepSplit === true ? a.part - b.part : 0) || quantizeOrder(a.name, b.name))
    .map(({ name, type, ne, part, offset, byteLength }) => {
      const path = model.paths[part] ?? "";
      return {
        name,
        ne,
        origin: { kind: "file", name, path, offset, byteLength, type: sourceType(path, name, type) },
        unused: UNUSED_WHEN_SHARED.test(name) && layerOf(name) >= firstSharing,
      };
    });
  const keyHeads = numberOf(model, "attention.head_count_kv");
  if (keyHeads === 0)
    throw new PlanError("bad-metadata", `${model.paths[0]}: ${ARCHITECTURE}.attention.head_count_kv is 0`);
  const facts = {
    layers,
    experts: numberOf(model, "expert_count", 0),
    headsPerKey: Math.floor(numberOf(model, "attention.head_count") / keyHeads),
  };
  return makePlan({
    ...options,
    tensors,
    facts,
    kept: ({ origin }) => (origin.kind === "file" ? origin.type : "F32"),
  });
}
