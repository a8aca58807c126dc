import { attr, graph, valueInfo } from "../../../formats/onnx/build.js";
import type { GraphProto, TensorProto, ValueInfoProto } from "../../../formats/onnx/types.js";
import { cacheNames, type SharedCaches } from "./attention.js";
import { GraphBuilder } from "./builder.js";
import { GraphContext, type GraphOptions } from "./context.js";
import { decoderLayer } from "./layer.js";
import { linear, lookUp } from "./matrices.js";
import { sequence } from "./sequence.js";
import type { GraphTensor } from "./stored.js";

/** Version of ONNX's operators that the graphs need. */
export const GRAPH_OPSET = 21;

/** Name of the value that the output matrix reads: what the last norm gives. */
export const LAST_HIDDEN = "last_hidden_state";

const BATCH = "batch_size";
const SEQUENCE = "sequence_length";
const PAST = "past_sequence_length";
const TOTAL = "total_sequence_length";

/** A graph without the places of its weights. */
export interface UnplacedGraph {
  readonly name: string;
  /** All weights that it reads, in the order in which it reads them. */
  readonly tensors: readonly GraphTensor[];
  /**
   * The graph with its weights.
   *
   * @param place gives each of `tensors` as an initializer of its name
   */
  place(place: (tensor: GraphTensor) => TensorProto): GraphProto;
}

function unplaced(
  name: string,
  { nodes, constants, tensors }: GraphBuilder,
  inputs: readonly ValueInfoProto[],
  outputs: readonly ValueInfoProto[],
): UnplacedGraph {
  return {
    name,
    tensors,
    place: (place) =>
      graph(name, nodes, {
        inputs,
        outputs,
        initializers: [...constants, ...tensors.map((each) => place(each))],
      }),
  };
}

export interface EmbedOptions extends GraphOptions {
  /**
   * Tokens that stand for images and sounds: per-layer embeddings take those of the padding token instead, which is
   * what the model was trained with.
   */
  readonly placeholders: readonly number[];
  readonly padding: number;
}

/**
 * `embed_tokens` of the transformers.js layout: token ids to what the decoder reads.
 *
 * Input `input_ids` [batch, sequence]; outputs `inputs_embeds` [batch, sequence, hidden], table rows times √hidden,
 * and in a model with per-layer embeddings `per_layer_inputs` [batch, sequence, layers, width], rows of the table times
 * √width: only what depends on the token alone, since embeddings of images are put in afterwards.
 */
export function embedGraph(options: EmbedOptions): UnplacedGraph {
  const builder = new GraphBuilder();
  const ctx = new GraphContext(builder, options);
  const { hidden, perLayerWidth, layers } = options.config;
  const ids = "input_ids";
  const rows = lookUp(ctx, ctx.weight("embedding"), ids, "embedding");
  builder.add("Mul", "inputs_embeds", [rows, builder.number(Math.sqrt(hidden))]);
  const outputs = [valueInfo("inputs_embeds", "FLOAT", [BATCH, SEQUENCE, hidden])];
  if (perLayerWidth > 0) {
    const own = lookUp(ctx, ctx.weight("ple_table"), tokenIds(builder, ids, options), "per_layer");
    const apart = builder.add("Reshape", "per_layer.apart", [
      own,
      builder.integers([0, 0, layers.length, perLayerWidth]),
    ]);
    builder.add("Mul", "per_layer_inputs", [apart, builder.number(Math.sqrt(perLayerWidth))]);
    outputs.push(valueInfo("per_layer_inputs", "FLOAT", [BATCH, SEQUENCE, layers.length, perLayerWidth]));
  }
  return unplaced("embed_tokens", builder, [valueInfo(ids, "INT64", [BATCH, SEQUENCE])], outputs);
}

/** The ids with placeholders replaced. */
function tokenIds(builder: GraphBuilder, ids: string, { placeholders, padding }: EmbedOptions): string {
  let result = ids;
  for (const token of placeholders) {
    const here = builder.add("Equal", `per_layer.is_${token}`, [result, builder.integer(token)]);
    result = builder.add("Where", `per_layer.without_${token}`, [here, builder.integer(padding), result]);
  }
  return result;
}

/**
 * `decoder_model_merged` of the transformers.js layout: embeddings and caches to logits and caches.
 *
 * Inputs: `inputs_embeds` [batch, sequence, hidden]; `per_layer_inputs` where the model has per-layer embeddings;
 * `attention_mask` [batch, past + sequence], 0 for padding on either side; `position_ids` [batch, sequence];
 * `num_logits_to_keep`, the number of last tokens to give logits of, 0 for all; `past_key_values.{i}.key` and `.value`
 * [batch, kvHeads, past, headDim] of every layer that has its own. Outputs: `logits` [batch, kept, vocabulary] and
 * `present.{i}.key` and `.value`.
 */
export function decoderGraph(options: GraphOptions): UnplacedGraph {
  const builder = new GraphBuilder();
  const ctx = new GraphContext(builder, options);
  const { config, internal } = options;
  const { hidden, layers, perLayerWidth, vocabulary } = config;
  const shared: SharedCaches = new Map();
  const tokens = sequence(ctx, "inputs_embeds", "attention_mask", "position_ids");
  const perLayer = perLayerWidth > 0 ? perLayerInputs(ctx, tokens.outer) : null;
  let r = "inputs_embeds";
  for (const layer of layers) {
    const own = perLayer && ofLayer(builder, perLayer, layer.index);
    r = decoderLayer(ctx, layer, r, { sequence: tokens, perLayer: own, shared });
  }
  head(ctx, r, tokens.outer);
  const cached = layers.filter(({ sharesKv }) => !sharesKv);
  const caches = (when: "past" | "present"): ValueInfoProto[] =>
    cached.flatMap(({ index, kvHeads, headDim }) => {
      const { key, value } = cacheNames(index, when);
      const shape = [BATCH, kvHeads, when === "past" ? PAST : TOTAL, headDim];
      return [valueInfo(key, internal, shape), valueInfo(value, internal, shape)];
    });
  const inputs = [
    valueInfo("inputs_embeds", "FLOAT", [BATCH, SEQUENCE, hidden]),
    ...(perLayer === null
      ? []
      : [valueInfo("per_layer_inputs", "FLOAT", [BATCH, SEQUENCE, layers.length, perLayerWidth])]),
    valueInfo("attention_mask", "INT64", [BATCH, TOTAL]),
    valueInfo("position_ids", "INT64", [BATCH, SEQUENCE]),
    valueInfo("num_logits_to_keep", "INT64", []),
    ...caches("past"),
  ];
  const outputs = [valueInfo("logits", "FLOAT", [BATCH, "num_logits", vocabulary]), ...caches("present")];
  return unplaced("decoder_model_merged", builder, inputs, outputs);
}

/**
 * What each layer adds for the tokens: a row of its own table and a projection of the embedding, in equal parts.
 *
 * @returns [batch, sequence, layers, width]
 */
function perLayerInputs(ctx: GraphContext, outer: string): string {
  const { builder, config } = ctx;
  const { hidden, layers, perLayerWidth } = config;
  const projection = ctx.weight("ple_projection");
  const x = ctx.toInternal("per_layer.input", "inputs_embeds");
  ctx.observe({ kind: "input", layer: null, value: x, weights: [projection] });
  const projected = linear(ctx, projection, x, outer, "per_layer.projection");
  ctx.observe({ kind: "product", layer: null, value: projected });
  const scaled = builder.add("Mul", "per_layer.scaled", [
    ctx.toFloat("per_layer.projection.float", projected),
    builder.number(1 / Math.sqrt(hidden)),
  ]);
  const apart = builder.add("Reshape", "per_layer.apart", [
    scaled,
    builder.integers([0, 0, layers.length, perLayerWidth]),
  ]);
  const context = ctx.norm("per_layer.context", apart, ctx.vector(ctx.weight("ple_norm")));
  const sum = builder.add("Add", "per_layer.sum", [context, "per_layer_inputs"]);
  return builder.add("Mul", "per_layer", [sum, builder.number(Math.SQRT1_2)]);
}

function ofLayer(builder: GraphBuilder, perLayer: string, index: number): string {
  return builder.add("Gather", `layers.${index}.per_layer.embedding`, [perLayer, builder.integer(index)], {
    axis: attr.int(2),
  });
}

/** Logits of the last tokens; the embedding is the output matrix unless there is one of its own. */
function head(ctx: GraphContext, r: string, outer: string): void {
  const { builder, config } = ctx;
  const normed = ctx.norm("final_norm", r, ctx.vector(ctx.weight("final_norm")));
  const first = builder.add("Neg", "kept.first", [
    builder.add("Unsqueeze", "kept.count", ["num_logits_to_keep", builder.integers([0])]),
  ]);
  const end = builder.integers([2 ** 53 - 1]);
  builder.add("Slice", LAST_HIDDEN, [normed, first, end, builder.integers([1])]);
  const weight = ctx.weight("head");
  const x = ctx.toInternal("head.input", LAST_HIDDEN);
  ctx.observe({ kind: "input", layer: null, value: x, weights: [weight] });
  const y = linear(ctx, weight, x, headShape(ctx, outer), "head");
  ctx.observe({ kind: "product", layer: null, value: y });
  const logits = ctx.toFloat("head.float", y);
  if (config.softcap === null) {
    builder.add("Identity", "logits", [logits]);
    return;
  }
  const cap = builder.number(config.softcap);
  const bounded = builder.add("Tanh", "head.bounded", [builder.add("Div", "head.scaled", [logits, cap])]);
  builder.add("Mul", "logits", [bounded, cap]);
}

/** Shape [batch, kept, −1]. */
function headShape(ctx: GraphContext, outer: string): string {
  const { builder } = ctx;
  if (ctx.options.source.form(ctx.weight("head")).kind === "nbits") return outer;
  const shape = builder.add("Shape", "head.shape", [LAST_HIDDEN], { start: attr.int(0), end: attr.int(2) });
  return builder.add("Concat", "head.outer", [shape, builder.integers([-1])], { axis: attr.int(0) });
}
