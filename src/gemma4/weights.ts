import type { Gemma4Config, LayerConfig, Role, Weight } from "./types.js";

/** The output matrix of a model whose embedding is not tied to it. */
export const HEAD_NAME = "lm_head.weight";

type Shape = readonly number[];
/** Role, name below `layers.N.`, GGUF name below `blk.N.`, shape in PyTorch order. */
type LayerRow = readonly [role: Role, name: string, gguf: string, shape: Shape];

/** Norms and the scale that every layer of every member has. */
function commonRows(config: Gemma4Config): LayerRow[] {
  const norm: Shape = [config.hidden];
  return [
    ["input_norm", "input_layernorm.weight", "attn_norm.weight", norm],
    ["post_attention_norm", "post_attention_layernorm.weight", "post_attention_norm.weight", norm],
    ["pre_ffn_norm", "pre_feedforward_layernorm.weight", "ffn_norm.weight", norm],
    ["post_ffn_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight", norm],
    ["layer_scale", "layer_scalar", "layer_output_scale.weight", [1]],
  ];
}

function attentionRows(config: Gemma4Config, layer: LayerConfig): LayerRow[] {
  const { hidden, heads } = config;
  const { headDim, kvHeads, kEqualsV } = layer;
  const rows: LayerRow[] = [
    ["q_proj", "self_attn.q_proj.weight", "attn_q.weight", [heads * headDim, hidden]],
    ["k_proj", "self_attn.k_proj.weight", "attn_k.weight", [kvHeads * headDim, hidden]],
    ["v_proj", "self_attn.v_proj.weight", "attn_v.weight", [kvHeads * headDim, hidden]],
    ["o_proj", "self_attn.o_proj.weight", "attn_output.weight", [hidden, heads * headDim]],
    ["q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", [headDim]],
    ["k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", [headDim]],
  ];
  return kEqualsV ? rows.filter(([role]) => role !== "v_proj") : rows;
}

function feedForwardRows(config: Gemma4Config, layer: LayerConfig): LayerRow[] {
  const { hidden } = config;
  const { feedForward } = layer;
  return [
    ["ffn_gate", "mlp.gate_proj.weight", "ffn_gate.weight", [feedForward, hidden]],
    ["ffn_up", "mlp.up_proj.weight", "ffn_up.weight", [feedForward, hidden]],
    ["ffn_down", "mlp.down_proj.weight", "ffn_down.weight", [hidden, feedForward]],
  ];
}

function expertRows(config: Gemma4Config): LayerRow[] {
  if (config.experts === null) return [];
  const { hidden } = config;
  const { count, intermediate } = config.experts;
  return [
    ["router", "router.proj.weight", "ffn_gate_inp.weight", [count, hidden]],
    ["router_scale", "router.scale", "ffn_gate_inp.scale", [hidden]],
    ["expert_scale", "router.per_expert_scale", "ffn_down_exps.scale", [count]],
    ["experts_gate_up", "experts.gate_up_proj", "ffn_gate_up_exps.weight", [count, 2 * intermediate, hidden]],
    ["experts_down", "experts.down_proj", "ffn_down_exps.weight", [count, hidden, intermediate]],
    ["pre_ffn_norm_2", "pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", [hidden]],
    ["post_ffn_norm_1", "post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", [hidden]],
    ["post_ffn_norm_2", "post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", [hidden]],
  ];
}

function perLayerEmbeddingRows(config: Gemma4Config): LayerRow[] {
  const { hidden, perLayerWidth } = config;
  if (perLayerWidth === 0) return [];
  return [
    ["ple_gate", "per_layer_input_gate.weight", "inp_gate.weight", [perLayerWidth, hidden]],
    ["ple_layer_projection", "per_layer_projection.weight", "proj.weight", [hidden, perLayerWidth]],
    ["ple_layer_norm", "post_per_layer_input_norm.weight", "post_norm.weight", [hidden]],
  ];
}

const UNUSED_WHEN_SHARED: ReadonlySet<Role> = new Set(["k_proj", "v_proj", "k_norm"]);

function layerWeights(config: Gemma4Config, layer: LayerConfig): Weight[] {
  return [
    ...commonRows(config),
    ...attentionRows(config, layer),
    ...feedForwardRows(config, layer),
    ...expertRows(config),
    ...perLayerEmbeddingRows(config),
  ].map(([role, name, gguf, shape]) => ({
    role,
    layer: layer.index,
    name: `layers.${layer.index}.${name}`,
    gguf: `blk.${layer.index}.${gguf}`,
    shape,
    unused: layer.sharesKv && UNUSED_WHEN_SHARED.has(role),
  }));
}

function outer(role: Role, name: string, gguf: string, shape: Shape): Weight {
  return { role, layer: null, name, gguf, shape, unused: false };
}

/** The output matrix, which a checkpoint of a tied model normally lacks. */
export function headWeight(config: Gemma4Config): Weight {
  return outer("head", HEAD_NAME, "output.weight", [config.vocabulary, config.hidden]);
}

/**
 * Every weight of the text model that the config demands, embeddings first, then layer by layer.
 * `output.weight` is among them only when the embedding is not tied.
 */
export function listWeights(config: Gemma4Config): Weight[] {
  const { hidden, vocabulary, perLayerWidth, perLayerVocabulary, layers } = config;
  const stacked = layers.length * perLayerWidth;
  const weights = [outer("embedding", "embed_tokens.weight", "token_embd.weight", [vocabulary, hidden])];
  if (perLayerWidth > 0) {
    weights.push(
      outer("ple_table", "embed_tokens_per_layer.weight", "per_layer_token_embd.weight", [
        perLayerVocabulary,
        stacked,
      ]),
      outer("ple_projection", "per_layer_model_projection.weight", "per_layer_model_proj.weight", [
        stacked,
        hidden,
      ]),
      outer("ple_norm", "per_layer_projection_norm.weight", "per_layer_proj_norm.weight", [perLayerWidth]),
    );
  }
  for (const layer of layers) weights.push(...layerWeights(config, layer));
  weights.push(outer("final_norm", "norm.weight", "output_norm.weight", [hidden]));
  if (!config.tiedEmbeddings) weights.push(headWeight(config));
  return weights;
}

/** Number of values of a weight. */
export function parameterCount(weight: Weight): number {
  return weight.shape.reduce((product, size) => product * size, 1);
}

/** Names in the checkpoint without the prefix and names in GGUF of the weights outside the layers. */
const OUTER_NAMES: readonly (readonly [name: string, gguf: string])[] = listWeights(everything([]))
  .concat(headWeight(everything([])))
  .map(({ name, gguf }) => [name, gguf]);

/** The same of a layer, without its number. */
const LAYER_NAMES: readonly (readonly [name: string, gguf: string])[] = layerWeights(everything([]), {
  index: 0,
  kind: "full",
  headDim: 1,
  kvHeads: 1,
  feedForward: 1,
  kEqualsV: false,
  sharesKv: false,
}).map(({ name, gguf }) => [name.slice("layers.0.".length), gguf.slice("blk.0.".length)]);

/** A model that has every kind of weight; sizes do not matter. */
function everything(layers: readonly LayerConfig[]): Gemma4Config {
  const experts = { count: 1, used: 1, intermediate: 1 };
  const sizes = { hidden: 1, heads: 1, vocabulary: 1, perLayerWidth: 1, perLayerVocabulary: 1 };
  return { ...sizes, experts, layers, tiedEmbeddings: true } as Partial<Gemma4Config> as Gemma4Config;
}

/** Name in GGUF of a weight that some member has, by its name in the checkpoint without the prefix. */
export function ggufNameOf(name: string): string | undefined {
  const [, layer, rest] = /^layers\.(0|[1-9]\d{0,3})\.(.+)$/.exec(name) ?? [];
  if (layer === undefined) return OUTER_NAMES.find(([own]) => own === name)?.[1];
  const found = LAYER_NAMES.find(([own]) => own === rest)?.[1];
  return found === undefined ? undefined : `blk.${layer}.${found}`;
}

/** The other way round. */
export function checkpointNameOf(gguf: string): string | undefined {
  const [, layer, rest] = /^blk\.(0|[1-9]\d{0,3})\.(.+)$/.exec(gguf) ?? [];
  if (layer === undefined) return OUTER_NAMES.find(([, own]) => own === gguf)?.[0];
  const found = LAYER_NAMES.find(([, own]) => own === rest)?.[0];
  return found === undefined ? undefined : `layers.${layer}.${found}`;
}
