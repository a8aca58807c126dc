import { externalTensor } from "../../../formats/onnx/build.js";
import type { TensorProto } from "../../../formats/onnx/types.js";
import type { TensorEntry } from "../../../formats/safetensors/types.js";
import type { BoundWeight } from "../bind.js";
import type { Weight } from "../types.js";
import { parameterCount } from "../weights.js";
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

/**
 * Weights as they lie in a checkpoint: a graph refers to ranges of its shards, and nothing is copied. Some may have
 * other values, of single precision, in files of their own.
 */
export class CheckpointSource implements WeightSource {
  readonly maxTensorBytes = Number.MAX_SAFE_INTEGER;
  readonly #entryOf: (weight: Weight) => TensorEntry;
  readonly #locations: readonly string[];
  readonly #replaced: ReadonlyMap<string, string>;

  /**
   * @param weights from `bindCheckpoint`
   * @param locations of the shards, relative to the folder that a session is given
   * @param replaced by names of weights, the locations of files with other values and nothing else
   */
  constructor(
    weights: readonly BoundWeight[],
    locations: readonly string[],
    replaced: ReadonlyMap<string, string> = new Map(),
  ) {
    this.#entryOf = entriesOf(weights);
    this.#locations = locations;
    this.#replaced = replaced;
  }

  form(weight: Weight): FloatForm {
    if (this.#replaced.has(weight.name)) return { kind: "float", type: "FLOAT" };
    // Bound weights are BF16, F16 or F32.
    return { kind: "float", type: FORMS[this.#entryOf(weight).dtype]! };
  }

  /** The initializer of a tensor of a graph that was built from this source. */
  place({ name, type, dims, weight, rows }: GraphTensor): TensorProto {
    const whole = this.#lies(weight);
    if (rows === undefined) return externalTensor(name, type, dims, whole);
    const row = whole.length / (parameterCount(weight) / weight.shape.at(-1)!);
    return externalTensor(name, type, dims, {
      location: whole.location,
      offset: whole.offset + rows.first * row,
      length: rows.count * row,
    });
  }

  #lies(weight: Weight): { readonly location: string; readonly offset: number; readonly length: number } {
    const location = this.#replaced.get(weight.name);
    if (location !== undefined) return { location, offset: 0, length: parameterCount(weight) * 4 };
    const { shard, offset, byteLength } = this.#entryOf(weight);
    return { location: this.#locations[shard]!, offset, length: byteLength };
  }
}
