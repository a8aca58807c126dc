import { attr, graph, valueInfo } from "../../../formats/onnx/build.js";
import type { LayerConfig, Weight } from "../types.js";
import { GraphBuilder } from "./builder.js";
import type { Collected, GraphContext } from "./context.js";
import { linear, linearOf } from "./matrices.js";
import type { Sequence } from "./sequence.js";

/** GELU by its tanh approximation, which is the function the model was trained with. */
export function gelu(ctx: GraphContext, name: string, x: string): string {
  return ctx.builder.add("Gelu", name, [x], { approximate: attr.string("tanh") });
}

/**
 * (gelu(h · gateᵀ) ⊙ (h · upᵀ)) · downᵀ
 *
 * @param h [batch, sequence, hidden], single precision
 * @returns the same
 */
export function mlp(ctx: GraphContext, { index }: LayerConfig, h: string, { outer }: Sequence): string {
  const { builder } = ctx;
  const at = `layers.${index}.mlp`;
  const [gateWeight, upWeight, downWeight] = [
    ctx.weight("ffn_gate", index),
    ctx.weight("ffn_up", index),
    ctx.weight("ffn_down", index),
  ];
  const x = ctx.toInternal(`${at}.input`, h);
  ctx.observe({ kind: "input", layer: index, value: x, weights: [gateWeight, upWeight] });
  const gate = linear(ctx, gateWeight, x, outer, `${at}.gate`);
  const up = linear(ctx, upWeight, x, outer, `${at}.up`);
  const gated = builder.add("Mul", `${at}.gated`, [gelu(ctx, `${at}.gelu`, gate), up]);
  ctx.observe({ kind: "input", layer: index, value: gated, weights: [downWeight] });
  const down = linear(ctx, downWeight, gated, outer, `${at}.down`);
  for (const value of [gate, up, gated, down]) ctx.observe({ kind: "product", layer: index, value });
  return ctx.toFloat(`${at}.down.float`, down);
}

/** Which experts each token goes to: both [tokens, used]. */
interface Routes {
  /** INT64 */
  readonly experts: string;
  /** Single precision. */
  readonly weights: string;
}

/**
 * Probabilities are over all experts; those of the chosen ones are brought to a sum of one, and only then multiplied
 * by the expert's own scale.
 *
 * @param r [tokens, hidden], the residual stream itself: the router has a norm of its own
 */
function route(ctx: GraphContext, { index }: LayerConfig, r: string): Routes {
  const { builder, config } = ctx;
  const at = `layers.${index}.router`;
  const { used = 0 } = config.experts ?? {};
  const normed = ctx.norm(`${at}.normed`, r, ctx.ones(config.hidden));
  const gain = builder.add("Mul", `${at}.gain`, [
    ctx.vector(ctx.weight("router_scale", index)),
    builder.number(1 / Math.sqrt(config.hidden)),
  ]);
  const scaled = builder.add("Mul", `${at}.scaled`, [normed, gain]);
  const weight = ctx.weight("router", index);
  ctx.observe({ kind: "input", layer: index, value: scaled, weights: [weight] });
  const logits = builder.add("Gemm", `${at}.logits`, [scaled, ctx.vector(weight)], { transB: attr.int(1) });
  ctx.options.multiplied?.({ weight, rows: undefined, x: scaled, y: logits });
  const probabilities = builder.add("Softmax", `${at}.probabilities`, [logits], { axis: attr.int(-1) });
  const [chosen, experts] = builder.addMany(
    "TopK",
    `${at}.top`,
    [probabilities, builder.integers([used])],
    [`${at}.chosen`, `${at}.experts`],
    { axis: attr.int(-1) },
  );
  const sum = builder.add("ReduceSum", `${at}.sum`, [chosen!, builder.integers([-1])], {
    keepdims: attr.int(1),
  });
  const shares = builder.add("Div", `${at}.shares`, [chosen!, sum]);
  const own = builder.add("Gather", `${at}.own`, [ctx.vector(ctx.weight("expert_scale", index)), experts!], {
    axis: attr.int(0),
  });
  return { experts: experts!, weights: builder.add("Mul", `${at}.weights`, [shares, own]) };
}

/**
 * Sum of the chosen experts' outputs, each times its weight: a loop over the experts in use, of which each takes the
 * tokens that chose it. The runtime's fused operators know no gated GELU.
 *
 * @param h [batch, sequence, hidden], what the experts read; single precision
 * @param r [batch, sequence, hidden], what the router reads
 * @returns [batch, sequence, hidden], single precision
 */
export function mixture(
  ctx: GraphContext,
  layer: LayerConfig,
  h: string,
  r: string,
  { outer }: Sequence,
): string {
  const { builder, config } = ctx;
  const at = `layers.${layer.index}.experts`;
  const flat = builder.integers([-1, config.hidden]);
  const x = builder.add("Reshape", `${at}.input`, [h, flat]);
  const { experts, weights } = route(ctx, layer, builder.add("Reshape", `${at}.residual`, [r, flat]));
  const inUse = expertsInUse(layer.index);
  builder.addMany("Unique", `${at}.unique`, [experts], [inUse]);
  const count = builder.add("Size", `${at}.count`, [inUse]);
  const zeros = builder.add("Mul", `${at}.zeros`, [x, builder.number(0)]);
  const { body, collected } = expertBody(ctx, layer, { x, experts, weights, inUse });
  const outputs = [`${at}.sum`, ...collected.map(({ name }) => name)];
  const [sum] = builder.addMany("Loop", `${at}.sum`, [count, "", zeros], outputs, {
    body: attr.graph(body),
  });
  return builder.add("Reshape", at, [sum!, outer]);
}

/** Name of the list of the experts that a layer's tokens chose, [in use], INT64: the loop takes them in this order. */
export function expertsInUse(layer: number): string {
  return `layers.${layer}.experts.in_use`;
}

function expertBody(
  outside: GraphContext,
  { index }: LayerConfig,
  { x, experts, weights, inUse }: Routes & { readonly x: string; readonly inUse: string },
) {
  const { config } = outside;
  const at = `layers.${index}.expert`;
  const builder = new GraphBuilder(outside.builder);
  const ctx = outside.inside(builder);
  const [turn, going, sum] = [`${at}.turn`, `${at}.going`, `${at}.sum`];
  const expert = builder.add("Gather", `${at}.id`, [inUse, turn], { axis: attr.int(0) });
  const chose = builder.add("Equal", `${at}.chose`, [experts, expert]);
  const places = builder.add("Transpose", `${at}.places`, [builder.add("NonZero", `${at}.found`, [chose])], {
    perm: attr.ints([1, 0]),
  });
  const tokens = builder.add("Slice", `${at}.tokens`, [
    places,
    builder.integers([0]),
    builder.integers([1]),
    builder.integers([1]),
  ]);
  const own = ctx.toInternal(`${at}.rows.internal`, builder.add("GatherND", `${at}.rows`, [x, tokens]));
  const collected: Collected[] = [];
  const read = (value: string, weight: Weight): void => {
    const observed = { kind: "input", layer: index, value, weights: [weight] } as const;
    collected.push(...(ctx.options.collect?.(builder, observed) ?? []));
  };
  const [gateUpWeight, downWeight] = [
    ctx.weight("experts_gate_up", index),
    ctx.weight("experts_down", index),
  ];
  read(own, gateUpWeight);
  const both = linearOf(ctx, gateUpWeight, own, expert, `${at}.gate_up`);
  const [gate, up] = builder.addMany("Split", `${at}.split`, [both], [`${at}.gate`, `${at}.up`], {
    axis: attr.int(-1),
    num_outputs: attr.int(2),
  });
  const gated = builder.add("Mul", `${at}.gated`, [gelu(ctx, `${at}.gelu`, gate!), up!]);
  read(gated, downWeight);
  const down = linearOf(ctx, downWeight, gated, expert, `${at}.down`);
  const share = builder.add("Unsqueeze", `${at}.share`, [
    builder.add("GatherND", `${at}.weight`, [weights, places]),
    builder.integers([-1]),
  ]);
  const scaled = builder.add("Mul", `${at}.scaled`, [ctx.toFloat(`${at}.down.float`, down), share]);
  const next = builder.add("ScatterND", `${at}.next`, [sum, tokens, scaled], {
    reduction: attr.string("add"),
  });
  const still = builder.add("Identity", `${at}.still`, [going]);
  const body = graph(`${at}.body`, builder.nodes, {
    inputs: [
      valueInfo(turn, "INT64", []),
      valueInfo(going, "BOOL", []),
      valueInfo(sum, "FLOAT", [`${at}.count`, config.hidden]),
    ],
    outputs: [
      valueInfo(still, "BOOL", []),
      valueInfo(next, "FLOAT", [`${at}.count`, config.hidden]),
      ...collected.map(({ value, type, dims }) => valueInfo(value, type, dims)),
    ],
  });
  return { body, collected };
}
