import { attr, valueInfo } from "../../../formats/onnx/build.js";
import { headNodes } from "./backward.js";
import { GraphBuilder } from "./builder.js";
import { GraphContext, type GraphOptions } from "./context.js";
import { BATCH, LOGITS, SEQUENCE, type UnplacedGraph, unplaced } from "./graphs.js";
import { states, STEP } from "./steps.js";

/** Values of the two graphs that compare what a model predicts with what another one does. */
export const COMPARISON = {
  /** [batch, sequence, vocabulary]: logarithms of the probabilities. */
  predictions: "log_probabilities",
  /** [batch, sequence]: the KL divergence in nats. */
  divergence: "divergence",
  /** [batch, sequence]: 1 where both find the same token most likely, else 0. */
  same: "same_top",
} as const;

function head(options: GraphOptions): GraphBuilder {
  const builder = new GraphBuilder();
  headNodes(new GraphContext(builder, options));
  return builder;
}

/** From what the last layer gives, `STEP.states`, to `COMPARISON.predictions`. */
export function headPredictions(options: GraphOptions): UnplacedGraph {
  const { config } = options;
  const builder = head(options);
  builder.add("LogSoftmax", COMPARISON.predictions, [LOGITS], { axis: attr.int(-1) });
  return unplaced(
    "predictions",
    builder,
    [states(STEP.states, config)],
    [valueInfo(COMPARISON.predictions, "FLOAT", [BATCH, SEQUENCE, config.vocabulary])],
  );
}

/**
 * The KL divergence from the predictions of a model, the input `COMPARISON.predictions`, to those that the head makes of
 * `STEP.states`.
 */
export function headDivergence(options: GraphOptions): UnplacedGraph {
  const { config } = options;
  const builder = head(options);
  const axis = { axis: attr.int(-1), keepdims: attr.int(0) };
  const p = COMPARISON.predictions;
  const q = builder.add("LogSoftmax", "own.predictions", [LOGITS], { axis: attr.int(-1) });
  const differences = builder.add("Sub", "comparison.differences", [p, q]);
  const weighted = builder.add("Mul", "comparison.weighted", [
    builder.add("Exp", "comparison.probabilities", [p]),
    differences,
  ]);
  builder.add("ReduceSum", COMPARISON.divergence, [weighted, builder.integers([-1])], {
    keepdims: attr.int(0),
  });
  const tops = [p, q].map((value, index) => builder.add("ArgMax", `comparison.top.${index}`, [value], axis));
  builder.cast(COMPARISON.same, builder.add("Equal", "comparison.equal", tops), "FLOAT");
  const tokens = [BATCH, SEQUENCE];
  return unplaced(
    "divergence",
    builder,
    [states(STEP.states, config), valueInfo(p, "FLOAT", [...tokens, config.vocabulary])],
    [COMPARISON.divergence, COMPARISON.same].map((name) => valueInfo(name, "FLOAT", tokens)),
  );
}
