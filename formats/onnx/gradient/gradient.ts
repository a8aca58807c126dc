import { shown } from "../../errors.js";
import { OnnxError } from "../errors.js";
import { isOnnxDomain } from "../versions.js";
import type { NodeProto } from "../types.js";
import { type NodeSink, Place, type Rule } from "./place.js";
import { NOT_DIFFERENTIABLE, RULES } from "./rules.js";

export type { NodeSink, Place, Rule } from "./place.js";

export interface GradientOptions {
  /** Nodes of the graph in the order in which they run. */
  readonly nodes: readonly NodeProto[];
  /** By values of the graph, the names of their incoming gradients, which have the shapes of the values. */
  readonly incoming: ReadonlyMap<string, string>;
  /** Values whose gradients are wanted: inputs or inner values. */
  readonly wanted: readonly string[];
  /** Start of the names of nodes that are added; `gradient` when left out. */
  readonly prefix?: string;
  /** Rules by operator besides the general ones, such as for a loop of a known form. */
  readonly rules?: ReadonlyMap<string, Rule>;
}

/** Whether a node gives nothing that changes smoothly with what it reads, such as a shape or an order. */
function isStep({ opType, domain = "" }: NodeProto): boolean {
  return isOnnxDomain(domain) && NOT_DIFFERENTIABLE.has(opType);
}

/** Everything that a node reads, its bodies included. */
function readBy(node: NodeProto): string[] {
  const inner = node.attribute.flatMap(({ g, graphs = [] }) => [...(g === undefined ? [] : [g]), ...graphs]);
  return [...node.input, ...inner.flatMap((body) => body.node.flatMap(readBy))];
}

/** Outputs that have gradients: of operators that give places as well, only the first ones. */
function smoothOutputs({ opType, output, domain = "" }: NodeProto): readonly string[] {
  return isOnnxDomain(domain) && opType === "TopK" ? output.slice(0, 1) : output;
}

/** Outputs of nodes that depend smoothly on some values, with these values. */
function dependents(nodes: readonly NodeProto[], values: readonly string[]): Set<string> {
  const active = new Set(values);
  for (const node of nodes) {
    if (isStep(node) || !readBy(node).some((name) => active.has(name))) continue;
    for (const output of smoothOutputs(node)) if (output !== "") active.add(output);
  }
  return active;
}

/** Gradients of values, summed over the nodes that read them. */
class Sums {
  readonly #sink: NodeSink;
  readonly #prefix: string;
  readonly #parts = new Map<string, string[]>();

  constructor(sink: NodeSink, prefix: string) {
    this.#sink = sink;
    this.#prefix = prefix;
  }

  add(value: string, gradient: string): void {
    const parts = this.#parts.get(value);
    if (parts === undefined) this.#parts.set(value, [gradient]);
    else parts.push(gradient);
  }

  /** The sum, once all nodes that read the value have given theirs; undefined where nothing reads it. */
  take(value: string): string | undefined {
    const parts = this.#parts.get(value);
    if (parts === undefined || parts.length === 1) return parts?.[0];
    const sum = this.#sink.add("Sum", `${this.#prefix}/${value}`, parts);
    this.#parts.set(value, [sum]);
    return sum;
  }
}

/**
 * Adds the nodes that compute gradients through a graph, by reverse-mode differentiation: from the last node to the
 * first, each node's rule turns the gradients of its outputs into those of its inputs. Only nodes that lie between
 * the wanted values and the incoming gradients are gone through; what else is needed is read from the graph.
 *
 * @param sink takes the nodes; they go behind those of the graph
 * @returns by wanted value, the name of its gradient: of the value's shape, the sum over everything that depends on it
 * @throws OnnxError `onnx-gradient` for an operator without a rule or in a form that its rule does not know, and for a
 *   wanted value that nothing with an incoming gradient depends on
 */
export function addGradients(sink: NodeSink, options: GradientOptions): ReadonlyMap<string, string> {
  const { nodes, incoming, wanted, prefix = "gradient", rules } = options;
  const active = dependents(nodes, wanted);
  const sums = new Sums(sink, prefix);
  for (const [value, gradient] of incoming) sums.add(value, gradient);
  for (const node of nodes.toReversed()) {
    if (isStep(node)) continue;
    if (!readBy(node).some((name) => active.has(name))) continue;
    const gradients = node.output.map((output) => (output === "" ? undefined : sums.take(output)));
    if (gradients.every((gradient) => gradient === undefined)) continue;
    const name = `${prefix}/${node.output.find((output) => output !== "")}`;
    const needed = node.input.map((input) => active.has(input));
    const place = new Place({
      sink,
      node,
      name,
      gradients,
      needed,
      isActive: (value) => active.has(value),
      give: (value, gradient) => sums.add(value, gradient),
    });
    const rule = rules?.get(ruleName(node)) ?? RULES.get(ruleName(node));
    if (rule === undefined) throw place.error("has no rule for its gradient");
    for (const [index, gradient] of rule(place).entries()) {
      if (gradient !== undefined) sums.add(node.input[index]!, gradient);
    }
  }
  return new Map(wanted.map((value) => [value, gradientOf(sums, value)]));
}

function gradientOf(sums: Sums, value: string): string {
  const gradient = sums.take(value);
  if (gradient !== undefined) return gradient;
  throw new OnnxError(
    "onnx-gradient",
    `the gradient of ${shown(value)} is wanted, but nothing with an incoming gradient depends on it.`,
  );
}

/** Operators of ONNX itself have no domain in front of their names. */
function ruleName({ opType, domain = "" }: NodeProto): string {
  return isOnnxDomain(domain) ? opType : `${domain}.${opType}`;
}
