import { InferenceSession, Tensor } from "onnxruntime-node";
import { model as makeModel, valueInfo } from "../../formats/onnx/build.js";
import { encodeModel } from "../../formats/onnx/codec.js";
import { decoderGraph, GRAPH_OPSET } from "../../src/gemma4/graph/graphs.js";
import { parameterCount } from "../../src/gemma4/weights.js";
import type { TextModel } from "./forward/model.js";
import { openShards, step } from "./onnx-model.js";

/** Measures what other values in the weights of a decoder do to its predictions. */
export interface Divergence {
  /** Mean of the KL divergence from the model's own predictions at all positions but the last of a window, in nats. */
  of(values: ReadonlyMap<string, Float32Array>): Promise<number>;
}

/**
 * A decoder whose weights are inputs, so that they can be changed from run to run.
 *
 * @param folder of the checkpoint
 * @param model the same in memory
 * @param windows of one length
 */
export async function measureDivergence(
  folder: string,
  model: TextModel,
  windows: readonly Int32Array[],
): Promise<Divergence> {
  const { embed, config } = await openShards(folder);
  const source = {
    maxTensorBytes: Number.MAX_SAFE_INTEGER,
    form: () => ({ kind: "float", type: "FLOAT" }) as const,
  };
  const unplaced = decoderGraph({ config, source, internal: "FLOAT", accuracyLevel: 0 });
  const names = new Set(unplaced.tensors.map(({ name }) => name));
  const placed = unplaced.place(({ name, dims }) => ({ name, dims, dataType: 1 }));
  const graph = {
    ...placed,
    initializer: placed.initializer.filter(({ name = "" }) => !names.has(name)),
    input: [...placed.input, ...unplaced.tensors.map(({ name, dims }) => valueInfo(name, "FLOAT", dims))],
  };
  const whole = makeModel(graph, { opset: GRAPH_OPSET, domains: { "com.microsoft": 1 } });
  const session = await InferenceSession.create(await encodeModel(whole), { logSeverityLevel: 3 });
  const weights: Record<string, Tensor> = {};
  for (const { name, dims, weight } of unplaced.tensors) {
    const values = model.weights.get(weight.name) ?? model.weights.get("embed_tokens.weight")!;
    if (values.length !== parameterCount(weight)) throw new Error(`${name} is cut.`);
    weights[name] = new Tensor("float32", Float32Array.from(values), [...dims]);
  }
  const logits = async (values: ReadonlyMap<string, Float32Array>): Promise<Float32Array> => {
    const changed = [...values].map(([name, own]) => [name, new Tensor("float32", own, weights[name]!.dims)]);
    const feeds = { ...weights, ...(Object.fromEntries(changed) as Record<string, Tensor>) };
    const decoder = {
      inputMetadata: session.inputMetadata,
      run: (others: Record<string, Tensor>) => session.run({ ...others, ...feeds }),
    } as InferenceSession;
    return (await step({ embed, decoder }, windows)).logits;
  };
  const own = await logits(new Map());
  const places = windows.length * windows[0]!.length;
  const scored = Array.from({ length: places }, (_, place) => place).filter(
    (place) => (place + 1) % windows[0]!.length !== 0,
  );
  const row = (from: Float32Array, place: number): Float64Array =>
    logProbabilities(from.subarray(place * config.vocabulary, (place + 1) * config.vocabulary));
  const unrounded = scored.map((place) => row(own, place));
  return {
    async of(values) {
      const others = await logits(values);
      let sum = 0;
      for (const [index, place] of scored.entries()) {
        const [p, q] = [unrounded[index]!, row(others, place)];
        for (let token = 0; token < p.length; token++) sum += Math.exp(p[token]!) * (p[token]! - q[token]!);
      }
      return sum / scored.length;
    },
  };
}

function logProbabilities(logits: Float32Array): Float64Array {
  let most = -Infinity;
  for (const value of logits) most = Math.max(most, value);
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - most);
  const shift = most + Math.log(sum);
  return new Float64Array(logits).map((value) => value - shift);
}
