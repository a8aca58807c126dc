import { attr, valueInfo } from "../../../formats/onnx/build.js";
import { addGradients } from "../../../formats/onnx/gradient/gradient.js";
import type { ValueInfoProto } from "../../../formats/onnx/types.js";
import type { LayerConfig } from "../types.js";
import { GraphBuilder } from "./builder.js";
import { expertLoopRule, type ProductGradient } from "./expert-gradient.js";
import { expertsInUse } from "./feed-forward.js";
import { type Collected, GraphContext, type GraphOptions, type MatrixProduct } from "./context.js";
import {
  BATCH,
  type EmbedOptions,
  LOGITS,
  logitsOf,
  SEQUENCE,
  type UnplacedGraph,
  unplaced,
} from "./graphs.js";
import { isShared, layerInputs, layerNodes, sharedNames, sourceLayer, states, STEP } from "./steps.js";

/*
 * The way back through the model, one step at a time: each graph runs its step again from what went into it, and then
 * goes through it from the gradients of what came out to those of what went in. The loss is the sum of −log p(label)
 * over all tokens, not their mean.
 */

/** Inputs of the graph of the head besides `STEP.states`, [batch, sequence] each; of the labels also its output. */
export const HEAD = { draws: "draws", labels: "labels", drawn: "drawn_labels" } as const;

/** Name of the output with the gradient of an input of a step. */
export function gradientOf(value: string): string {
  return `${value}.gradient`;
}

/** Name of the input with the gradient of a value as far as it comes from later steps. */
export function laterGradientOf(value: string): string {
  return `${value}.later_gradient`;
}

/** Looks at products with matrices and at the gradients of what they give. */
export interface GradientProbe {
  /**
   * Adds outputs for a product.
   *
   * @param batch name of the shape [batch]
   */
  product(builder: GraphBuilder, product: ProductGradient, batch: string): readonly ValueInfoProto[];
  /** Adds values for a product with an expert's matrix to the loop over experts; see `GraphOptions.collect`. */
  expert(builder: GraphBuilder, product: ProductGradient): readonly Collected[];
}

interface BackwardParts {
  readonly options: GraphOptions;
  /** Adds the nodes of the step, and returns the shape [batch]. */
  readonly build: (ctx: GraphContext) => string;
  /** Adds what the way back begins with: by values of the step, the names of their gradients. */
  readonly begin: (builder: GraphBuilder) => ReadonlyMap<string, string>;
  /** Inputs whose gradients are outputs of the graph, by `gradientOf`. */
  readonly wanted: readonly string[];
  readonly probe: GradientProbe;
}

/** Whether a product is with one matrix of a stack, as each expert has one. */
function ofStack({ weight }: MatrixProduct): boolean {
  return weight.shape.length === 3;
}

/** Builds a step and the way back through it. Returns what the probe adds as outputs. */
function backward({ options, build, begin, wanted, probe }: BackwardParts) {
  const builder = new GraphBuilder();
  const all: MatrixProduct[] = [];
  const ctx = new GraphContext(builder, {
    ...options,
    multiplied: (product) => {
      all.push(product);
    },
  });
  const batch = build(ctx);
  const nodes = [...builder.nodes];
  const [products, stacked] = [all.filter((each) => !ofStack(each)), all.filter(ofStack)];
  const collected: Collected[] = [];
  const collect = (inner: GraphBuilder, product: ProductGradient): readonly Collected[] => {
    const own = probe.expert(inner, product);
    collected.push(...own);
    return own;
  };
  const gradients = addGradients(builder, {
    nodes,
    incoming: begin(builder),
    wanted: [...wanted, ...products.map(({ y }) => y)],
    rules: new Map([["Loop", expertLoopRule({ builder, products: stacked, collect })]]),
  });
  for (const value of wanted) builder.add("Identity", gradientOf(value), [gradients.get(value)!]);
  const outputs = products.flatMap((product) =>
    probe.product(builder, { ...product, gradient: gradients.get(product.y)! }, batch),
  );
  const ofExperts = collected.map(({ name, type, dims }) => valueInfo(name, type, ["in_use", ...dims]));
  return { builder, outputs: [...outputs, ...ofExperts] };
}

function names({ key, value }: { readonly key: string; readonly value: string }): [string, string] {
  return [key, value];
}

/**
 * The gradients through one layer.
 *
 * Inputs: those of `layerStep`, and by `laterGradientOf` the gradients of `STEP.next`, and of `sharedNames` of a layer
 * that shares keys and values or is the source of those: as far as they come from later layers. Outputs: by
 * `gradientOf` that of `STEP.states`, and of `sharedNames` of the source with this layer's part added; `expertsInUse`
 * of a layer that has experts; and what the probe adds.
 */
export function layerGradient(
  options: EmbedOptions,
  layer: LayerConfig,
  probe: GradientProbe,
): UnplacedGraph {
  const { config } = options;
  const source = sourceLayer(config, layer);
  const later = source ?? (isShared(config, layer) ? layer : null);
  const shared: string[] = later === null ? [] : names(sharedNames(later));
  const incoming: string[] = [STEP.next, ...shared];
  const wanted: string[] = [STEP.states, ...(source === null ? [] : shared)];
  const { builder, outputs } = backward({
    options,
    build: (ctx) => layerNodes(ctx, options, layer),
    begin: () => new Map(incoming.map((value) => [value, laterGradientOf(value)])),
    wanted,
    probe,
  });
  const keys = later && [BATCH, later.kvHeads, SEQUENCE, later.headDim];
  const gradients = (values: readonly string[], name: (value: string) => string): ValueInfoProto[] =>
    values.map((value) =>
      keys !== null && shared.includes(value)
        ? valueInfo(name(value), "FLOAT", keys)
        : states(name(value), config),
    );
  return unplaced(
    `gradients of layer ${layer.index}`,
    builder,
    [...layerInputs(config, layer), ...gradients(incoming, laterGradientOf)],
    [
      ...gradients(wanted, gradientOf),
      ...(config.experts === null ? [] : [valueInfo(expertsInUse(layer.index), "INT64", ["in_use"])]),
      ...outputs,
    ],
  );
}

/**
 * The gradients through the last norm, the output matrix and the soft cap, from −log p(label).
 *
 * Inputs: `STEP.states` [batch, sequence, hidden], what the last layer gives for some tokens; `HEAD.labels`, or where
 * labels are drawn from the model's own distribution `HEAD.draws`, numbers from 0 to 1. Outputs: by `gradientOf` that
 * of `STEP.states`; `HEAD.drawn` where labels are drawn; and what the probe adds.
 */
export function headGradient(
  options: GraphOptions,
  labels: "given" | "drawn",
  probe: GradientProbe,
): UnplacedGraph {
  const { config } = options;
  const { builder, outputs } = backward({
    options,
    build: (ctx) => headNodes(ctx),
    begin: (builder) => new Map([[LOGITS, lossGradient(builder, labels, config.vocabulary)]]),
    wanted: [STEP.states],
    probe,
  });
  const tokens = [BATCH, SEQUENCE];
  const chosen =
    labels === "drawn" ? valueInfo(HEAD.draws, "FLOAT", tokens) : valueInfo(HEAD.labels, "INT64", tokens);
  return unplaced(
    "gradients of the head",
    builder,
    [states(STEP.states, config), chosen],
    [
      states(gradientOf(STEP.states), config),
      ...(labels === "drawn" ? [valueInfo(HEAD.drawn, "INT64", tokens)] : []),
      ...outputs,
    ],
  );
}

/** Adds the nodes from `STEP.states` to `LOGITS`. Returns the shape [batch]. */
export function headNodes(ctx: GraphContext): string {
  const { builder } = ctx;
  const shape = builder.add("Shape", "head.tokens", [STEP.states], { start: attr.int(0), end: attr.int(2) });
  const outer = builder.add("Concat", "head.outer", [shape, builder.integers([-1])], { axis: attr.int(0) });
  const normed = ctx.norm("final_norm", STEP.states, ctx.vector(ctx.weight("final_norm")));
  logitsOf(ctx, normed, outer);
  return builder.add("Shape", "head.batch", [STEP.states], { start: attr.int(0), end: attr.int(1) });
}

/** Of −log p(label) for the logits: the probabilities, less one at the label. */
function lossGradient(builder: GraphBuilder, labels: "given" | "drawn", vocabulary: number): string {
  const probabilities = builder.add("Softmax", "loss.probabilities", [LOGITS], { axis: attr.int(-1) });
  const chosen = labels === "given" ? HEAD.labels : drawnLabels(builder, probabilities, vocabulary);
  const places = builder.add("Unsqueeze", "loss.places", [chosen, builder.integers([-1])]);
  const shape = builder.add("Shape", "loss.places.shape", [places]);
  const less = builder.add("Expand", "loss.less", [builder.number(-1), shape]);
  return builder.add("ScatterElements", "loss.gradient", [probabilities, places, less], {
    axis: attr.int(-1),
    reduction: attr.string("add"),
  });
}

/**
 * Tokens by their probabilities: the one at which the sum of the probabilities so far reaches the number drawn. That
 * is a share of the whole sum, which rounding keeps from being one.
 */
function drawnLabels(builder: GraphBuilder, probabilities: string, vocabulary: number): string {
  const axis = builder.integers([-1]);
  const sums = builder.add("CumSum", "drawn.sums", [probabilities, builder.integer(-1)]);
  const whole = builder.add("Gather", "drawn.whole", [sums, builder.integers([-1])], { axis: attr.int(-1) });
  const draws = builder.add("Unsqueeze", "drawn.draws", [HEAD.draws, axis]);
  const reached = builder.add("Mul", "drawn.reached", [draws, whole]);
  const before = builder.cast("drawn.before", builder.add("Less", "drawn.less", [sums, reached]), "FLOAT");
  const count = builder.add("ReduceSum", "drawn.count", [before, axis], { keepdims: attr.int(0) });
  const last = builder.number(vocabulary - 1);
  return builder.cast(HEAD.drawn, builder.add("Min", "drawn.token", [count, last]), "INT64");
}
