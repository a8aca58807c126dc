import { attr, graph, model, valueInfo } from "../../formats/onnx/build.js";
import type { ModelProto, ValueInfoProto } from "../../formats/onnx/types.js";
import { GraphBuilder } from "../../src/gemma4/graph/builder.js";
import type { Collected } from "../../src/gemma4/graph/context.js";
import { GRAPH_OPSET } from "../../src/gemma4/graph/graphs.js";
import type { Probe } from "../../src/gemma4/graph/steps.js";
import { type MatrixInput, matrixInput } from "./inputs.js";
import { type MomentPlan, type Piece, piecesOf } from "./moments.js";

/** Far behind the last row. */
const END = 2 ** 53 - 1;

/** Names of the outputs that a probe adds for an input, and of the values that runs are fed with. */
export const outputOf = {
  /** [windows, columns], or [experts in use, columns]: Σx. */
  sum: (input: string): string => `${input}/sum`,
  /** The same of Σx². */
  squares: (input: string): string => `${input}/squares`,
  /** [experts in use, 1]: rows that went to them. */
  count: (input: string): string => `${input}/count`,
  /** [rows, columns] of a piece, or that for each expert in use. */
  moments: (input: string, piece: number): string => `${input}/moments.${piece}`,
  /** [rows, columns]: those whose moments are taken. */
  rows: (input: string): string => `${input}/rows`,
  /** The same of the unrounded model. */
  others: (input: string): string => `${input}/others`,
} as const;

/** What to look at. */
export interface ProbeOptions {
  /** By input; those that are missing get no moments. */
  readonly moments: ReadonlyMap<string, MomentPlan>;
  /** `rows` gives nothing but rows, `all` sums and moments, `both` all of it. Rows are of inputs with moments only. */
  readonly gives: "all" | "rows" | "both";
}

/**
 * Adds the sums and moments of some rows as outputs.
 *
 * @param value name of the rows: [batch, sequence, columns] or [batch · sequence, columns]
 * @param batch name of the shape [batch]
 * @param plan undefined for no moments
 */
export function rowStatistics(
  builder: GraphBuilder,
  input: MatrixInput,
  {
    value,
    batch,
    plan,
  }: { readonly value: string; readonly batch: string; readonly plan: MomentPlan | undefined },
): ValueInfoProto[] {
  const sums = windowSums(builder, input, value, batch);
  if (plan === undefined) return sums;
  const rows = rowsFor(builder, input, value, plan);
  return [...sums, ...ownProducts(builder, input, rows, plan)];
}

/** Σ x·xᵀ in pieces, as outputs. */
function ownProducts(
  builder: GraphBuilder,
  { name }: MatrixInput,
  rows: string,
  plan: MomentPlan,
): ValueInfoProto[] {
  return products(builder, rows, rows, { input: name, plan, symmetric: true }).map(({ value, piece }) =>
    valueInfo(value, "FLOAT", [piece.rows, piece.columns]),
  );
}

/** Looks at the statistics of every input, so that the many rows never leave the runtime. */
export function statisticsProbe({ moments, gives }: ProbeOptions): Probe {
  return {
    input(builder, observed, batch) {
      const input = matrixInput(observed);
      const { name, columns } = input;
      const plan = moments.get(name);
      const sums = gives === "rows" ? [] : windowSums(builder, input, observed.value, batch);
      if (plan === undefined) return sums;
      const rows = rowsFor(builder, input, observed.value, plan);
      return [
        ...sums,
        ...(gives === "rows" ? [] : ownProducts(builder, input, rows, plan)),
        ...(gives === "all" ? [] : [valueInfo(rows, "FLOAT", ["rows", columns])]),
      ];
    },
    expert(builder, observed) {
      if (gives === "rows") return [];
      const input = matrixInput(observed);
      return expertSums(builder, input, observed.value, moments.get(input.name));
    },
  };
}

/** A sum for each window: singly precise sums of many more rows would lose digits. */
function windowSums(
  builder: GraphBuilder,
  { name, columns }: MatrixInput,
  value: string,
  batch: string,
): ValueInfoProto[] {
  const shape = builder.add("Concat", `${name}/shape`, [batch, builder.integers([-1, columns])], {
    axis: attr.int(0),
  });
  const x = builder.add("Reshape", `${name}/windows`, [value, shape]);
  return sums(builder, name, x, 1).map((output) => valueInfo(output, "FLOAT", ["windows", columns]));
}

/** Σx and Σx² over an axis. (A product and a sum take a fifth of the time of ReduceSumSquare.) */
function sums(builder: GraphBuilder, name: string, x: string, axis: number): string[] {
  const square = builder.add("Mul", `${name}/square`, [x, x]);
  const sum = (output: string, of: string): string =>
    builder.add("ReduceSum", output, [of, builder.integers([axis])], { keepdims: attr.int(0) });
  return [sum(outputOf.sum(name), x), sum(outputOf.squares(name), square)];
}

/** [rows, columns]: those rows of a value whose moments are taken. */
function rowsFor(
  builder: GraphBuilder,
  { name, columns }: MatrixInput,
  value: string,
  { stride }: MomentPlan,
): string {
  const flat = outputOf.rows(name);
  const all = builder.integers([-1, columns]);
  if (stride === 1) return builder.add("Reshape", flat, [value, all]);
  const rows = builder.add("Reshape", `${name}/flat`, [value, all]);
  const [first, end, axis, step] = [0, END, 0, stride].map((each) => builder.integers([each]));
  return builder.add("Slice", flat, [rows, first!, end!, axis!, step!]);
}

interface Product {
  readonly input: string;
  readonly plan: MomentPlan;
  readonly symmetric: boolean;
}

/** Σ x·yᵀ in pieces. */
function products(
  builder: GraphBuilder,
  x: string,
  y: string,
  { input, plan, symmetric }: Product,
): { readonly value: string; readonly piece: Piece }[] {
  const part = (name: string, value: string, first: number, count: number): string => {
    if (count === plan.columns) return value;
    const [start, end, axis] = [first, first + count, 1].map((each) => builder.integers([each]));
    return builder.add("Slice", name, [value, start!, end!, axis!]);
  };
  return piecesOf(plan, symmetric).map((piece, index) => {
    const name = outputOf.moments(input, index);
    const left = part(`${name}.left`, x, piece.row, piece.rows);
    const same = x === y && piece.row === piece.column && piece.rows === piece.columns;
    const right = same ? left : part(`${name}.right`, y, piece.column, piece.columns);
    return { value: builder.add("Gemm", name, [left, right], { transA: attr.int(1) }), piece };
  });
}

/** Inside of the loop, where the names of values are those of one turn. */
function expertSums(
  builder: GraphBuilder,
  { name, columns }: MatrixInput,
  x: string,
  plan: MomentPlan | undefined,
): Collected[] {
  const turn = `${name}/turn`;
  const count = builder.add("Shape", outputOf.count(turn), [x], { start: attr.int(0), end: attr.int(1) });
  const [sum, squares] = sums(builder, turn, x, 0);
  const pieces = plan === undefined ? [] : products(builder, x, x, { input: turn, plan, symmetric: true });
  return [
    { name: outputOf.count(name), value: count, type: "INT64", dims: [1] },
    { name: outputOf.sum(name), value: sum!, type: "FLOAT", dims: [columns] },
    { name: outputOf.squares(name), value: squares!, type: "FLOAT", dims: [columns] },
    ...pieces.map(({ value, piece }, index) => ({
      name: outputOf.moments(name, index),
      value,
      type: "FLOAT" as const,
      dims: [piece.rows, piece.columns],
    })),
  ];
}

/** A graph of moments between two models: of `others` and `rows` of each input, pieces of Σ others·rowsᵀ. */
export function crossGraph(moments: ReadonlyMap<string, MomentPlan>): ModelProto {
  const builder = new GraphBuilder();
  const [inputs, outputs]: [ValueInfoProto[], ValueInfoProto[]] = [[], []];
  for (const [input, plan] of moments) {
    const [x, y] = [outputOf.others(input), outputOf.rows(input)];
    inputs.push(...[x, y].map((name) => valueInfo(name, "FLOAT", ["rows", plan.columns])));
    for (const { value, piece } of products(builder, x, y, { input, plan, symmetric: false })) {
      outputs.push(valueInfo(value, "FLOAT", [piece.rows, piece.columns]));
    }
  }
  const whole = graph("moments between two models", builder.nodes, {
    inputs,
    outputs,
    initializers: builder.constants,
  });
  return model(whole, { opset: GRAPH_OPSET });
}
