import { attr, graph, valueInfo } from "../../../formats/onnx/build.js";
import { addGradients, type Place, type Rule } from "../../../formats/onnx/gradient/gradient.js";
import type { GraphProto, NodeProto } from "../../../formats/onnx/types.js";
import { GraphBuilder } from "./builder.js";

/** End of the names of what the loop of the way back computes again. */
const AGAIN = ".again";

/** The body of a loop over experts without its last step, which adds rows to the sum. */
interface ExpertBody {
  readonly nodes: readonly NodeProto[];
  /** Number of the turn. */
  readonly turn: string;
  /** Which tokens the rows are of. */
  readonly tokens: string;
  /** What is added to the sum of these tokens. */
  readonly added: string;
}

/** The body under new names, so that it can run a second time. */
function bodyAgain(place: Place, body: GraphProto): ExpertBody {
  const [turn, , sum] = body.input.map(({ name }) => name);
  const next = body.output[1]?.name;
  const last = body.node.find(({ output }) => output[0] === next);
  if (turn === undefined || last?.opType !== "ScatterND" || last.input[0] !== sum) {
    throw place.error("is no loop that adds rows to a sum, expected one over experts");
  }
  const own = new Set([...body.input.map(({ name }) => name), ...body.node.flatMap(({ output }) => output)]);
  const renamed = (name: string): string => (own.has(name) ? `${name}${AGAIN}` : name);
  const nodes = body.node
    .filter((node) => node !== last && node.opType !== "Identity")
    .map((node) => ({
      ...node,
      name: `${node.name ?? ""}${AGAIN}`,
      input: node.input.map(renamed),
      output: node.output.map(renamed),
    }));
  return { nodes, turn: renamed(turn), tokens: renamed(last.input[1]!), added: renamed(last.input[2]!) };
}

/**
 * The rule for the loop over the experts in use: each turn of it adds its rows to a sum, whose gradient is therefore
 * that of every turn. A second loop runs each turn again and goes back through it; what it carries on are the
 * gradients of the values that all turns read.
 *
 * @param builder of the graph that the loop is in
 */
export function expertLoopRule(builder: GraphBuilder): Rule {
  return (place) => {
    const body = place.node.attribute.find(({ name }) => name === "body")?.g;
    if (body === undefined || place.inputs !== 3) throw place.error("carries no sum on, expected one");
    const { nodes, turn, tokens, added } = bodyAgain(place, body);
    const inner = new GraphBuilder(builder);
    inner.nodes.push(...nodes);
    const wanted = [...new Set(nodes.flatMap(({ input }) => input))].filter((name) => place.isActive(name));
    const prefix = `${place.node.name}.gradient`;
    const rows = inner.add("GatherND", `${prefix}.rows`, [place.gradient, tokens]);
    const found = addGradients(inner, { nodes, incoming: new Map([[added, rows]]), wanted, prefix });
    const sums = wanted.map((value, index) => {
      const [before, after] = [`${prefix}.before.${index}`, `${prefix}.after.${index}`];
      return { before, after: inner.add("Add", after, [before, found.get(value)!]) };
    });
    const [going, still] = [`${prefix}.going`, `${prefix}.still`];
    inner.add("Identity", still, [going]);
    const again = graph(`${prefix}.body`, inner.nodes, {
      inputs: [
        valueInfo(turn, "INT64", []),
        valueInfo(going, "BOOL", []),
        ...sums.map(({ before }) => valueInfo(before, "FLOAT")),
      ],
      outputs: [valueInfo(still, "BOOL", []), ...sums.map(({ after }) => valueInfo(after, "FLOAT"))],
    });
    const zeros = wanted.map((value) => place.add("Expand", [place.number(0), place.shape(value)]));
    const inputs = [place.input(0), "", ...zeros];
    const gradients = place.addMany("Loop", inputs, wanted.length, { body: attr.graph(again) });
    for (const [index, value] of wanted.entries()) place.give(value, gradients[index]!);
    return [undefined, undefined, place.wanted(2, () => place.gradient)];
  };
}
