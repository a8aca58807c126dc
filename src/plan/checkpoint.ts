import type { BlockTypeName } from "../blocks/types.js";
import type { BoundWeight } from "../gemma4/bind.js";
import { ggmlShape, ropeFrequencies } from "../gemma4/gguf/tensors.js";
import type { Gemma4Config } from "../gemma4/types.js";
import { alwaysF32 } from "./converter.js";
import type { Mix } from "./mixes.js";
import { makePlan, type ModelTensor, type Plan, type PlanOptions } from "./plan.js";

export interface CheckpointPlanOptions extends PlanOptions {
  readonly config: Gemma4Config;
  /** From `bindCheckpoint`. */
  readonly weights: readonly BoundWeight[];
  /** Path of each shard; `TensorEntry.shard` is an index into this list. */
  readonly shards: readonly { readonly path: string }[];
}

/**
 * Type that a tensor has in the file between llama.cpp's converter and llama-quantize, which is what
 * llama-quantize keeps where it does not quantize: F32 for vectors and the router, else what the converter
 * was asked for. That is the mix itself where it is F32, F16 or BF16; for a mix that quantizes it is F16
 * for an F16 checkpoint (as the converter's automatic choice) and BF16 for any other. (For an F32
 * checkpoint the automatic choice would be F16, which cannot hold every F32 value.)
 */
function kept({ name, ne, origin }: ModelTensor, mix: Mix): BlockTypeName {
  if (alwaysF32(name, ne)) return "F32";
  if (mix.type === "F32" || mix.type === "F16" || mix.type === "BF16") return mix.type;
  return origin.kind === "file" && origin.type === "F16" ? "F16" : "BF16";
}

/**
 * Plans a GGUF of a checkpoint's text model: the generated `rope_freqs.weight` first, then the order of the
 * checkpoint, which is the converter's order and reads and writes both files from front to back.
 *
 * The types are those that the two steps of llama.cpp (convert, then llama-quantize) arrive at; the
 * values are encoded straight from the checkpoint, which for one in BF16 comes to the same bytes.
 *
 * @throws PlanError see `makePlan`
 */
export function planCheckpoint(options: CheckpointPlanOptions): Plan {
  const { config, weights, shards } = options;
  const rope = ropeFrequencies(config);
  const tensors: ModelTensor[] = [
    { name: rope.name, ne: rope.ne, origin: { kind: "generated", data: rope.data } },
  ];
  for (const { weight, entry } of weights) {
    const path = shards[entry.shard]?.path;
    if (path === undefined)
      throw new RangeError(`tensor ${entry.name} lies in shard ${entry.shard}, which is not there`);
    tensors.push({
      name: weight.gguf,
      ne: ggmlShape(weight.shape),
      origin: {
        kind: "file",
        name: entry.name,
        path,
        offset: entry.offset,
        byteLength: entry.byteLength,
        // Bound weights are BF16, F16 or F32, whose names are the same in both formats.
        type: entry.dtype as BlockTypeName,
      },
      unused: weight.unused,
    });
  }
  const facts = {
    layers: config.layers.length,
    experts: config.experts?.count ?? 0,
    headsPerKey: Math.floor(config.heads / (config.layers[0]?.kvHeads ?? 1)),
  };
  return makePlan({ ...options, tensors, facts, kept });
}
