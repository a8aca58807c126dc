import type { Gemma4Config, LayerConfig } from "../../../src/gemma4/types.js";
import { HEAD_NAME } from "../../../src/gemma4/weights.js";
import { attention, type Sequence, type Shared } from "./attention.js";
import { mixture, mlp } from "./feed-forward.js";
import {
  add,
  geluTanh,
  linear,
  type Matrix,
  multiply,
  reshape,
  rmsNorm,
  rowOf,
  scale,
  type Values,
  zeros,
} from "./math.js";
import { type TextModel, weightOf } from "./model.js";

/** What a caller may say about a sequence besides its tokens. */
export interface ForwardOptions {
  /** [T], 1 for a real token and 0 for padding, which may stand on the left or on the right. Absent: all real. */
  readonly mask?: ArrayLike<number>;
  /** [T]. Absent: real tokens count up from 0. */
  readonly positions?: ArrayLike<number>;
}

/** Counts real tokens from 0; padding takes the number of the token before it, which nobody sees. */
function countingPositions(mask: readonly boolean[]): number[] {
  let count = 0;
  return mask.map((real) => Math.max((real ? ++count : count) - 1, 0));
}

function readSequence(tokens: Int32Array, { mask, positions }: ForwardOptions): Sequence {
  for (const [name, list] of [
    ["mask", mask],
    ["positions", positions],
  ] as const) {
    if (list !== undefined && list.length !== tokens.length) {
      throw new Error(`${name} has ${list.length} entries for ${tokens.length} tokens.`);
    }
  }
  const real = Array.from(tokens, (_, index) => mask?.[index] !== 0);
  return { mask: real, positions: positions ?? countingPositions(real) };
}

/**
 * Rows of a table.
 *
 * @param table [vocabulary, columns]
 * @returns [T, columns]
 */
function lookUp(table: Values, columns: number, tokens: Int32Array): Matrix {
  const x = zeros(tokens.length, columns);
  for (const [index, token] of tokens.entries()) {
    if (token < 0 || token >= table.length / columns) {
      throw new Error(`Token ${token} at ${index} is not in the vocabulary.`);
    }
    rowOf(x, index).set(table.subarray(token * columns, (token + 1) * columns));
  }
  return x;
}

/**
 * What each layer adds for the tokens themselves: a row of its own table and a projection of the embedding,
 * in equal parts.
 *
 * @param x [T, hidden], the scaled embedding
 * @returns [T · layers, width]: one row a token and layer, all layers of a token together
 */
function perLayerEmbeddings(model: TextModel, tokens: Int32Array, x: Matrix): Matrix {
  const { hidden, layers, perLayerWidth, rmsEpsilon } = model.config;
  const table = weightOf(model, "embed_tokens_per_layer.weight");
  const rows = reshape(lookUp(table, layers.length * perLayerWidth, tokens), perLayerWidth);
  const projected = linear(x, weightOf(model, "per_layer_model_projection.weight"));
  const context = rmsNorm(
    reshape(scale(projected, 1 / Math.sqrt(hidden)), perLayerWidth),
    weightOf(model, "per_layer_projection_norm.weight"),
    rmsEpsilon,
  );
  return scale(add(context, scale(rows, Math.sqrt(perLayerWidth))), 1 / Math.SQRT2);
}

/** Rows of one layer, [T, width]. */
function ofLayer(embeddings: Matrix, { layers }: Gemma4Config, { index }: LayerConfig): Matrix {
  const own = zeros(embeddings.rows / layers.length, embeddings.columns);
  for (let token = 0; token < own.rows; token++) {
    rowOf(own, token).set(rowOf(embeddings, token * layers.length + index));
  }
  return own;
}

/**
 * The dense MLP of a layer and, in a model that has experts, their mixture beside it. Experts and router
 * read the residual stream, not what the dense MLP reads.
 *
 * @param r [T, hidden]
 * @returns [T, hidden]
 */
function feedForward(config: Gemma4Config, weight: (name: string) => Values, r: Matrix): Matrix {
  const norm = (x: Matrix, name: string): Matrix => rmsNorm(x, weight(`${name}.weight`), config.rmsEpsilon);
  const dense = mlp(
    norm(r, "pre_feedforward_layernorm"),
    weight("mlp.gate_proj.weight"),
    weight("mlp.up_proj.weight"),
    weight("mlp.down_proj.weight"),
  );
  if (config.experts === null) return dense;
  const mixed = mixture(config, weight, norm(r, "pre_feedforward_layernorm_2"), r);
  return add(norm(dense, "post_feedforward_layernorm_1"), norm(mixed, "post_feedforward_layernorm_2"));
}

/**
 * One layer.
 *
 * @param residual [T, hidden]
 * @param perLayer [T, width]; null in a model without per-layer embeddings
 * @returns [T, hidden]
 */
function decoderLayer(
  model: TextModel,
  layer: LayerConfig,
  residual: Matrix,
  perLayer: Matrix | null,
  sequence: Sequence,
  shared: Shared,
): Matrix {
  const { config } = model;
  const weight = (name: string): Values => weightOf(model, `layers.${layer.index}.${name}`);
  const norm = (x: Matrix, name: string): Matrix => rmsNorm(x, weight(`${name}.weight`), config.rmsEpsilon);

  let r = residual;
  let h = attention(config, layer, weight, norm(r, "input_layernorm"), sequence, shared);
  r = add(r, norm(h, "post_attention_layernorm"));
  h = feedForward(config, weight, r);
  r = add(r, norm(h, "post_feedforward_layernorm"));
  if (perLayer !== null) {
    const gated = multiply(geluTanh(linear(r, weight("per_layer_input_gate.weight"))), perLayer);
    h = linear(gated, weight("per_layer_projection.weight"));
    r = add(r, norm(h, "post_per_layer_input_norm"));
  }
  return scale(r, weight("layer_scalar")[0]!);
}

/**
 * Logits of every token; the embedding is the output matrix unless there is one of its own.
 *
 * @param r [T, hidden]
 * @returns [T, vocabulary]
 */
function head(model: TextModel, r: Matrix): Matrix {
  const { rmsEpsilon, softcap } = model.config;
  const matrix = model.weights.get(HEAD_NAME) ?? weightOf(model, "embed_tokens.weight");
  const logits = linear(rmsNorm(r, weightOf(model, "norm.weight"), rmsEpsilon), matrix);
  if (softcap === null) return logits;
  return { ...logits, values: logits.values.map((value) => softcap * Math.tanh(value / softcap)) };
}

/**
 * Gemma 4's text model, written to be read beside its description and used to check everything faster. It
 * shares nothing with what it checks but the reading of checkpoints; all is computed in double precision.
 *
 * @param tokens [T], one sequence
 * @returns logits [T, vocabulary]; rows of padding are NaN, because no two implementations agree on them.
 *   `suppress_tokens` is a rule for sampling and not applied
 * @throws Error when a token is not in the vocabulary, or an option is not as long as the sequence
 */
export function forward(model: TextModel, tokens: Int32Array, options: ForwardOptions = {}): Float64Array {
  const { config } = model;
  const sequence = readSequence(tokens, options);
  const embedding = lookUp(weightOf(model, "embed_tokens.weight"), config.hidden, tokens);
  let r = scale(embedding, Math.sqrt(config.hidden));
  const perLayer = config.perLayerWidth > 0 ? perLayerEmbeddings(model, tokens, r) : null;
  const shared: Shared = new Map();
  for (const layer of config.layers) {
    const own = perLayer && ofLayer(perLayer, config, layer);
    r = decoderLayer(model, layer, r, own, sequence, shared);
  }
  const logits = head(model, r);
  for (const [index, real] of sequence.mask.entries()) if (!real) rowOf(logits, index).fill(Number.NaN);
  return logits.values;
}
