import { attr, valueInfo } from "../../../formats/onnx/build.js";
import type { ValueInfoProto } from "../../../formats/onnx/types.js";
import type { Gemma4Config, LayerConfig } from "../types.js";
import { cacheNames, type SharedCaches } from "./attention.js";
import { GraphBuilder } from "./builder.js";
import { type Collected, GraphContext, type GraphOptions, type Observed } from "./context.js";
import {
  BATCH,
  EMBEDS,
  type EmbedOptions,
  IDS,
  perLayerSum,
  SEQUENCE,
  tokenEmbeddings,
  tokenIds,
  type UnplacedGraph,
  unplaced,
} from "./graphs.js";
import { expertsInUse } from "./feed-forward.js";
import { decoderLayer } from "./layer.js";
import { linearRows, lookUpPart } from "./matrices.js";
import { windowSequence } from "./sequence.js";

/*
 * The model one step at a time, over whole windows: embeddings, one layer after the other, and the norm before the
 * output matrix. So only one layer's weights are in memory, and what the matrices read can be looked at.
 */

/** Inputs and outputs of the graphs: [batch, sequence, hidden] each, but for the ids, which are [batch, sequence]. */
export const STEP = { ids: IDS, states: "hidden_states", next: "next_hidden_states" } as const;

/** Looks at what the matrices of a graph read. */
export interface Probe {
  /**
   * Adds outputs for the rows that some matrices read.
   *
   * @param observed [batch, sequence, columns] or [batch · sequence, columns]
   * @param batch name of the shape [batch]
   */
  input(builder: GraphBuilder, observed: Observed, batch: string): readonly ValueInfoProto[];
  /** The same inside the loop over experts; see `GraphOptions.collect`. */
  expert(builder: GraphBuilder, observed: Observed): readonly Collected[];
}

/** Runs `build` and then lets the probe look at what it made. */
function probed(
  options: GraphOptions,
  probe: Probe | null,
  build: (ctx: GraphContext) => string,
): { readonly builder: GraphBuilder; readonly outputs: readonly ValueInfoProto[] } {
  const builder = new GraphBuilder();
  if (probe === null) {
    build(new GraphContext(builder, options));
    return { builder, outputs: [] };
  }
  const seen: Observed[] = [];
  const outputs: ValueInfoProto[] = [];
  const ctx = new GraphContext(builder, {
    ...options,
    observe: (observed) => {
      if (observed.kind === "input") seen.push(observed);
    },
    collect: (body, observed) => {
      const collected = probe.expert(body, observed);
      outputs.push(...collected.map(({ name, type, dims }) => valueInfo(name, type, ["in_use", ...dims])));
      return collected;
    },
  });
  const batch = build(ctx);
  outputs.push(...seen.flatMap((observed) => probe.input(builder, observed, batch)));
  return { builder, outputs };
}

/** An input or output of the residual stream. */
export function states(name: string, { hidden }: Gemma4Config): ValueInfoProto {
  return valueInfo(name, "FLOAT", [BATCH, SEQUENCE, hidden]);
}

function ids(): ValueInfoProto {
  return valueInfo(IDS, "INT64", [BATCH, SEQUENCE]);
}

/**
 * Token ids to the residual stream that the first layer reads.
 *
 * Input `STEP.ids`, output `STEP.next`. What the projection of per-layer embeddings reads is looked at here, for all
 * layers at once.
 */
export function embeddingStep(options: EmbedOptions, probe: Probe | null): UnplacedGraph {
  const { builder, outputs } = probed(options, probe, (ctx) => {
    tokenEmbeddings(ctx);
    const next = ctx.builder.add("Identity", STEP.next, [EMBEDS]);
    const { batch } = windowSequence(ctx, next);
    if (options.config.perLayerWidth > 0) {
      const projection = ctx.weight("ple_projection");
      ctx.observe({ kind: "input", layer: null, value: EMBEDS, weights: [projection] });
    }
    return batch;
  });
  return unplaced("embedding", builder, [ids()], [states(STEP.next, options.config), ...outputs]);
}

/** The layer whose keys and values another one takes; null where it has its own. */
export function sourceLayer({ layers }: Gemma4Config, layer: LayerConfig): LayerConfig | null {
  if (!layer.sharesKv) return null;
  const source = layers.findLast(({ kind, sharesKv }) => kind === layer.kind && !sharesKv);
  if (source === undefined)
    throw new RangeError(`no ${layer.kind} layer before layer ${layer.index} has keys of its own`);
  return source;
}

/** Whether later layers take the keys and values of a layer. */
export function isShared(config: Gemma4Config, { index }: LayerConfig): boolean {
  return config.layers.some((later) => sourceLayer(config, later)?.index === index);
}

/** Names of the keys and values that a layer gives to later ones, or takes: [batch, kvHeads, sequence, headDim]. */
export function sharedNames({ index }: LayerConfig): { readonly key: string; readonly value: string } {
  return cacheNames(index, "present");
}

/**
 * One layer.
 *
 * Inputs: `STEP.states`; `STEP.ids` in a model with per-layer embeddings; `sharedNames` of the source of a layer that
 * shares keys and values. Outputs: `STEP.next`, `sharedNames` of a layer that later ones take them from, and with a
 * probe `expertsInUse` of a layer that has experts.
 */
export function layerStep(options: EmbedOptions, layer: LayerConfig, probe: Probe | null): UnplacedGraph {
  const { config } = options;
  const { builder, outputs } = probed(options, probe, (ctx) => layerNodes(ctx, options, layer));
  return unplaced(`layer ${layer.index}`, builder, layerInputs(config, layer), [
    states(STEP.next, config),
    ...(isShared(config, layer) ? keysAndValues(layer) : []),
    ...(config.experts === null || probe === null
      ? []
      : [valueInfo(expertsInUse(layer.index), "INT64", ["in_use"])]),
    ...outputs,
  ]);
}

/** Adds the nodes of a layer, of `layerInputs` to `STEP.next`. Returns the shape [batch]. */
export function layerNodes(ctx: GraphContext, options: EmbedOptions, layer: LayerConfig): string {
  const { config } = options;
  const source = sourceLayer(config, layer);
  const sequence = windowSequence(ctx, STEP.states);
  const shared: SharedCaches = new Map();
  if (source === null) noPast(ctx, layer, sequence.batch);
  else shared.set(source.kind, sharedNames(source));
  const perLayer = config.perLayerWidth > 0 ? perLayerInput(ctx, options, layer, sequence.outer) : null;
  const r = decoderLayer(ctx, layer, STEP.states, { sequence, perLayer, shared });
  ctx.builder.add("Identity", STEP.next, [r]);
  return sequence.batch;
}

/** Inputs of the graph of a layer. */
export function layerInputs(config: Gemma4Config, layer: LayerConfig): ValueInfoProto[] {
  const source = sourceLayer(config, layer);
  return [
    states(STEP.states, config),
    ...(config.perLayerWidth > 0 ? [ids()] : []),
    ...(source === null ? [] : keysAndValues(source)),
  ];
}

function keysAndValues(layer: LayerConfig): ValueInfoProto[] {
  const { key, value } = sharedNames(layer);
  const shape = [BATCH, layer.kvHeads, SEQUENCE, layer.headDim];
  return [valueInfo(key, "FLOAT", shape), valueInfo(value, "FLOAT", shape)];
}

/** Caches of no tokens, under the names that attention looks for. */
function noPast({ builder }: GraphContext, { index, kvHeads, headDim }: LayerConfig, batch: string): void {
  const shape = builder.add(
    "Concat",
    `layers.${index}.no_past.shape`,
    [batch, builder.integers([kvHeads, 0, headDim])],
    { axis: attr.int(0) },
  );
  const { key, value } = cacheNames(index, "past");
  for (const name of [key, value]) builder.add("Expand", name, [builder.number(0), shape]);
}

/** What one layer adds for the tokens, [batch, sequence, width]: other layers' parts of the table are not read. */
function perLayerInput(
  ctx: GraphContext,
  options: EmbedOptions,
  { index }: LayerConfig,
  outer: string,
): string {
  const { builder } = ctx;
  const { layers, perLayerWidth: width } = options.config;
  tokenEmbeddings(ctx);
  const table = lookUpPart(ctx, ctx.weight("ple_table"), tokenIds(builder, options), {
    part: index,
    parts: layers.length,
    name: "per_layer.table",
  });
  const own = builder.add("Mul", "per_layer_inputs", [table, builder.number(Math.sqrt(width))]);
  const rows = { first: index * width, count: width };
  const x = ctx.toInternal("per_layer.input", EMBEDS);
  const projected = linearRows(ctx, ctx.weight("ple_projection"), rows, {
    x,
    outer,
    name: "per_layer.projection",
  });
  return perLayerSum(ctx, projected, own, [width]);
}

/** The norm before the output matrix. Input `STEP.states`, output `STEP.next`, which the matrix reads. */
export function headStep(options: GraphOptions, probe: Probe | null): UnplacedGraph {
  const { config } = options;
  const { builder, outputs } = probed(options, probe, (ctx) => {
    const { batch } = windowSequence(ctx, STEP.states);
    const normed = ctx.norm(STEP.next, STEP.states, ctx.vector(ctx.weight("final_norm")));
    ctx.observe({ kind: "input", layer: null, value: normed, weights: [ctx.weight("head")] });
    return batch;
  });
  return unplaced("head", builder, [states(STEP.states, config)], [states(STEP.next, config), ...outputs]);
}
