import type { LayerConfig, Role } from "../types.js";
import { attention, type SharedCaches } from "./attention.js";
import type { GraphContext } from "./context.js";
import { gelu, mixture, mlp } from "./feed-forward.js";
import { linear } from "./matrices.js";
import type { Sequence } from "./sequence.js";

/** What a layer is given besides the residual stream. */
export interface LayerInputs {
  readonly sequence: Sequence;
  /** [batch, sequence, width], single precision: what this layer adds for the tokens; null without such embeddings. */
  readonly perLayer: string | null;
  readonly shared: SharedCaches;
}

/**
 * One layer of the decoder.
 *
 * @param residual [batch, sequence, hidden], single precision
 * @returns the same
 */
export function decoderLayer(
  ctx: GraphContext,
  layer: LayerConfig,
  residual: string,
  { sequence, perLayer, shared }: LayerInputs,
): string {
  const { builder } = ctx;
  const { index } = layer;
  const at = `layers.${index}`;
  const norm = (role: Role, x: string): string =>
    ctx.norm(`${at}.${role}`, x, ctx.vector(ctx.weight(role, index)));
  const add = (name: string, r: string, x: string): string => {
    const sum = builder.add("Add", `${at}.${name}`, [r, x]);
    ctx.observe({ kind: "residual", layer: index, value: sum });
    return sum;
  };
  let r = residual;
  const attended = attention(ctx, layer, norm("input_norm", r), sequence, shared);
  r = add("after_attention", r, norm("post_attention_norm", attended));
  const fed = feedForward(ctx, layer, r, sequence, norm);
  r = add("after_ffn", r, norm("post_ffn_norm", fed));
  if (perLayer !== null) {
    const own = perLayerInput(ctx, layer, r, perLayer, sequence);
    r = add("after_per_layer", r, norm("ple_layer_norm", own));
  }
  return builder.add("Mul", at, [r, ctx.vector(ctx.weight("layer_scale", index))]);
}

/**
 * The dense MLP of a layer and, in a model that has experts, their mixture beside it. Experts and router read the
 * residual stream, not what the dense MLP reads.
 */
function feedForward(
  ctx: GraphContext,
  layer: LayerConfig,
  r: string,
  sequence: Sequence,
  norm: (role: Role, x: string) => string,
): string {
  const dense = mlp(ctx, layer, norm("pre_ffn_norm", r), sequence);
  if (ctx.config.experts === null) return dense;
  const mixed = mixture(ctx, layer, norm("pre_ffn_norm_2", r), r, sequence);
  return ctx.builder.add("Add", `layers.${layer.index}.ffn`, [
    norm("post_ffn_norm_1", dense),
    norm("post_ffn_norm_2", mixed),
  ]);
}

/** (gelu(r · gateᵀ) ⊙ the layer's own embedding) · projectionᵀ */
function perLayerInput(
  ctx: GraphContext,
  { index }: LayerConfig,
  r: string,
  perLayer: string,
  { outer }: Sequence,
): string {
  const at = `layers.${index}.per_layer`;
  const [gateWeight, projection] = [ctx.weight("ple_gate", index), ctx.weight("ple_layer_projection", index)];
  const x = ctx.toInternal(`${at}.input`, r);
  ctx.observe({ kind: "input", layer: index, value: x, weights: [gateWeight] });
  const gate = linear(ctx, gateWeight, x, outer, `${at}.gate`);
  const own = ctx.toInternal(`${at}.own`, perLayer);
  const gated = ctx.builder.add("Mul", `${at}.gated`, [gelu(ctx, `${at}.gelu`, gate), own]);
  ctx.observe({ kind: "input", layer: index, value: gated, weights: [projection] });
  const y = linear(ctx, projection, gated, outer, `${at}.projection`);
  // The stream itself is read here, in halves where the products are.
  for (const value of [x, gate, gated, y]) ctx.observe({ kind: "product", layer: index, value });
  return ctx.toFloat(`${at}.projection.float`, y);
}
