import { attr, graph, inlineTensor, model, node, valueInfo } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import type { ElementTypeName } from "../../../formats/onnx/element-types.js";
import type { GraphProto, NodeProto, TensorProto } from "../../../formats/onnx/types.js";
import type { EngineError } from "../../../src/engines/errors.js";
import { rejection } from "../llama/support/failures.js";

/** An optional dependency; it has no library for some systems. */
export const hasRuntime = await import("onnxruntime-node").then(
  () => true,
  () => false,
);

export const encoded = (graph: GraphProto): Promise<Uint8Array> => encodeModel(model(graph, { opset: 21 }));

export const ints = (name: string, values: readonly number[], dims = [values.length]): TensorProto =>
  inlineTensor(
    name,
    "INT64",
    dims,
    new Uint8Array(BigInt64Array.from(values, (value) => BigInt(value)).buffer),
  );

export const floats = (name: string, values: readonly number[], dims = [values.length]): TensorProto =>
  inlineTensor(name, "FLOAT", dims, new Uint8Array(Float32Array.from(values).buffer));

/** Passes x of [n, 2] on as y. */
export const identity = (type: ElementTypeName): GraphProto =>
  graph("identity", [node("Identity", { inputs: ["x"], outputs: ["y"] })], {
    inputs: [valueInfo("x", type, ["n", 2])],
    outputs: [valueInfo("y", type, ["n", 2])],
  });

/** A square matrix to the power of `factors`; 512 columns and 200 factors take seconds. */
export const power = (factors: number): GraphProto => {
  const names = ["x", ...Array.from({ length: factors - 1 }, (_, i) => `y${i}`)];
  const nodes = names
    .slice(1)
    .map((name, i) => node("MatMul", { inputs: [names[i]!, "x"], outputs: [name] }));
  return graph("power", nodes, {
    inputs: [valueInfo("x", "FLOAT", ["n", "n"])],
    outputs: [valueInfo(names.at(-1)!, "FLOAT", ["n", "n"])],
  });
};

export const VOCABULARY = 11;

/**
 * Ids as numbers in one column: enough of an embedding for `decoder`.
 *
 * @param perLayer gives a one for every token besides
 */
export const embed = (perLayer = false): GraphProto => {
  const ids = ["batch_size", "sequence_length"];
  const nodes = [
    node("Unsqueeze", { inputs: ["input_ids", "last"], outputs: ["column"] }),
    node("Cast", { inputs: ["column"], outputs: ["inputs_embeds"], attributes: { to: attr.int(1) } }),
    node("Equal", { inputs: ["column", "column"], outputs: ["same"] }),
    node("Cast", { inputs: ["same"], outputs: ["per_layer_inputs"], attributes: { to: attr.int(1) } }),
  ];
  return graph("embed", perLayer ? nodes : nodes.slice(0, 2), {
    inputs: [valueInfo("input_ids", "INT64", ids)],
    outputs: [
      valueInfo("inputs_embeds", "FLOAT", [...ids, 1]),
      ...(perLayer ? [valueInfo("per_layer_inputs", "FLOAT", [...ids, 1])] : []),
    ],
    initializers: [ints("last", [-1])],
  });
};

/** A decoder without embeddings and caches, which gives `vocabulary` zeros for every id. */
export const zeros = (vocabulary: number): GraphProto => {
  const ids = ["batch_size", "sequence_length"];
  const nodes = [
    node("Unsqueeze", { inputs: ["input_ids", "last"], outputs: ["column"] }),
    node("Sub", { inputs: ["column", "column"], outputs: ["zero"] }),
    node("Cast", { inputs: ["zero"], outputs: ["row"], attributes: { to: attr.int(1) } }),
    node("Expand", { inputs: ["row", "wide"], outputs: ["logits"] }),
  ];
  return graph("zeros", nodes, {
    inputs: [valueInfo("input_ids", "INT64", ids)],
    outputs: [valueInfo("logits", "FLOAT", [...ids, vocabulary])],
    initializers: [ints("last", [-1]), ints("wide", [1, 1, vocabulary])],
  });
};

interface DecoderParts {
  /** Type of the caches. */
  readonly cache?: "FLOAT" | "FLOAT16";
  /** Name of the second cache's output. */
  readonly present?: string;
  /** Whether the graph chooses rows of logits. */
  readonly selects?: boolean;
  /** Shape of `num_logits_to_keep`. */
  readonly keepShape?: readonly number[];
  /** Whether `per_layer_inputs` are taken, and added to what makes the next token. */
  readonly perLayer?: boolean;
  readonly pastLength?: string | number;
}

/**
 * A decoder whose likeliest token after ids t_0 … t_i is (t_0 + … + t_i + i) mod `VOCABULARY`: the ids before
 * come from a cache, i from `position_ids`, and the mask has to be as long as both. The logit of token v is
 * −|v − that|. A second cache has two heads of size 3 and half precision.
 */
export function decoder(parts: DecoderParts = {}): GraphProto {
  const {
    cache = "FLOAT",
    present = "present.1.value",
    selects = true,
    keepShape = [],
    perLayer = false,
    pastLength = "past_sequence_length",
  } = parts;
  const nodes: NodeProto[] = [
    // [1, s, 1] → [1, 1, s, 1], joined with the past.
    node("Unsqueeze", { inputs: ["inputs_embeds", "one"], outputs: ["row"] }),
    node("Cast", {
      inputs: ["row"],
      outputs: ["rowCache"],
      attributes: { to: attr.int(cache === "FLOAT" ? 1 : 10) },
    }),
    node("Concat", {
      inputs: ["past_key_values.0.key", "rowCache"],
      outputs: ["present.0.key"],
      attributes: { axis: attr.int(2) },
    }),
    node("Cast", { inputs: ["present.0.key"], outputs: ["all"], attributes: { to: attr.int(1) } }),
    // Ones change nothing; a mask that is not as long as past and present together fails.
    node("Cast", { inputs: ["attention_mask"], outputs: ["mask"], attributes: { to: attr.int(1) } }),
    node("Reshape", { inputs: ["mask", "likeCache"], outputs: ["maskCache"] }),
    node("Mul", { inputs: ["all", "maskCache"], outputs: ["masked"] }),
    // Running sums over everything, of which the last s are those of this pass.
    node("CumSum", { inputs: ["masked", "axis2"], outputs: ["sums"] }),
    node("Shape", { inputs: ["position_ids"], outputs: ["count"], attributes: { start: attr.int(1) } }),
    node("Neg", { inputs: ["count"], outputs: ["from"] }),
    node("Slice", { inputs: ["sums", "from", "end", "two"], outputs: ["sumsNow"] }),
    node("Reshape", { inputs: ["sumsNow", "toRows"], outputs: ["sumRows"] }),
    node("Cast", { inputs: ["position_ids"], outputs: ["positions"], attributes: { to: attr.int(1) } }),
    node("Unsqueeze", { inputs: ["positions", "last"], outputs: ["positionRows"] }),
    node("Add", { inputs: ["sumRows", "positionRows"], outputs: ["sum"] }),
    perLayer
      ? node("Add", { inputs: ["sum", "per_layer_inputs"], outputs: ["total"] })
      : node("Identity", { inputs: ["sum"], outputs: ["total"] }),
    node("Mod", { inputs: ["total", "vocabulary"], outputs: ["next"], attributes: { fmod: attr.int(1) } }),
    node("Sub", { inputs: ["next", "tokens"], outputs: ["difference"] }),
    node("Abs", { inputs: ["difference"], outputs: ["distance"] }),
    node("Neg", { inputs: ["distance"], outputs: [selects ? "allLogits" : "logits"] }),
    // A second cache of another shape: two heads of size 3.
    node("Expand", { inputs: ["row", "wide"], outputs: ["wideRow"] }),
    node("Cast", { inputs: ["wideRow"], outputs: ["wideHalf"], attributes: { to: attr.int(10) } }),
    node("Concat", {
      inputs: ["past_key_values.1.value", "wideHalf"],
      outputs: [present],
      attributes: { axis: attr.int(2) },
    }),
  ];
  if (selects) {
    nodes.push(
      node("Neg", { inputs: ["num_logits_to_keep"], outputs: ["keepFrom"] }),
      node("Reshape", { inputs: ["keepFrom", "last"], outputs: ["keepFrom1"] }),
      node("Slice", { inputs: ["allLogits", "keepFrom1", "end", "oneAxis"], outputs: ["logits"] }),
    );
  }
  const past = ["batch_size", 1, pastLength, 1];
  return graph("decoder", nodes, {
    inputs: [
      valueInfo("inputs_embeds", "FLOAT", ["batch_size", "sequence_length", 1]),
      valueInfo("attention_mask", "INT64", ["batch_size", "total_sequence_length"]),
      valueInfo("position_ids", "INT64", ["batch_size", "sequence_length"]),
      ...(selects ? [valueInfo("num_logits_to_keep", "INT64", keepShape)] : []),
      valueInfo("past_key_values.0.key", cache, past),
      valueInfo("past_key_values.1.value", "FLOAT16", ["batch_size", 2, pastLength, 3]),
      ...(perLayer ? [valueInfo("per_layer_inputs", "FLOAT", ["batch_size", "sequence_length", 1])] : []),
    ],
    outputs: [
      valueInfo("logits", "FLOAT", ["batch_size", "kept", VOCABULARY]),
      valueInfo("present.0.key", cache, ["batch_size", 1, "total_sequence_length", 1]),
      valueInfo(present, "FLOAT16", ["batch_size", 2, "total_sequence_length", 3]),
    ],
    initializers: [
      ints("one", [1]),
      ints("oneAxis", [1]),
      ints("two", [2]),
      ints("axis2", [2], []),
      ints("last", [-1]),
      ints("end", [2 ** 40]),
      ints("toRows", [1, -1, 1]),
      ints("likeCache", [1, 1, -1, 1]),
      ints("wide", [1, 2, 1, 3]),
      floats("vocabulary", [VOCABULARY]),
      floats(
        "tokens",
        Array.from({ length: VOCABULARY }, (_, token) => token),
      ),
    ],
  });
}

/**
 * What `decoder` gives after a prompt, by plain arithmetic.
 *
 * @param perLayer of every token
 */
export function expectedTokens(prompt: readonly number[], steps: number, perLayer = 0): number[] {
  const ids = [...prompt];
  for (let step = 0; step < steps; step++) {
    ids.push((ids.reduce((sum, id) => sum + id, 0) + ids.length - 1 + perLayer) % VOCABULARY);
  }
  return ids.slice(prompt.length);
}

/** The error of a promise that has to be rejected with this code. */
export async function refusal(promise: Promise<unknown>, code: string): Promise<EngineError> {
  const error = await rejection(promise);
  if (error.code !== code) throw new Error(`${code} was expected`, { cause: error });
  return error;
}
