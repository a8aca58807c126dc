import * as fc from "fast-check";
import {
  attr,
  externalTensor,
  graph,
  inlineTensor,
  model,
  node,
  valueInfo,
} from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { ELEMENT_TYPES, tensorBytes } from "../../../formats/onnx/element-types.js";
import type { GraphProto, ModelProto, TensorProto } from "../../../formats/onnx/types.js";

export const utf8 = new TextEncoder();

/** Without empty lists and empty texts, which reading fills in where they are left out. */
export function bare(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(bare);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value as Record<string, unknown>)
    .map(([key, each]) => [key, bare(each)] as const)
    .filter(([, each]) => each !== "" && !(Array.isArray(each) && each.length === 0));
  return Object.fromEntries(kept.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

export const plainGraph = (
  nodes: GraphProto["node"],
  initializers: readonly TensorProto[] = [],
): GraphProto =>
  graph("g", nodes, {
    inputs: [valueInfo("x", "FLOAT", ["batch", 2])],
    outputs: [valueInfo("y", "FLOAT", ["batch", 2])],
    initializers,
  });

const props = [{ key: "k", value: "v" }];
const tensor: TensorProto = { name: "t", dataType: 1, dims: [2], floatData: [0.5, -1] };
const float = { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 0 }, { dimParam: "n" }, {}] } } };

/** A model with a value in every field that the schema of ONNX 1.10 has. */
export const everything110: ModelProto = {
  irVersion: 10,
  producerName: "lapidary",
  producerVersion: "1",
  domain: "d",
  modelVersion: 2n ** 62n,
  docString: "Grüße, 世界",
  graph: {
    name: "g",
    docString: "doc",
    node: [
      {
        opType: "If",
        name: "n",
        domain: "com.microsoft",
        docString: "doc",
        input: ["x", "", "y"],
        output: ["z"],
        attribute: [
          { name: "float", type: 1, f: 0.25, docString: "doc" },
          { name: "int", type: 2, i: -(2n ** 63n) },
          { name: "string", type: 3, s: utf8.encode("text") },
          { name: "tensor", type: 4, t: tensor },
          { name: "graph", type: 5, g: plainGraph([], [{ ...tensor, name: "inner" }]) },
          { name: "floats", type: 6, floats: [1, 2, Infinity] },
          { name: "ints", type: 7, ints: [0, -1, 2n ** 63n - 1n] },
          { name: "strings", type: 8, strings: [utf8.encode("a"), new Uint8Array(0)] },
          { name: "tensors", type: 9, tensors: [tensor, tensor] },
          { name: "graphs", type: 10, graphs: [plainGraph([])] },
          {
            name: "sparse",
            type: 11,
            sparseTensor: {
              values: tensor,
              indices: { ...tensor, dataType: 7, floatData: [], int64Data: [1, 2] },
              dims: [9],
            },
          },
          { name: "sparses", type: 12, sparseTensors: [{ values: tensor, dims: [3] }] },
          { name: "type", type: 13, tp: float },
          {
            name: "types",
            type: 14,
            typeProtos: [float, { sparseTensorType: { elemType: 7 }, denotation: "d" }],
          },
          { name: "ref", type: 2, refAttrName: "axis" },
        ],
      },
    ],
    initializer: [
      tensor,
      { name: "raw", dataType: 26, dims: [3, 3], rawData: Uint8Array.of(1, 2, 3) },
      { name: "i32", dataType: 6, dims: [2], int32Data: [-1, 2], docString: "doc" },
      { name: "i64", dataType: 7, dims: [2], int64Data: [-(2n ** 63n), 5] },
      { name: "u64", dataType: 13, dims: [2], uint64Data: [2n ** 64n - 1n, 5] },
      { name: "f64", dataType: 11, dims: [2], doubleData: [0.1, -0] },
      { name: "text", dataType: 8, dims: [2], stringData: [utf8.encode("a"), utf8.encode("ü")] },
      externalTensor("external", "BFLOAT16", [2, 3], { location: "m.onnx_data", offset: 64, length: 12 }),
    ],
    sparseInitializer: [{ values: { ...tensor, name: "sparse" }, dims: [4] }],
    input: [{ name: "x", type: float, docString: "doc" }],
    output: [{ name: "y", type: { optionalType: { elemType: { sequenceType: { elemType: float } } } } }],
    valueInfo: [{ name: "z", type: { mapType: { keyType: 7, valueType: float } } }],
    quantizationAnnotation: [{ tensorName: "t", quantParameterTensorNames: props }],
  },
  opsetImport: [
    { domain: "", version: 21 },
    { domain: "com.microsoft", version: 1 },
  ],
  metadataProps: props,
  trainingInfo: [
    {
      initialization: plainGraph([]),
      algorithm: plainGraph([]),
      initializationBinding: props,
      updateBinding: props,
    },
  ],
  functions: [
    {
      name: "f",
      domain: "d",
      docString: "doc",
      input: ["a"],
      output: ["b"],
      attribute: ["axis"],
      node: [node("Identity", { inputs: ["a"], outputs: ["b"] })],
      opsetImport: [{ domain: "", version: 21 }],
    },
  ],
};

/** The same with the fields that came later. */
export const everything: ModelProto = {
  ...everything110,
  configuration: [Uint8Array.of(0x0a, 1, 0x61)],
  graph: {
    ...everything110.graph,
    metadataProps: props,
    node: everything110.graph.node.map((each) => ({
      ...each,
      overload: "o",
      metadataProps: props,
      deviceConfigurations: [Uint8Array.of(0x0a, 1, 0x61)],
    })),
    initializer: everything110.graph.initializer.map((each) => ({ ...each, metadataProps: props })),
    input: everything110.graph.input.map((each) => ({ ...each, metadataProps: props })),
  },
  functions: (everything110.functions ?? []).map((each) => ({
    ...each,
    overload: "o",
    attributeProto: [{ name: "axis", ...attr.int(1) }],
    valueInfo: [valueInfo("c", "FLOAT")],
    metadataProps: props,
  })),
};

/** A model of a few nodes with all its data inside. */
export function smallModel(): ModelProto {
  const branch = graph(
    "then",
    [node("Constant", { inputs: [], outputs: ["c"], attributes: { value_float: attr.float(1) } })],
    {
      outputs: [valueInfo("c", "FLOAT", [])],
    },
  );
  const nodes = [
    node("Add", { inputs: ["x", "w"], outputs: ["s"], name: "add" }),
    node("If", {
      inputs: ["s"],
      outputs: ["t"],
      attributes: { then_branch: attr.graph(branch), k: attr.ints([1, -2]) },
    }),
  ];
  const raw = Uint8Array.from({ length: 8 }, (_, index) => index);
  return model(plainGraph(nodes, [inlineTensor("w", "FLOAT", [2], raw)]), {
    opset: 21,
    domains: { "com.microsoft": 1 },
    metadata: { tool: "lapidary" },
  });
}

export async function smallFile(): Promise<Uint8Array> {
  return encodeModel(smallModel());
}

const text = fc.string({ unit: "binary", maxLength: 8 }).filter((value) => !/\p{Surrogate}/u.test(value));
const int64 = fc
  .bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
  .map((value) => (value >= -(2n ** 53n) + 1n && value < 2n ** 53n ? Number(value) : value));

/** Tensors of every type that has bytes, with their data inside. */
const anyTensor = fc
  .tuple(
    text,
    fc.constantFrom(...ELEMENT_TYPES.filter(({ bits }) => bits > 0)),
    fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
  )
  .map(([name, type, dims]) =>
    inlineTensor(name, type.name, dims, new Uint8Array(tensorBytes(type, dims, "")).fill(170)),
  );

const anyAttribute = fc.oneof(
  int64.map(attr.int),
  fc.float().map(attr.float),
  text.map(attr.string),
  fc.array(int64, { maxLength: 4 }).map(attr.ints),
  fc.array(fc.float(), { maxLength: 4 }).map(attr.floats),
  fc.array(text, { maxLength: 4 }).map(attr.strings),
  anyTensor.map(attr.tensor),
);

const { graph: anyGraph } = fc.letrec<{ graph: GraphProto; node: GraphProto["node"][number] }>((tie) => ({
  graph: fc
    .tuple(
      text,
      fc.array(tie("node"), { maxLength: 3 }),
      fc.uniqueArray(
        anyTensor.filter(({ name }) => name !== ""),
        { selector: ({ name }) => name, maxLength: 3 },
      ),
      fc.array(fc.oneof(fc.nat(9), text), { maxLength: 3 }),
    )
    .map(([name, nodes, initializers, shape]) =>
      graph(name, nodes, { outputs: [valueInfo(name, "FLOAT16", shape)], initializers }),
    ),
  node: fc
    .tuple(
      text,
      fc.array(text, { maxLength: 3 }),
      fc.dictionary(
        fc.stringMatching(/^[a-z]{1,6}$/),
        fc.oneof({ depthSize: "small" }, anyAttribute, tie("graph").map(attr.graph)),
        {
          maxKeys: 3,
        },
      ),
    )
    .map(([opType, inputs, attributes]) => node(opType, { inputs, outputs: inputs, attributes })),
}));

/** Models with nested graphs. */
export const anyModel: fc.Arbitrary<ModelProto> = fc
  .tuple(
    anyGraph,
    fc.integer({ min: 21, max: 26 }),
    fc.dictionary(fc.stringMatching(/^[a-z]{1,6}$/), text, { maxKeys: 3 }),
  )
  .map(([graph, opset, metadata]) => model(graph, { opset, metadata }));
