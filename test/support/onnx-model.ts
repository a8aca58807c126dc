import { basename } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { model } from "../../formats/onnx/build.js";
import { encodeModel } from "../../formats/onnx/codec.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import { CheckpointSource } from "../../src/gemma4/graph/checkpoint-source.js";
import { decoderGraph, embedGraph, GRAPH_OPSET } from "../../src/gemma4/graph/graphs.js";
import type { UnplacedGraph } from "../../src/gemma4/graph/graphs.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";

/** The two graphs of a text model in ONNX Runtime. */
export interface OnnxModel {
  readonly embed: InferenceSession;
  readonly decoder: InferenceSession;
}

/** Keys and values so far, by the names of the inputs that take them. */
export type Caches = Readonly<Record<string, Tensor>>;

export interface Step {
  /** [batch · kept · vocabulary] */
  readonly logits: Float32Array;
  readonly caches: Caches;
}

const quiet: InferenceSession.SessionOptions = { logSeverityLevel: 3, intraOpNumThreads: 1 };

/** Loads files of the transformers.js layout. */
export async function loadOnnx(embed: string, decoder: string): Promise<OnnxModel> {
  return {
    embed: await InferenceSession.create(embed, quiet),
    decoder: await InferenceSession.create(decoder, quiet),
  };
}

/** The graphs over the shards of a checkpoint, of which nothing is copied. */
export async function openShards(folder: string): Promise<OnnxModel & { readonly config: Gemma4Config }> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const locations = checkpoint.shards.map(({ path }) => basename(path));
  const source = new CheckpointSource(bindCheckpoint(config, checkpoint).weights, locations);
  const options = { config, source, internal: "FLOAT", accuracyLevel: 0 } as const;
  const session = async (graph: UnplacedGraph): Promise<InferenceSession> => {
    const whole = model(
      graph.place((tensor) => source.place(tensor)),
      { opset: GRAPH_OPSET, domains: { "com.microsoft": 1 } },
    );
    return InferenceSession.create(await encodeModel(whole), {
      ...quiet,
      extra: { session: { model_external_initializers_file_folder_path: folder } },
    });
  };
  const embed = await session(embedGraph({ ...options, placeholders: [], padding: 0 }));
  return { config, embed, decoder: await session(decoderGraph(options)) };
}

function int64(values: Iterable<number>, dims: readonly number[]): Tensor {
  return new Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}

/** Caches of no tokens, of the shapes and types that the decoder asks for. */
export function emptyCaches({ decoder }: OnnxModel, batch = 1): Caches {
  const caches: Record<string, Tensor> = {};
  for (const input of decoder.inputMetadata) {
    if (!input.name.startsWith("past_key_values.") || !input.isTensor) continue;
    const dims = input.shape.map((size) =>
      typeof size === "number" ? size : size === "batch_size" ? batch : 0,
    );
    const data = input.type === "float16" ? new Uint16Array(0) : new Float32Array(0);
    caches[input.name] = new Tensor(input.type as "float32", data as Float32Array, dims);
  }
  return caches;
}

export interface StepOptions {
  readonly caches?: Caches;
  /** [batch][past + sequence]; all ones when left out. */
  readonly mask?: readonly (readonly number[])[];
  /** [batch][sequence]; counted from the length of the caches when left out. */
  readonly positions?: readonly (readonly number[])[];
  /** Logits of so many last tokens; 0, the default, for all. */
  readonly keep?: number;
}

/** Runs some tokens of each sequence of a batch. */
export async function step(
  model: OnnxModel,
  batch: readonly ArrayLike<number>[],
  { caches = emptyCaches(model, batch.length), mask, positions, keep = 0 }: StepOptions = {},
): Promise<Step> {
  const length = batch[0]!.length;
  const past = Object.values(caches)[0]!.dims[2]!;
  const dims = [batch.length, length];
  const embeds = await model.embed.run({
    input_ids: int64(
      batch.flatMap((row) => Array.from(row)),
      dims,
    ),
  });
  const total = past + length;
  const result = await model.decoder.run({
    ...embeds,
    ...caches,
    attention_mask: int64(mask?.flat() ?? Array.from({ length: batch.length * total }, () => 1), [
      batch.length,
      total,
    ]),
    position_ids: int64(
      positions?.flat() ?? batch.flatMap(() => Array.from({ length }, (_, i) => past + i)),
      dims,
    ),
    num_logits_to_keep: int64([keep], []),
  });
  const next: Record<string, Tensor> = {};
  for (const name of Object.keys(caches)) next[name] = result[name.replace("past_key_values", "present")]!;
  return { logits: result["logits"]!.data as Float32Array, caches: next };
}
