import { openFile } from "../../../formats/file-source.js";
import { openCheckpoint, readTensorRange } from "../../../formats/safetensors/read.js";
import type { Dtype } from "../../../formats/safetensors/types.js";
import { bfloatsToFloats, halvesToFloats } from "../../../src/blocks/floats.js";
import { bindCheckpoint } from "../../../src/gemma4/bind.js";
import { readConfig } from "../../../src/gemma4/config.js";
import type { Gemma4Config } from "../../../src/gemma4/types.js";
import { headWeight, listWeights, parameterCount } from "../../../src/gemma4/weights.js";
import type { Values } from "./math.js";

/** The text part of a checkpoint in memory. */
export interface TextModel {
  readonly config: Gemma4Config;
  /** By name without the prefix, such as `layers.3.self_attn.q_proj.weight`; shapes as `listWeights` has them. */
  readonly weights: ReadonlyMap<string, Values>;
}

function decode(bytes: Uint8Array<ArrayBuffer>, dtype: Dtype): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes.buffer);
  const values = new Float32Array(bytes.length / 2);
  if (dtype === "BF16") bfloatsToFloats(bytes, values);
  else halvesToFloats(bytes, values);
  return values;
}

/**
 * Reads a checkpoint folder whole. Keys and values of layers that share them are left out even where the
 * file has them, so that a forward pass that touches them fails.
 */
export async function readTextModel(folder: string): Promise<TextModel> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const sources = await Promise.all(checkpoint.shards.map(({ path }) => openFile(path)));
  const weights = new Map<string, Values>();
  try {
    for (const { weight, entry } of bindCheckpoint(config, checkpoint).weights) {
      if (weight.unused) continue;
      const bytes = new Uint8Array(entry.byteLength);
      await readTensorRange(sources, entry, bytes);
      weights.set(weight.name, decode(bytes, entry.dtype));
    }
  } finally {
    await Promise.all(sources.map((source) => source.close()));
  }
  return { config, weights };
}

/**
 * The model with other values in some weights, such as those that a quantized file unpacks to.
 *
 * @param values by name without the prefix. `lm_head.weight` may be among them when the embedding is tied:
 *   a file may hold the table and the output matrix in different types
 * @throws Error when a name is not a weight of the model, or the number of values is not its own
 */
export function withWeights({ config, weights }: TextModel, values: ReadonlyMap<string, Values>): TextModel {
  const sizes = new Map(
    [...listWeights(config), headWeight(config)]
      .filter(({ unused }) => !unused)
      .map((weight) => [weight.name, parameterCount(weight)]),
  );
  for (const [name, { length }] of values) {
    const expected = sizes.get(name);
    if (expected === undefined) throw new Error(`${name} is not a weight that the model uses.`);
    if (length !== expected) throw new Error(`${name} has ${expected} values, not ${length}.`);
  }
  return { config, weights: new Map([...weights, ...values]) };
}

/** Values of a weight that the model is known to have. */
export function weightOf({ weights }: TextModel, name: string): Values {
  const values = weights.get(name);
  if (values === undefined) throw new Error(`There is no weight ${name}.`);
  return values;
}
