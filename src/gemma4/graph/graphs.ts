import { attr, graph, valueInfo } from "../../../formats/onnx/build.js";
import type { GraphProto, TensorProto, ValueInfoProto } from "../../../formats/onnx/types.js";
import { cacheNames, type SharedCaches } from "./attention.js";
import { GraphBuilder } from "./builder.js";
import { GraphContext, type GraphOptions, type Observed } from "./context.js";
import { decoderLayer } from "./layer.js";
import { linear, lookUp } from "./matrices.js";
import { sequence } from "./sequence.js";
import type { GraphTensor } from "./stored.js";

/** Version of ONNX's operators that the graphs need. */
export const GRAPH_OPSET = 21;

/** Name of the value that the output matrix reads: what the last norm gives. */
export const LAST_HIDDEN = "last_hidden_state";

export const LOGITS = "logits";
export const IDS = "input_ids";
/** Name of the rows of the embedding times √hidden. */
export const EMBEDS = "inputs_embeds";
const PER_LAYER = "per_layer_inputs";
const MASK = "attention_mask";
const POSITIONS = "position_ids";
const KEPT = "num_logits_to_keep";

export const BATCH = "batch_size";
export const SEQUENCE = "sequence_length";
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

/** The graph of what a builder has collected. */
export function unplaced(
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
  embeddings(ctx, options);
  const outputs = [valueInfo(EMBEDS, "FLOAT", [BATCH, SEQUENCE, hidden])];
  if (perLayerWidth > 0) {
    outputs.push(valueInfo(PER_LAYER, "FLOAT", [BATCH, SEQUENCE, layers.length, perLayerWidth]));
  }
  return unplaced("embed_tokens", builder, [valueInfo(IDS, "INT64", [BATCH, SEQUENCE])], outputs);
}

/** Makes `inputs_embeds` and, where the model has them, `per_layer_inputs` of `input_ids`. */
function embeddings(ctx: GraphContext, options: EmbedOptions): void {
  const { builder } = ctx;
  const { perLayerWidth, layers } = options.config;
  tokenEmbeddings(ctx);
  if (perLayerWidth === 0) return;
  const own = lookUp(ctx, ctx.weight("ple_table"), tokenIds(builder, options), "per_layer.table");
  const apart = builder.add("Reshape", "per_layer.table.apart", [
    own,
    builder.integers([0, 0, layers.length, perLayerWidth]),
  ]);
  builder.add("Mul", PER_LAYER, [apart, builder.number(Math.sqrt(perLayerWidth))]);
}

/** Makes `EMBEDS` of `IDS`. */
export function tokenEmbeddings(ctx: GraphContext): void {
  const { builder, config } = ctx;
  const rows = lookUp(ctx, ctx.weight("embedding"), IDS, "embedding");
  builder.add("Mul", EMBEDS, [rows, builder.number(Math.sqrt(config.hidden))]);
}

/** The ids with placeholders replaced. */
export function tokenIds(builder: GraphBuilder, { placeholders, padding }: EmbedOptions): string {
  let result = IDS;
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
  decoder(ctx, KEPT);
  return unplaced("decoder_model_merged", builder, decoderInputs(options), [
    logits(options, "num_logits"),
    ...caches(options, "present"),
  ]);
}

function decoderInputs(options: GraphOptions): ValueInfoProto[] {
  const { hidden, layers, perLayerWidth } = options.config;
  return [
    valueInfo(EMBEDS, "FLOAT", [BATCH, SEQUENCE, hidden]),
    ...(perLayerWidth === 0
      ? []
      : [valueInfo(PER_LAYER, "FLOAT", [BATCH, SEQUENCE, layers.length, perLayerWidth])]),
    valueInfo(MASK, "INT64", [BATCH, TOTAL]),
    valueInfo(POSITIONS, "INT64", [BATCH, SEQUENCE]),
    valueInfo(KEPT, "INT64", []),
    ...caches(options, "past"),
  ];
}

/** Outputs of `rangeGraph`: the largest magnitude of each value that is looked at. */
export const RANGES = "ranges";

export interface RangeGraph extends UnplacedGraph {
  /** What each of the ranges is of. */
  readonly observed: readonly Observed[];
}

/**
 * The layers of the decoder with one output, `RANGES` [values]: how large the residual stream gets, and the matrix products
 * that halves would have to hold. The products inside of experts and of the output matrix are not among them.
 */
export function rangeGraph(options: GraphOptions): RangeGraph {
  const builder = new GraphBuilder();
  const observed: Observed[] = [];
  const observe = (value: Observed): void => {
    if (value.kind !== "input") observed.push(value);
  };
  const ctx = new GraphContext(builder, { ...options, observe });
  decoderLayers(ctx);
  const ranges = observed.map(({ value }, index) => {
    const sizes = builder.add("Abs", `range.${index}.sizes`, [value]);
    const most = builder.add("ReduceMax", `range.${index}.most`, [sizes], { keepdims: attr.int(0) });
    return builder.add("Reshape", `range.${index}`, [most, builder.integers([1])]);
  });
  builder.add("Concat", RANGES, ranges, { axis: attr.int(0) });
  const inputs = decoderInputs(options).filter(({ name }) => name !== KEPT);
  const graph = unplaced("ranges", builder, inputs, [valueInfo(RANGES, "FLOAT", [observed.length])]);
  return { ...graph, observed };
}

/**
 * Both in one graph, as onnxruntime-genai runs a text model: `input_ids`, mask, positions and caches to `logits` of all
 * tokens and caches.
 */
export function textGraph(options: EmbedOptions): UnplacedGraph {
  const builder = new GraphBuilder();
  const ctx = new GraphContext(builder, options);
  embeddings(ctx, options);
  decoder(ctx, null);
  const inputs = [
    valueInfo(IDS, "INT64", [BATCH, SEQUENCE]),
    valueInfo(MASK, "INT64", [BATCH, TOTAL]),
    valueInfo(POSITIONS, "INT64", [BATCH, SEQUENCE]),
    ...caches(options, "past"),
  ];
  return unplaced("model", builder, inputs, [logits(options, SEQUENCE), ...caches(options, "present")]);
}

function logits({ config }: GraphOptions, tokens: string): ValueInfoProto {
  return valueInfo(LOGITS, "FLOAT", [BATCH, tokens, config.vocabulary]);
}

/** Inputs or outputs for keys and values of all layers that have their own. */
function caches({ config, internal }: GraphOptions, when: "past" | "present"): ValueInfoProto[] {
  return config.layers
    .filter(({ sharesKv }) => !sharesKv)
    .flatMap(({ index, kvHeads, headDim }) => {
      const { key, value } = cacheNames(index, when);
      const shape = [BATCH, kvHeads, when === "past" ? PAST : TOTAL, headDim];
      return [valueInfo(key, internal, shape), valueInfo(value, internal, shape)];
    });
}

/** Makes logits and caches; of the last tokens only where an input says of how many. */
function decoder(ctx: GraphContext, kept: string | null): void {
  const { r, outer } = decoderLayers(ctx);
  head(ctx, r, outer, kept);
}

/** All layers. Returns the residual stream, and the shape [batch, sequence, −1]. */
function decoderLayers(ctx: GraphContext): { readonly r: string; readonly outer: string } {
  const { builder, config } = ctx;
  const shared: SharedCaches = new Map();
  const tokens = sequence(ctx, EMBEDS, MASK, POSITIONS);
  const perLayer = config.perLayerWidth > 0 ? perLayerInputs(ctx, tokens.outer) : null;
  let r: string = EMBEDS;
  for (const layer of config.layers) {
    const own = perLayer && ofLayer(builder, perLayer, layer.index);
    r = decoderLayer(ctx, layer, r, { sequence: tokens, perLayer: own, shared });
  }
  return { r, outer: tokens.outer };
}

/**
 * What each layer adds for the tokens: a row of its own table and a projection of the embedding, in equal parts.
 *
 * @returns [batch, sequence, layers, width]
 */
function perLayerInputs(ctx: GraphContext, outer: string): string {
  const { layers, perLayerWidth } = ctx.config;
  const projection = ctx.weight("ple_projection");
  const x = ctx.toInternal("per_layer.input", EMBEDS);
  ctx.observe({ kind: "input", layer: null, value: x, weights: [projection] });
  const projected = linear(ctx, projection, x, outer, "per_layer.projection");
  ctx.observe({ kind: "product", layer: null, value: projected });
  return perLayerSum(ctx, projected, PER_LAYER, [layers.length, perLayerWidth]);
}

/**
 * @param projected [batch, sequence, …], in the internal type: what the projection gives for some layers
 * @param own [batch, sequence, ...shape]: rows of the table times √width
 * @param shape [layers, width], or [width] of one layer
 */
export function perLayerSum(
  ctx: GraphContext,
  projected: string,
  own: string,
  shape: readonly number[],
): string {
  const { builder, config } = ctx;
  const scaled = builder.add("Mul", "per_layer.scaled", [
    ctx.toFloat("per_layer.projection.float", projected),
    builder.number(1 / Math.sqrt(config.hidden)),
  ]);
  const apart = builder.add("Reshape", "per_layer.apart", [scaled, builder.integers([0, 0, ...shape])]);
  const context = ctx.norm("per_layer.context", apart, ctx.vector(ctx.weight("ple_norm")));
  const sum = builder.add("Add", "per_layer.sum", [context, own]);
  return builder.add("Mul", "per_layer", [sum, builder.number(Math.SQRT1_2)]);
}

function ofLayer(builder: GraphBuilder, perLayer: string, index: number): string {
  return builder.add("Gather", `layers.${index}.per_layer.embedding`, [perLayer, builder.integer(index)], {
    axis: attr.int(2),
  });
}

/** Logits of the last tokens; the embedding is the output matrix unless there is one of its own. */
function head(ctx: GraphContext, r: string, outer: string, kept: string | null): void {
  const { builder } = ctx;
  const normed = ctx.norm("final_norm", r, ctx.vector(ctx.weight("final_norm")));
  if (kept === null) builder.add("Identity", LAST_HIDDEN, [normed]);
  else {
    // −0 is the first, so that 0 keeps all.
    const first = builder.add("Neg", "kept.first", [
      builder.add("Unsqueeze", "kept.count", [kept, builder.integers([0])]),
    ]);
    builder.add("Slice", LAST_HIDDEN, [
      normed,
      first,
      builder.integers([2 ** 53 - 1]),
      builder.integers([1]),
    ]);
  }
  logitsOf(ctx, LAST_HIDDEN, headShape(ctx, outer));
}

/**
 * Makes `LOGITS` of what the last norm gives.
 *
 * @param hidden [batch, tokens, hidden], single precision
 * @param outer name of the shape [batch, tokens, −1]
 */
export function logitsOf(ctx: GraphContext, hidden: string, outer: string): void {
  const { builder, config } = ctx;
  const weight = ctx.weight("head");
  const x = ctx.toInternal("head.input", hidden);
  ctx.observe({ kind: "input", layer: null, value: x, weights: [weight] });
  const y = linear(ctx, weight, x, outer, "head");
  ctx.observe({ kind: "product", layer: null, value: y });
  const logits = ctx.toFloat("head.float", y);
  if (config.softcap === null) {
    builder.add("Identity", LOGITS, [logits]);
    return;
  }
  const cap = builder.number(config.softcap);
  const bounded = builder.add("Tanh", "head.bounded", [builder.add("Div", "head.scaled", [logits, cap])]);
  builder.add("Mul", LOGITS, [bounded, cap]);
}

/** Shape [batch, kept, −1]. */
function headShape(ctx: GraphContext, outer: string): string {
  const { builder } = ctx;
  if (ctx.options.source.form(ctx.weight("head")).kind === "nbits") return outer;
  const shape = builder.add("Shape", "head.shape", [LAST_HIDDEN], { start: attr.int(0), end: attr.int(2) });
  return builder.add("Concat", "head.outer", [shape, builder.integers([-1])], { axis: attr.int(0) });
}
