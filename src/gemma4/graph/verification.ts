import { attr, graph as makeGraph, model as makeModel, valueInfo } from "../../../formats/onnx/build.js";
import type { GraphProto, ModelProto, NodeProto, TensorProto } from "../../../formats/onnx/types.js";
import { Gemma4Error } from "../errors.js";
import { GraphBuilder, MICROSOFT } from "./builder.js";
import { LAST_HIDDEN } from "./graphs.js";

/** Operators that multiply by a weight; of these the first input is the activation. */
const PRODUCTS: ReadonlySet<string> = new Set(["MatMul", "MatMulNBits", "Gemm", "FusedMatMul"]);

const LOGITS = "logits";

/** A decoder taken apart where the output matrix begins. */
export interface SplitDecoder {
  readonly opset: number;
  /** The decoder with one output, what the output matrix reads: [batch, kept, hidden]. */
  readonly backbone: ModelProto;
  readonly backboneOutput: string;
  readonly head: HeadPart;
}

/** The nodes from the last hidden state to the logits. */
export interface HeadPart {
  readonly input: string;
  readonly nodes: readonly NodeProto[];
  readonly initializers: readonly TensorProto[];
}

/** Nodes that a value depends on, in their order, up to values that are given. */
function ancestors(nodes: readonly NodeProto[], value: string, given: ReadonlySet<string>): NodeProto[] {
  const producers = new Map(nodes.flatMap((node) => node.output.map((output) => [output, node] as const)));
  const needed = new Set<NodeProto>();
  const open = [value];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    const node = given.has(name) ? undefined : producers.get(name);
    if (node === undefined || needed.has(node)) continue;
    needed.add(node);
    open.push(...node.input, ...capturedBy(node));
  }
  return nodes.filter((node) => needed.has(node));
}

/** Values of the graph that the bodies of loops and branches of a node read. */
function capturedBy(node: NodeProto): string[] {
  return node.attribute.flatMap(({ g }) =>
    g === undefined ? [] : g.node.flatMap((inner) => [...inner.input, ...capturedBy(inner)]),
  );
}

/** Name of the value that the output matrix reads. */
function findHidden({ node }: GraphProto, file: string): string {
  if (node.some(({ output }) => output.includes(LAST_HIDDEN))) return LAST_HIDDEN;
  const producers = new Map(node.flatMap((each) => each.output.map((output) => [output, each] as const)));
  let name = LOGITS;
  for (let steps = 0; steps < node.length; steps++) {
    const producer = producers.get(name);
    if (producer === undefined) break;
    const [first = ""] = producer.input;
    if (PRODUCTS.has(producer.opType)) return first;
    name = first;
  }
  throw new Gemma4Error("no-head", `${file}: no matrix product leads to the output ${LOGITS}.`, {
    advice: "lapidary verifies decoders in the transformers.js layout.",
  });
}

function used({ initializer }: GraphProto, nodes: readonly NodeProto[]): TensorProto[] {
  const names = new Set(nodes.flatMap((node) => [...node.input, ...capturedBy(node)]));
  return initializer.filter(({ name = "" }) => names.has(name));
}

/**
 * Takes a decoder apart, so that the many logits of its tokens need not leave the runtime.
 *
 * @param file of the decoder, for messages
 * @throws Gemma4Error `no-head`
 */
export function splitDecoder(model: ModelProto, file: string): SplitDecoder {
  const { graph } = model;
  const hidden = findHidden(graph, file);
  const before = ancestors(graph.node, hidden, new Set());
  const after = ancestors(graph.node, LOGITS, new Set([hidden]));
  const names = new Set(before.flatMap((node) => [...node.input, ...capturedBy(node)]));
  // Types of values between nodes are not written: the last hidden state is always of single precision in our files.
  const backbone = {
    ...model,
    graph: {
      ...graph,
      node: before,
      initializer: used(graph, before),
      input: graph.input.filter(({ name }) => names.has(name)),
      output: [valueInfo(hidden, "FLOAT")],
      valueInfo: [],
    },
  };
  const opset = model.opsetImport.find(({ domain }) => domain === "")?.version ?? 0;
  return {
    opset,
    backbone,
    backboneOutput: hidden,
    head: { input: hidden, nodes: after, initializers: used(graph, after) },
  };
}

/** The model with another accuracy level in every MatMulNBits, those in loops too. */
export function withAccuracyLevel(model: ModelProto, level: number): ModelProto {
  return { ...model, graph: levelled(model.graph, level) };
}

function levelled(graph: GraphProto, level: number): GraphProto {
  return {
    ...graph,
    node: graph.node.map((node) => ({
      ...node,
      attribute: [
        ...node.attribute
          .filter(({ name }) => node.opType !== "MatMulNBits" || name !== "accuracy_level")
          .map((each) => (each.g === undefined ? each : { ...each, g: levelled(each.g, level) })),
        ...(node.opType === "MatMulNBits" ? [{ name: "accuracy_level", ...attr.int(level) }] : []),
      ],
    })),
  };
}

/** The level that the products of a model have; null where there are none, the highest where they differ. */
export function accuracyLevelOf({ graph }: ModelProto): number | null {
  const levels = levelsIn(graph);
  return levels.length === 0 ? null : Math.max(...levels);
}

function levelsIn(graph: GraphProto): number[] {
  return graph.node.flatMap(({ opType, attribute }) => [
    ...(opType === "MatMulNBits"
      ? [Number(attribute.find(({ name }) => name === "accuracy_level")?.i ?? 0)]
      : []),
    ...attribute.flatMap(({ g }) => (g === undefined ? [] : levelsIn(g))),
  ]);
}

/** The model with its data files found elsewhere: relative to a folder that several models share. */
export function relocated(model: ModelProto, move: (location: string) => string): ModelProto {
  return { ...model, graph: movedGraph(model.graph, move) };
}

function movedGraph(graph: GraphProto, move: (location: string) => string): GraphProto {
  return {
    ...graph,
    initializer: graph.initializer.map((tensor) => ({
      ...tensor,
      ...(tensor.externalData === undefined
        ? {}
        : {
            externalData: tensor.externalData.map(({ key, value }) => ({
              key,
              value: key === "location" ? move(value) : value,
            })),
          }),
    })),
  };
}

/** One of the models whose logits are compared: the head of a decoder, or logits that come from elsewhere. */
export type Side = HeadPart | "logits";

/** Names of the inputs and outputs of `verificationHead`. */
export const head = {
  /** [1, rows, hidden] of a head, or [rows, vocabulary] of given logits. */
  input: (side: number): string => `side.${side}`,
  /** [rows], INT64: the token that follows in the text. */
  targets: "targets",
  /** [rows]: negative log-likelihood of that token, in nats. */
  nll: (side: number): string => `nll.${side}`,
  /** [rows]: KL(side 0 ‖ side) over the whole vocabulary, in nats. */
  divergence: (side: number): string => `divergence.${side}`,
  /** [rows]: 1 where a side puts the token first that side 0 does, of equal ones the lowest, else 0. */
  sameTop: (side: number): string => `same_top.${side}`,
} as const;

/**
 * A graph that compares rows of logits and gives a few numbers a row: at 262,144 tokens a row is a MiB, which then
 * never leaves the runtime.
 *
 * @param sides the reference first
 * @throws Gemma4Error when a head has a node of a kind that cannot be renamed
 */
export function verificationHead(sides: readonly Side[], opset: number): ModelProto {
  const builder = new GraphBuilder();
  const initializers: TensorProto[] = [];
  const inputs = [valueInfo(head.targets, "INT64", ["rows"])];
  const outputs = [];
  const indices = builder.add("Unsqueeze", "targets.column", [head.targets, builder.integers([-1])]);
  const likelihoods: string[] = [];
  const tops: string[] = [];
  for (const [index, side] of sides.entries()) {
    const input = head.input(index);
    let logits = input;
    if (side === "logits") inputs.push(valueInfo(input, "FLOAT", ["rows", "vocabulary"]));
    else {
      inputs.push(valueInfo(input, "FLOAT", [1, "rows", "hidden"]));
      const renamed = renamedHead(side, index);
      builder.nodes.push(...renamed.nodes);
      initializers.push(...renamed.initializers);
      const shape = builder.add("Shape", `side.${index}.shape`, [renamed.logits], {
        start: attr.int(1),
        end: attr.int(3),
      });
      logits = builder.add("Reshape", `side.${index}.logits`, [renamed.logits, shape]);
    }
    const logs = builder.add("LogSoftmax", `side.${index}.log_likelihoods`, [logits], { axis: attr.int(-1) });
    const own = builder.add("GatherElements", `side.${index}.target`, [logs, indices], { axis: attr.int(1) });
    builder.add("Neg", head.nll(index), [
      builder.add("Squeeze", `side.${index}.target.row`, [own, builder.integers([1])]),
    ]);
    outputs.push(valueInfo(head.nll(index), "FLOAT", ["rows"]));
    likelihoods.push(logs);
    tops.push(
      builder.add("ArgMax", `side.${index}.top`, [logits], { axis: attr.int(-1), keepdims: attr.int(0) }),
    );
  }
  const [base = ""] = likelihoods;
  for (const [index, other] of likelihoods.entries()) {
    if (index === 0) continue;
    const probabilities = builder.add("Exp", `pair.${index}.probabilities`, [base]);
    const difference = builder.add("Sub", `pair.${index}.difference`, [base, other]);
    const weighted = builder.add("Mul", `pair.${index}.weighted`, [probabilities, difference]);
    builder.add("ReduceSum", head.divergence(index), [weighted, builder.integers([-1])], {
      keepdims: attr.int(0),
    });
    const same = builder.add("Equal", `pair.${index}.same`, [tops[0]!, tops[index]!]);
    builder.cast(head.sameTop(index), same, "FLOAT");
    outputs.push(
      valueInfo(head.divergence(index), "FLOAT", ["rows"]),
      valueInfo(head.sameTop(index), "FLOAT", ["rows"]),
    );
  }
  const whole = makeGraph("verification", builder.nodes, {
    inputs,
    outputs,
    initializers: [...builder.constants, ...initializers],
  });
  return makeModel(whole, { opset, domains: { [MICROSOFT]: 1 } });
}

/** The nodes of a head under names of their own. */
function renamedHead({ input, nodes, initializers }: HeadPart, side: number) {
  const name = (value: string): string =>
    value === "" ? "" : value === input ? head.input(side) : `side.${side}/${value}`;
  for (const { attribute, opType } of nodes) {
    if (!attribute.some(({ g, graphs }) => g !== undefined || (graphs?.length ?? 0) > 0)) continue;
    throw new Gemma4Error("no-head", `the head has a ${opType}, expected plain operators only`);
  }
  return {
    logits: name(LOGITS),
    nodes: nodes.map((node) => ({
      ...node,
      name: name(node.name ?? ""),
      input: node.input.map((each) => name(each)),
      output: node.output.map((each) => name(each)),
    })),
    initializers: initializers.map((tensor) => ({ ...tensor, name: name(tensor.name ?? "") })),
  };
}
