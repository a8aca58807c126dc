import { attr } from "../../../formats/onnx/build.js";
import type { LayerConfig, LayerKind, Role, Weight } from "../types.js";
import type { GraphContext } from "./context.js";
import { linear } from "./matrices.js";
import type { Sequence } from "./sequence.js";

/** Keys and values of all tokens so far: [batch, kvHeads, total, headDim], in the internal type. */
export interface Cache {
  readonly key: string;
  readonly value: string;
}

/** Caches that layers which share take: those of the last layer of each kind that has its own. */
export type SharedCaches = Map<LayerKind, Cache>;

/** Names of a layer's cache in the transformers.js layout. */
export function cacheNames(layer: number, when: "past" | "present"): Cache {
  const prefix = when === "past" ? "past_key_values" : "present";
  return { key: `${prefix}.${layer}.key`, value: `${prefix}.${layer}.value` };
}

/**
 * Attention of one layer.
 *
 * @param h [batch, sequence, hidden], single precision
 * @param shared read by layers that share keys and values, written by the others
 * @returns [batch, sequence, hidden], single precision
 */
export function attention(
  ctx: GraphContext,
  layer: LayerConfig,
  h: string,
  sequence: Sequence,
  shared: SharedCaches,
): string {
  const { builder, config } = ctx;
  const { index, kind, headDim, kvHeads, sharesKv } = layer;
  const at = `layers.${index}.attention`;
  const x = ctx.toInternal(`${at}.input`, h);
  ctx.observe({ kind: "input", layer: index, value: x, weights: readers(ctx, layer) });
  const queries = rotated(ctx, layer, `${at}.q`, project(ctx, layer, "q_proj", x, sequence), {
    gain: ctx.vector(ctx.weight("q_norm", index)),
    heads: config.heads,
    sequence,
  });
  const own = sharesKv ? undefined : keysAndValues(ctx, layer, x, sequence);
  const empty = (): string => emptyKeys(ctx, kvHeads * headDim, sequence);
  const [key, value] = own ?? [empty(), empty()];
  const past = sharesKv ? shared.get(kind) : cacheNames(index, "past");
  if (past === undefined) throw new RangeError(`no ${kind} layer before layer ${index} has keys of its own`);
  // Both have to be declared even where nobody reads them: without, the runtime crashes or loses the past.
  const present = sharesKv
    ? { key: `${at}.unused_key`, value: `${at}.unused_value` }
    : cacheNames(index, "present");
  const window = ctx.window(kind);
  const [heads] = builder.addMany(
    "GroupQueryAttention",
    at,
    [
      queries,
      key,
      value,
      past.key,
      past.value,
      sequence.lastPlace,
      sequence.total,
      "",
      "",
      "",
      sequence.bias,
    ],
    [`${at}.heads`, present.key, present.value],
    {
      num_heads: attr.int(config.heads),
      kv_num_heads: attr.int(kvHeads),
      // Scores are not divided by √headDim: the norms of queries and keys have learned weights that do it.
      scale: attr.float(1),
      ...(window > 0 ? { local_window_size: attr.int(window) } : {}),
    },
    "com.microsoft",
  );
  if (!sharesKv) shared.set(kind, present);
  const output = ctx.weight("o_proj", index);
  ctx.observe({ kind: "input", layer: index, value: heads!, weights: [output] });
  const y = linear(ctx, output, heads!, sequence.outer, `${at}.output`);
  ctx.observe({ kind: "product", layer: index, value: y });
  return ctx.toFloat(`${at}.output.float`, y);
}

/** The matrices that read the normed stream. */
function readers(ctx: GraphContext, { index, sharesKv, kEqualsV }: LayerConfig): Weight[] {
  const roles = [
    "q_proj",
    ...(sharesKv ? [] : ["k_proj"]),
    ...(sharesKv || kEqualsV ? [] : ["v_proj"]),
  ] as const;
  return roles.map((role) => ctx.weight(role as Role, index));
}

/** A projection, back in single precision: what follows is a norm. */
function project(
  ctx: GraphContext,
  { index }: LayerConfig,
  role: "q_proj" | "k_proj" | "v_proj",
  x: string,
  { outer }: Sequence,
): string {
  const name = `layers.${index}.attention.${role}`;
  const y = linear(ctx, ctx.weight(role, index), x, outer, name);
  ctx.observe({ kind: "product", layer: index, value: y });
  return ctx.toFloat(`${name}.float`, y);
}

/** [batch, sequence, heads · headDim] normed head by head. */
function normedHeads(
  ctx: GraphContext,
  name: string,
  x: string,
  gain: string,
  layer: LayerConfig,
  heads: number,
): string {
  const { builder } = ctx;
  const apart = builder.add("Reshape", `${name}.heads`, [x, builder.integers([0, 0, heads, layer.headDim])]);
  const normed = ctx.norm(`${name}.normed`, apart, gain);
  return builder.add("Reshape", `${name}.together`, [
    normed,
    builder.integers([0, 0, heads * layer.headDim]),
  ]);
}

/** Normed and turned by the position: value i of a head against value i + headDim / 2. */
function rotated(
  ctx: GraphContext,
  layer: LayerConfig,
  name: string,
  x: string,
  { gain, heads, sequence }: { readonly gain: string; readonly heads: number; readonly sequence: Sequence },
): string {
  const { kind } = layer;
  const turned = ctx.builder.addMicrosoft("RotaryEmbedding", `${name}.rotated`, [
    normedHeads(ctx, name, x, gain, layer, heads),
    sequence.rows,
    sequence.cosines.get(kind)!,
    sequence.sines.get(kind)!,
  ]);
  return ctx.toInternal(`${name}.rotated.internal`, turned);
}

/**
 * Keys and values of a layer that has its own. Values are the raw keys where the layer has no projection for them;
 * they are normed without a weight, and not rotated.
 */
function keysAndValues(
  ctx: GraphContext,
  layer: LayerConfig,
  x: string,
  sequence: Sequence,
): readonly [key: string, value: string] {
  const { index, kvHeads, headDim, kEqualsV } = layer;
  const at = `layers.${index}.attention`;
  const rawKeys = project(ctx, layer, "k_proj", x, sequence);
  const rawValues = kEqualsV ? rawKeys : project(ctx, layer, "v_proj", x, sequence);
  const keys = rotated(ctx, layer, `${at}.k`, rawKeys, {
    gain: ctx.vector(ctx.weight("k_norm", index)),
    heads: kvHeads,
    sequence,
  });
  const values = normedHeads(ctx, `${at}.v`, rawValues, ctx.ones(headDim), layer, kvHeads);
  return [keys, ctx.toInternal(`${at}.v.internal`, values)];
}

/** [batch, 0, width]: nothing to add to the keys of another layer. */
function emptyKeys(ctx: GraphContext, width: number, { batch }: Sequence): string {
  const { builder } = ctx;
  return ctx.once(`no_keys.${width}`, (name) => {
    const shape = builder.add("Concat", `${name}.shape`, [batch, builder.integers([0, width])], {
      axis: attr.int(0),
    });
    const zero = ctx.once("zero", (at) => ctx.toInternal(at, builder.number(0)));
    return builder.add("Expand", name, [zero, shape]);
  });
}
