import type { Gemma4Config, LayerConfig, LayerKind } from "../../../src/gemma4/types.js";
import { dot, linear, type Matrix, reshape, rmsNorm, rowOf, softmax, type Values, zeros } from "./math.js";

/** What every layer is told about the sequence. */
export interface Sequence {
  /** [T]: which tokens are real; the others are padding, whose keys nobody sees. */
  readonly mask: readonly boolean[];
  /** [T]: by how much each token is rotated. */
  readonly positions: ArrayLike<number>;
}

/** Finished keys (normed and rotated) and values (normed) of a layer, both [T · kvHeads, headDim]. */
export interface KeysAndValues {
  readonly keys: Matrix;
  readonly values: Matrix;
}

/** The last keys and values computed by a layer of each kind, which is what layers that share take. */
export type Shared = Map<LayerKind, KeysAndValues>;

/**
 * Angle per position of each pair of a head, [headDim / 2]. On full layers only the first pairs turn, and
 * the exponent still has the whole head below the line ("proportional").
 */
function inverseFrequencies(config: Gemma4Config, { kind, headDim }: LayerConfig): number[] {
  const pairs = headDim / 2;
  const turning = kind === "full" ? Math.floor(config.partialRotaryFactor * pairs) : pairs;
  const theta = config.ropeTheta[kind];
  return Array.from({ length: pairs }, (_, i) => (i < turning ? theta ** ((-2 * i) / headDim) : 0));
}

/**
 * Turns value i of every head against value i + headDim / 2.
 *
 * @param x [T · heads, headDim]
 */
function rotate(x: Matrix, frequencies: readonly number[], positions: ArrayLike<number>): Matrix {
  const y = zeros(x.rows, x.columns);
  const heads = x.rows / positions.length;
  const half = x.columns / 2;
  for (let row = 0; row < x.rows; row++) {
    const position = positions[Math.floor(row / heads)]!;
    const input = rowOf(x, row);
    const output = rowOf(y, row);
    for (const [i, frequency] of frequencies.entries()) {
      const cos = Math.cos(position * frequency);
      const sin = Math.sin(position * frequency);
      output[i] = input[i]! * cos - input[i + half]! * sin;
      output[i + half] = input[i + half]! * cos + input[i]! * sin;
    }
  }
  return y;
}

/**
 * Whether a query sees a key, both by their place in the sequence. A sliding window counts the query itself.
 * Places, not positions: as in the transformers library, position ids do nothing but rotate.
 *
 * @param window null on full layers
 */
function sees(query: number, key: number, window: number | null, mask: readonly boolean[]): boolean {
  return mask[key] === true && key <= query && (window === null || key > query - window);
}

/**
 * softmax(q · kᵀ) · v, head by head. The scores are not divided by √headDim: the norms of queries and keys
 * have learned weights that do it.
 *
 * @param queries [T · heads, headDim]
 * @returns [T, heads · headDim]; zeros for a query that sees nothing, which only padding does
 */
function attend(
  queries: Matrix,
  { keys, values }: KeysAndValues,
  window: number | null,
  mask: readonly boolean[],
): Matrix {
  const tokens = mask.length;
  const heads = queries.rows / tokens;
  const kvHeads = keys.rows / tokens;
  const output = zeros(queries.rows, queries.columns);
  for (let query = 0; query < tokens; query++) {
    const seen = mask.map((_, key) => key).filter((key) => sees(query, key, window, mask));
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / (heads / kvHeads));
      const q = rowOf(queries, query * heads + head);
      const scores = Float64Array.from(seen, (key) => dot(q, rowOf(keys, key * kvHeads + kvHead)));
      const out = rowOf(output, query * heads + head);
      for (const [index, probability] of softmax(scores).entries()) {
        const v = rowOf(values, seen[index]! * kvHeads + kvHead);
        for (let i = 0; i < v.length; i++) out[i]! += probability * v[i]!;
      }
    }
  }
  return reshape(output, heads * queries.columns);
}

/**
 * Keys and values of a layer that has its own. Values are the raw keys where the layer has no projection for
 * them; they are normed without a weight, and not rotated.
 */
function keysAndValues(
  config: Gemma4Config,
  layer: LayerConfig,
  weight: (name: string) => Values,
  h: Matrix,
  { positions }: Sequence,
): KeysAndValues {
  const { headDim, kEqualsV } = layer;
  const rawKeys = reshape(linear(h, weight("self_attn.k_proj.weight")), headDim);
  const rawValues = kEqualsV ? rawKeys : reshape(linear(h, weight("self_attn.v_proj.weight")), headDim);
  const keys = rmsNorm(rawKeys, weight("self_attn.k_norm.weight"), config.rmsEpsilon);
  return {
    keys: rotate(keys, inverseFrequencies(config, layer), positions),
    values: rmsNorm(rawValues, null, config.rmsEpsilon),
  };
}

/**
 * Attention of one layer.
 *
 * @param weight values by name below `layers.N.`
 * @param h [T, hidden]
 * @param shared read by layers that share keys and values, written by the others
 * @returns [T, hidden]
 */
export function attention(
  config: Gemma4Config,
  layer: LayerConfig,
  weight: (name: string) => Values,
  h: Matrix,
  sequence: Sequence,
  shared: Shared,
): Matrix {
  const raw = reshape(linear(h, weight("self_attn.q_proj.weight")), layer.headDim);
  const normed = rmsNorm(raw, weight("self_attn.q_norm.weight"), config.rmsEpsilon);
  const queries = rotate(normed, inverseFrequencies(config, layer), sequence.positions);
  if (!layer.sharesKv) shared.set(layer.kind, keysAndValues(config, layer, weight, h, sequence));
  const window = layer.kind === "sliding" ? config.slidingWindow : null;
  const heads = attend(queries, shared.get(layer.kind)!, window, sequence.mask);
  return linear(heads, weight("self_attn.o_proj.weight"));
}
