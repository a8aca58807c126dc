import { externalTensor } from "../../../formats/onnx/build.js";
import type { TensorProto } from "../../../formats/onnx/types.js";
import type { TensorEntry } from "../../../formats/safetensors/types.js";
import type { BoundWeight } from "../bind.js";
import type { Weight } from "../types.js";
import type { FloatForm, GraphTensor, WeightSource } from "./stored.js";

const FORMS: Readonly<Record<string, FloatForm["type"]>> = { BF16: "BFLOAT16", F16: "FLOAT16", F32: "FLOAT" };

/** Where the values of every weight lie in a checkpoint; the output matrix of a tied model is its embedding. */
export function entriesOf(weights: readonly BoundWeight[]): (weight: Weight) => TensorEntry {
  const entries = new Map(weights.map(({ weight, entry }) => [weight.name, entry]));
  const embedding = weights.find(({ weight }) => weight.role === "embedding")?.entry;
  return (weight) => {
    const entry = entries.get(weight.name) ?? (weight.role === "head" ? embedding : undefined);
    if (entry === undefined) throw new RangeError(`the checkpoint has no ${weight.name}`);
    return entry;
  };
}

/** Weights as they lie in a checkpoint: a graph refers to ranges of its shards, and nothing is copied. */
export class CheckpointSource implements WeightSource {
  readonly maxTensorBytes = Number.MAX_SAFE_INTEGER;
  readonly #entryOf: (weight: Weight) => TensorEntry;
  readonly #locations: readonly string[];

  /**
   * @param weights from `bindCheckpoint`
   * @param locations of the shards, relative to the folder that a session is given
   */
  constructor(weights: readonly BoundWeight[], locations: readonly string[]) {
    this.#entryOf = entriesOf(weights);
    this.#locations = locations;
  }

  form(weight: Weight): FloatForm {
    // Bound weights are BF16, F16 or F32.
    return { kind: "float", type: FORMS[this.#entryOf(weight).dtype]! };
  }

  /** The initializer of a tensor of a graph that was built from this source. */
  place({ name, type, dims, weight }: GraphTensor): TensorProto {
    const { shard, offset, byteLength } = this.#entryOf(weight);
    return externalTensor(name, type, dims, {
      location: this.#locations[shard]!,
      offset,
      length: byteLength,
    });
  }
}
