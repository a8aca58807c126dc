import type { Checkpoint, Dtype, TensorEntry } from "../../formats/safetensors/types.js";
import { Gemma4Error } from "./errors.js";
import { towerRank } from "./towers.js";
import type { Gemma4Config, Weight } from "./types.js";
import { HEAD_NAME, headWeight, listWeights } from "./weights.js";

/** Google's layout has the text model below `model.language_model.`, text-only re-saves directly below `model.`. */
const MULTIMODAL_PREFIX = "model.language_model.";
const TEXT_PREFIX = "model.";

const WEIGHT_DTYPES: ReadonlySet<Dtype> = new Set<Dtype>(["BF16", "F16", "F32"]);
/** More than this and the list explains no more than its length does. */
const SHOWN_PROBLEMS = 5;

/** A weight and where its values lie. */
export interface BoundWeight {
  readonly weight: Weight;
  readonly entry: TensorEntry;
}

export interface BoundCheckpoint {
  /** What stands in front of the weights' names in this checkpoint. */
  readonly prefix: string;
  /**
   * Weights of the text model in the order in which llama.cpp's converter writes them: shard by shard,
   * by name inside a shard (which is file order in everything that the safetensors library wrote).
   */
  readonly weights: readonly BoundWeight[];
  /** The vision and audio part, same order. */
  readonly towers: readonly TensorEntry[];
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, index) => size === b[index]);
}

function fileOrder(a: TensorEntry, b: TensorEntry): number {
  if (a.shard !== b.shard) return a.shard - b.shard;
  return a.name < b.name ? -1 : 1;
}

function refuse(problems: readonly string[], checkpoint: Checkpoint, config: Gemma4Config): Gemma4Error {
  const files =
    checkpoint.shards.length === 1
      ? (checkpoint.shards[0]?.path ?? "")
      : `${checkpoint.shards.length} shards`;
  const rest = problems.length - SHOWN_PROBLEMS;
  const list = problems.slice(0, SHOWN_PROBLEMS).join("; ") + (rest > 0 ? `; and ${rest} more` : "");
  const count = problems.length === 1 ? "1 tensor does" : `${problems.length} tensors do`;
  return new Gemma4Error("bad-tensors", `${count} not fit ${config.file} (${files}): ${list}.`, {
    advice:
      "Check that config.json and the safetensors files belong to the same checkpoint and are complete.",
  });
}

/**
 * Finds every weight of the text model in a checkpoint and checks its shape and dtype.
 *
 * Every tensor has to be accounted for: a weight of the text model, or one of the known names of the
 * vision and audio part. Two groups may be there or not, tensor by tensor: keys and values of layers that
 * share them (`unused`, never read by any runtime, so any subset is accepted), and the output matrix
 * `lm_head.weight`, which takes precedence over a tied embedding, as it does in llama.cpp.
 *
 * @throws Gemma4Error that names the tensors that are unknown, missing, misshapen or of another dtype
 */
export function bindCheckpoint(config: Gemma4Config, checkpoint: Checkpoint): BoundCheckpoint {
  const names = [...checkpoint.tensors.keys()];
  const prefix = names.some((name) => name.startsWith(MULTIMODAL_PREFIX)) ? MULTIMODAL_PREFIX : TEXT_PREFIX;
  const expected = new Map(
    [...listWeights(config), headWeight(config)].map((weight) => [
      weight.name === HEAD_NAME ? HEAD_NAME : prefix + weight.name,
      weight,
    ]),
  );
  const problems: string[] = [];
  const weights: BoundWeight[] = [];
  const towers: TensorEntry[] = [];

  for (const entry of [...checkpoint.tensors.values()].toSorted(fileOrder)) {
    const { name, shape, dtype } = entry;
    const weight = expected.get(name);
    if (weight === undefined) {
      const rank = towerRank(name);
      if (rank === undefined) problems.push(`${name} is unknown`);
      else if (rank !== shape.length)
        problems.push(`${name} has ${shape.length} dimensions, expected ${rank}`);
      else towers.push(entry);
      continue;
    }
    expected.delete(name);
    if (!sameShape(shape, weight.shape)) {
      problems.push(`${name} has shape ${shapeText(shape)}, expected ${shapeText(weight.shape)}`);
    } else if (!WEIGHT_DTYPES.has(dtype)) {
      problems.push(`${name} is ${dtype}, expected BF16, F16 or F32`);
    } else {
      weights.push({ weight, entry });
    }
  }
  for (const [name, weight] of expected) {
    const optional = weight.unused || (weight.role === "head" && config.tiedEmbeddings);
    if (!optional) problems.push(`${name} is missing`);
  }
  if (problems.length > 0) throw refuse(problems, checkpoint, config);
  return { prefix, weights, towers };
}
