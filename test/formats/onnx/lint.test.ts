import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  attr,
  type AttributeValue,
  graph,
  inlineTensor,
  model,
  node,
  valueInfo,
} from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { elementType, type ElementTypeName, tensorBytes } from "../../../formats/onnx/element-types.js";
import { type Finding, lintModel, type LintOptions } from "../../../formats/onnx/lint.js";
import { type Rule, RULES } from "../../../formats/onnx/lint/findings.js";
import type {
  AttributeProto,
  FunctionProto,
  GraphProto,
  ModelProto,
  NodeProto,
  TensorProto,
  ValueInfoProto,
} from "../../../formats/onnx/types.js";
import { MICROSOFT_DOMAIN } from "../../../formats/onnx/versions.js";
import { packageRoot } from "../../../src/base/paths.js";
import { everything } from "./support.js";

/** An optional dependency; it has no library for some systems. */
const runtime = await import("onnxruntime-node").then(
  ({ default: module }) => module,
  () => undefined,
);

/** Whether ONNX Runtime loads the model. */
async function loads(model: ModelProto): Promise<boolean> {
  const bytes = await encodeModel(model);
  return runtime!.InferenceSession.create(bytes, { logSeverityLevel: 4 }).then(
    async (session) => {
      await session.release();
      return true;
    },
    () => false,
  );
}

/** A tensor of zeros. */
function zeros(name: string, type: ElementTypeName, dims: readonly number[]): TensorProto {
  return inlineTensor(name, type, dims, new Uint8Array(tensorBytes(elementType(type), dims, name)));
}

const microsoft = (opType: string, parts: Parameters<typeof node>[1]): NodeProto =>
  node(opType, { domain: MICROSOFT_DOMAIN, ...parts });

const neg = (input: string, output: string, name?: string): NodeProto =>
  node("Neg", { inputs: [input], outputs: [output], ...(name === undefined ? {} : { name }) });

interface Changes {
  readonly inputs?: readonly ValueInfoProto[];
  readonly outputs?: readonly ValueInfoProto[];
  readonly initializers?: readonly TensorProto[];
  readonly opset?: number;
  readonly domains?: Readonly<Record<string, number>>;
  readonly functions?: readonly FunctionProto[];
}

/** A model from x of FLOAT [2] to y of the same, unless told otherwise. */
function around(nodes: readonly NodeProto[], changes: Changes = {}): ModelProto {
  const { inputs = [valueInfo("x", "FLOAT", [2])], outputs = [valueInfo("y", "FLOAT", [2])] } = changes;
  const { initializers = [], opset = 21, domains = { [MICROSOFT_DOMAIN]: 1 }, functions } = changes;
  return model(graph("g", nodes, { inputs, outputs, initializers }), {
    opset,
    domains,
    ...(functions === undefined ? {} : { functions }),
  });
}

const plain = around([neg("x", "y")]);

/** A model with an If whose first branch is given. */
function branching(then: GraphProto, before: readonly NodeProto[] = []): ModelProto {
  const other = graph("else", [neg("x", "b")], { outputs: [valueInfo("b", "FLOAT", [2])] });
  const attributes = { then_branch: attr.graph(then), else_branch: attr.graph(other) };
  return around([...before, node("If", { inputs: ["c"], outputs: ["y"], attributes })], {
    inputs: [valueInfo("x", "FLOAT", [2]), valueInfo("c", "BOOL", [])],
  });
}

function branch(nodes: readonly NodeProto[], output: string): GraphProto {
  return graph("then", nodes, { outputs: [valueInfo(output, "FLOAT", [2])] });
}

/** A Softmax with attributes by hand. */
function withAttributes(...attribute: AttributeProto[]): ModelProto {
  return around([{ ...node("Softmax", { inputs: ["x"], outputs: ["y"] }), attribute }]);
}

const axis: AttributeProto = { name: "axis", type: 2, i: 0 };

interface NBits {
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  readonly b?: TensorProto;
  readonly scales?: TensorProto;
  readonly zeroPoints?: TensorProto;
  readonly bias?: TensorProto;
  readonly activation?: ElementTypeName;
  readonly before?: readonly NodeProto[];
}

/** A MatMulNBits of 4 rows of 40 values, in blocks of 16: three of them, the last one half full. */
function nbits(bits: number, changes: NBits = {}): ModelProto {
  const { activation = "FLOAT", zeroPoints, bias, before = [] } = changes;
  const { b = zeros("b", "UINT8", [4, 3, 2 * bits]), scales = zeros("scales", "FLOAT", [4, 3]) } = changes;
  const attributes = {
    K: attr.int(40),
    N: attr.int(4),
    bits: attr.int(bits),
    block_size: attr.int(16),
    accuracy_level: attr.int(4),
    ...changes.attributes,
  };
  const names = ["x", "b", "scales", zeroPoints?.name ?? "", "", bias?.name ?? ""];
  const parts = [b, scales, zeroPoints, bias].filter((tensor) => tensor !== undefined);
  return around([...before, microsoft("MatMulNBits", { inputs: names, outputs: ["y"], attributes })], {
    inputs: [valueInfo("x", activation, ["rows", 40])],
    outputs: [valueInfo("y", activation, ["rows", 4])],
    initializers: parts,
  });
}

interface Table {
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  readonly data?: TensorProto;
  readonly scales?: TensorProto;
  readonly zeroPoints?: TensorProto;
}

/** A GatherBlockQuantized over 4 rows of 40 values of 4 bits. */
function table(changes: Table = {}): ModelProto {
  const { data = zeros("data", "UINT8", [4, 20]), scales = zeros("scales", "FLOAT", [4, 3]) } = changes;
  const { zeroPoints } = changes;
  const attributes = { bits: attr.int(4), block_size: attr.int(16), ...changes.attributes };
  const inputs = ["data", "ids", "scales"];
  if (zeroPoints !== undefined) inputs.push("zeroPoints");
  return around([microsoft("GatherBlockQuantized", { inputs, outputs: ["y"], attributes })], {
    inputs: [valueInfo("ids", "INT64", ["n"])],
    outputs: [valueInfo("y", "FLOAT", ["n", 40])],
    initializers: [data, scales, ...(zeroPoints === undefined ? [] : [zeroPoints])],
  });
}

/** Values of 2 bits made floats, then multiplied. */
function dequantized(type: ElementTypeName, columns: number): ModelProto {
  const nodes = [
    node("DequantizeLinear", {
      inputs: ["w", "s"],
      outputs: ["f"],
      attributes: { axis: attr.int(0), block_size: attr.int(16) },
    }),
    node("MatMul", { inputs: ["x", "f"], outputs: ["y"] }),
  ];
  return around(nodes, {
    opset: 25,
    inputs: [valueInfo("x", "FLOAT", ["rows", 32])],
    outputs: [valueInfo("y", "FLOAT", ["rows", columns])],
    initializers: [zeros("w", type, [32, columns]), zeros("s", "FLOAT", [2, columns])],
  });
}

/** Caches of two layers that go in and out. */
const cache = (name: string): ValueInfoProto => valueInfo(name, "FLOAT", ["batch_size", 1, "length", 8]);
const pasts = [0, 1].flatMap((layer) =>
  ["key", "value"].map((part) => cache(`past_key_values.${layer}.${part}`)),
);

/** A model that hands each input through as the output that belongs to it. */
function caches(inputs: readonly ValueInfoProto[], left: readonly string[] = []): ModelProto {
  const outputs = inputs.map(({ name }) => name.replace("past_key_values", "present"));
  const kept = outputs
    .map((output, index) => ({ output, index }))
    .filter(({ output }) => !left.includes(output));
  return around(
    kept.map(({ output, index }) => node("Identity", { inputs: [inputs[index]!.name], outputs: [output] })),
    { inputs, outputs: kept.map(({ output }) => cache(output)) },
  );
}

interface Attention {
  readonly outputs?: readonly string[];
  readonly bias?: boolean;
}

function attention({ outputs = ["y", "pk", "pv"], bias = false }: Attention = {}): ModelProto {
  const inputs = ["x", "x", "x", "past", "past", "lengths", "total"];
  if (bias) inputs.push("", "", "", "bias");
  const attributes = { num_heads: attr.int(1), kv_num_heads: attr.int(1) };
  return around([microsoft("GroupQueryAttention", { inputs, outputs, attributes })], {
    inputs: [
      valueInfo("x", "FLOAT", [1, "s", 8]),
      valueInfo("past", "FLOAT", [1, 1, "p", 8]),
      valueInfo("lengths", "INT32", [1]),
      valueInfo("total", "INT32", []),
      ...(bias ? [valueInfo("bias", "FLOAT", [1, 1, "s", "t"])] : []),
    ],
    outputs: [valueInfo("y", "FLOAT", [1, "s", 8])],
  });
}

/** A QMoE of two experts with rows of 32 values of 4 bits. */
function experts(activation: string | undefined, block: number): ModelProto {
  const names = ["x", "router", "w1", "s1", "", "w2", "s2"];
  const attributes = {
    k: attr.int(1),
    expert_weight_bits: attr.int(4),
    block_size: attr.int(block),
    ...(activation === undefined ? {} : { activation_type: attr.string(activation) }),
  };
  const blocks = Math.ceil(32 / block);
  return around([microsoft("QMoE", { inputs: names, outputs: ["y"], attributes })], {
    inputs: [valueInfo("x", "FLOAT", ["n", 32]), valueInfo("router", "FLOAT", ["n", 2])],
    outputs: [valueInfo("y", "FLOAT", ["n", 32])],
    initializers: ["1", "2"].flatMap((layer) => [
      zeros(`w${layer}`, "UINT8", [2, 32, 16]),
      zeros(`s${layer}`, "FLOAT", [2, 32, blocks]),
    ]),
  });
}

const files = (count: number, size: number): LintOptions => ({
  dataFiles: Array.from({ length: count }, (_, index) => ({ location: `m.onnx_data_${index}`, size })),
});

/** What ONNX Runtime 1.30 does with the broken model: it may also load and then go wrong. */
type Fate = "refused" | "loaded" | "not asked";

interface Case {
  readonly rule: Rule;
  readonly title: string;
  readonly broken: ModelProto;
  readonly sound: ModelProto;
  readonly message: RegExp;
  readonly node?: string | null;
  readonly fate: Fate;
  /** What the same mistake breaks besides. */
  readonly also?: readonly Rule[];
  readonly options?: LintOptions;
  readonly soundOptions?: LintOptions;
}

const x = valueInfo("x", "FLOAT", [2]);

const CASES: readonly Case[] = [
  {
    rule: "opset",
    title: "from the future",
    broken: { ...plain, opsetImport: [{ domain: "", version: 27 }] },
    sound: plain,
    message: /Unsupported opset: the model imports 27, expected 21 to 26/,
    node: null,
    fate: "refused",
  },
  {
    rule: "opset",
    title: "that is missing",
    broken: { ...plain, opsetImport: [{ domain: MICROSOFT_DOMAIN, version: 1 }] },
    sound: plain,
    message: /imports none of ONNX's own/,
    also: ["domain"],
    fate: "loaded",
  },
  {
    rule: "opset",
    title: "imported twice",
    broken: { ...plain, opsetImport: [...plain.opsetImport, { domain: "ai.onnx", version: 22 }] },
    sound: plain,
    message: /imports 21 and 22, expected one/,
    fate: "not asked",
  },
  {
    rule: "ir-version",
    title: "from the future",
    broken: { ...plain, irVersion: 14 },
    sound: plain,
    message: /IR version is 14/,
    fate: "refused",
  },
  {
    rule: "ir-opset",
    title: "older than the opset",
    broken: { ...around([neg("x", "y")], { opset: 23 }), irVersion: 10 },
    sound: { ...plain, irVersion: 11 },
    message: /IR version is 10, opset 23 came with 11/,
    fate: "loaded",
  },
  {
    rule: "domain",
    title: "that nobody imports",
    broken: around([node("Foo", { inputs: ["x"], outputs: ["y"], domain: "foo" })]),
    sound: plain,
    message: /"Foo" is of "foo", which is not imported/,
    node: "graph.node[0]",
    fate: "refused",
  },
  {
    rule: "domain",
    title: "that lacks the norm",
    broken: around([microsoft("SimplifiedLayerNormalization", { inputs: ["x", "w"], outputs: ["y"] })], {
      initializers: [zeros("w", "FLOAT", [2])],
    }),
    sound: around([node("SimplifiedLayerNormalization", { inputs: ["x", "w"], outputs: ["y"] })], {
      initializers: [zeros("w", "FLOAT", [2])],
    }),
    message: /expected ONNX's own domain/,
    fate: "refused",
  },
  {
    rule: "domain-import",
    title: "left out",
    broken: around([microsoft("FastGelu", { inputs: ["x"], outputs: ["y"] })], { domains: {} }),
    sound: around([microsoft("FastGelu", { inputs: ["x"], outputs: ["y"] })]),
    message: /"FastGelu" is of "com.microsoft", which is not imported/,
    fate: "loaded",
  },
  {
    rule: "undefined-value",
    title: "as an input",
    broken: around([neg("nothing", "y", "n")]),
    sound: plain,
    message: /"Neg" takes "nothing", which nothing produces/,
    node: "n",
    fate: "refused",
  },
  {
    rule: "undefined-value",
    title: "as an output",
    broken: around([neg("x", "z")]),
    sound: plain,
    message: /graph has the output "y", which nothing produces/,
    fate: "refused",
  },
  {
    rule: "undefined-value",
    title: "as an output of a branch, which only the graph around it has",
    broken: branching(branch([], "x")),
    sound: branching(branch([neg("x", "a")], "a")),
    message: /graph\.node\[0\]\.attribute\[0\]\.g has the output "x", which only the graph around it has/,
    fate: "refused",
  },
  {
    rule: "value-twice",
    title: "by two nodes",
    broken: around([neg("x", "y"), neg("x", "y")]),
    sound: plain,
    message: /value "y" is defined twice/,
    node: "graph.node[1]",
    fate: "refused",
  },
  {
    rule: "value-twice",
    title: "by an initializer and a node",
    broken: around([neg("x", "w"), neg("w", "y")], { initializers: [zeros("w", "FLOAT", [2])] }),
    sound: around([neg("w", "y")], { initializers: [zeros("w", "FLOAT", [2])] }),
    message: /value "w" is defined twice/,
    fate: "refused",
  },
  {
    rule: "value-twice",
    title: "by two inputs",
    broken: around([neg("x", "y")], { inputs: [x, x] }),
    sound: around([neg("x", "y")], { initializers: [zeros("x", "FLOAT", [2])] }),
    message: /value "x" is defined twice/,
    node: null,
    fate: "refused",
  },
  {
    rule: "value-twice",
    title: "in a branch and before it",
    broken: branching(branch([neg("x", "a")], "a"), [neg("x", "a")]),
    sound: branching(branch([neg("x", "b")], "b")),
    message: /value "a" is defined twice/,
    node: "graph.node[1].attribute[0].g.node[0]",
    fate: "refused",
  },
  {
    rule: "node-order",
    title: "reversed",
    broken: around([neg("h", "y"), neg("x", "h")]),
    sound: around([neg("x", "h"), neg("h", "y")]),
    message: /"Neg" takes "h", which no earlier node produces/,
    node: "graph.node[0]",
    fate: "loaded",
  },
  {
    rule: "node-order",
    title: "with a circle",
    broken: around([neg("y", "h"), neg("h", "y")]),
    sound: plain,
    message: /takes "y"/,
    fate: "refused",
  },
  {
    rule: "node-order",
    title: "where a branch takes what comes later",
    broken: ((model: ModelProto): ModelProto => ({
      ...model,
      graph: { ...model.graph, node: [...model.graph.node, neg("x", "late")] },
    }))(branching(branch([neg("late", "a")], "a"))),
    sound: branching(branch([neg("early", "a")], "a"), [neg("x", "early")]),
    message: /takes "late"/,
    node: "graph.node[0].attribute[0].g.node[0]",
    fate: "loaded",
  },
  {
    rule: "node-name",
    title: "given twice",
    broken: around([neg("x", "h", "n"), neg("h", "y", "n")]),
    sound: around([neg("x", "h", ""), neg("h", "y", "")]),
    message: /Another node of the graph has the name "n" too/,
    node: "n",
    fate: "refused",
  },
  {
    rule: "attribute-type",
    title: "of another field",
    broken: withAttributes({ ...axis, type: 1 }),
    sound: withAttributes(axis),
    message: /Attribute "axis" has a value in i, expected f by its type/,
    fate: "refused",
  },
  {
    rule: "attribute-type",
    title: "with two values",
    broken: withAttributes({ ...axis, floats: [1] }),
    sound: withAttributes({ name: "axis", type: 2 }),
    message: /has a value in i, floats, expected i/,
    fate: "refused",
  },
  {
    rule: "attribute-type",
    title: "that ONNX does not name",
    broken: withAttributes({ ...axis, type: 0 }),
    sound: withAttributes(axis),
    message: /has the type 0/,
    fate: "refused",
  },
  {
    rule: "attribute-type",
    title: "of a tensor that is missing",
    broken: around([
      { ...node("Constant", { inputs: [], outputs: ["y"] }), attribute: [{ name: "value", type: 4 }] },
    ]),
    sound: around([
      node("Constant", {
        inputs: [],
        outputs: ["y"],
        attributes: { value: attr.tensor(zeros("", "FLOAT", [2])) },
      }),
    ]),
    message: /Attribute "value" has no value in t/,
    fate: "not asked",
  },
  {
    rule: "attribute-twice",
    title: "in one node",
    broken: withAttributes(axis, axis),
    sound: withAttributes(axis),
    message: /Attribute "axis" is given twice/,
    fate: "refused",
  },
  {
    rule: "border-type",
    title: "of an input",
    broken: around([node("Cast", { inputs: ["x"], outputs: ["y"], attributes: { to: attr.int(1) } })], {
      inputs: [valueInfo("x", "BFLOAT16", [2])],
    }),
    sound: around([node("Cast", { inputs: ["x"], outputs: ["y"], attributes: { to: attr.int(1) } })], {
      inputs: [valueInfo("x", "FLOAT16", [2])],
    }),
    message: /input "x" is BFLOAT16/,
    fate: "refused",
  },
  {
    rule: "border-type",
    title: "of an output",
    broken: around([node("Cast", { inputs: ["x"], outputs: ["y"], attributes: { to: attr.int(16) } })], {
      outputs: [valueInfo("y", "BFLOAT16", [2])],
    }),
    sound: around([node("Cast", { inputs: ["w"], outputs: ["y"], attributes: { to: attr.int(1) } })], {
      initializers: [zeros("w", "BFLOAT16", [2])],
    }),
    message: /output "y" is BFLOAT16/,
    fate: "refused",
  },
  ...(
    [
      [
        "cache-name",
        "with a leading zero",
        [cache("past_key_values.00.key")],
        [],
        /"past_key_values\.00\.key"/,
      ],
      [
        "cache-name",
        "of another library",
        [cache("past_key_values_0_key")],
        [],
        /has a name that nothing looks for/,
      ],
      ["cache-gap", "at layer 0", pasts.slice(2), [], /layer 0 is missing, that of layer 1 is there/],
      ["cache-pair", "without a key", pasts.slice(0, 3), [], /layer 1 has no value/],
      [
        "cache-shape",
        "with heads by name",
        [valueInfo("past_key_values.0.key", "FLOAT", ["b", "heads", "p", 8]), ...pasts.slice(1)],
        [],
        /has no number as its number of heads/,
      ],
      [
        "cache-shape",
        "with head sizes by name",
        [valueInfo("past_key_values.0.key", "FLOAT", ["b", 1, "p", "size"]), ...pasts.slice(1)],
        [],
        /has no number as its head size/,
      ],
      [
        "cache-shape",
        "of three dimensions",
        [valueInfo("past_key_values.0.key", "FLOAT", ["b", "p", 8]), ...pasts.slice(1)],
        [],
        /has 3 dimensions, expected 4/,
      ],
      [
        "cache-present",
        "left out",
        pasts,
        ["present.1.key"],
        /"past_key_values\.1\.key" has no output present\.1\.key/,
      ],
    ] as const
  ).map(([rule, title, inputs, left, message]): Case => {
    const broken = caches(inputs, left);
    return { rule, title, broken, sound: caches(pasts), message, node: null, fate: "not asked" };
  }),
  {
    rule: "gqa-present",
    title: "both left out",
    broken: attention({ outputs: ["y"] }),
    sound: attention(),
    message: /no output present_key and no present_value/,
    fate: "loaded",
  },
  {
    rule: "gqa-present",
    title: "one left out",
    broken: attention({ outputs: ["y", "pk"] }),
    sound: attention(),
    message: /no output present_value/,
    fate: "not asked",
  },
  {
    rule: "gqa-left-padding",
    title: "without a bias",
    broken: attention(),
    sound: attention({ bias: true }),
    message: /no attention_bias/,
    fate: "loaded",
    options: { padsLeft: true },
    soundOptions: { padsLeft: true },
  },
  ...(
    [
      ["weight-attribute", "of 3 bits", nbits(3), /MatMulNBits has 3 bits/],
      [
        "weight-attribute",
        "of odd blocks",
        nbits(4, { attributes: { block_size: attr.int(24) } }),
        /block_size 24/,
      ],
      ["weight-attribute", "without K", nbits(4, { attributes: { K: attr.float(1) } }), /has K NaN and N 4/],
      [
        "weight-shape",
        "of B",
        nbits(4, { b: zeros("b", "UINT8", [4, 24]) }),
        /B of the shape \[4, 24\], expected \[4, 3, 8\]/,
      ],
      [
        "weight-shape",
        "of B, by its bits",
        nbits(4, { b: zeros("b", "UINT8", [4, 3, 16]) }),
        /B of the shape/,
      ],
      [
        "weight-shape",
        "of B, by its type",
        nbits(4, { b: zeros("b", "INT8", [4, 3, 8]) }),
        /B of INT8, expected UINT8/,
      ],
      [
        "weight-shape",
        "of scales",
        nbits(4, { scales: zeros("scales", "FLOAT", [4, 2]) }),
        /scales of the shape \[4, 2\]/,
      ],
      [
        "weight-shape",
        "of zero points",
        nbits(4, { zeroPoints: zeros("zp", "UINT8", [4, 3]) }),
        /zero points of the shape \[4, 3\], expected \[4, 2\]/,
      ],
      [
        "weight-shape",
        "of the bias",
        nbits(4, { bias: zeros("bias", "FLOAT", [3]) }),
        /a bias of the shape \[3\]/,
      ],
      [
        "zero-point-type",
        "of signed bytes",
        nbits(4, { zeroPoints: zeros("zp", "INT8", [4, 2]) }),
        /zero points of INT8/,
      ],
      [
        "scale-type",
        "of half floats",
        nbits(4, { scales: zeros("scales", "FLOAT16", [4, 3]) }),
        /scales of FLOAT16, expected FLOAT/,
      ],
      ["scale-type", "of floats", nbits(4, { activation: "FLOAT16" }), /scales of FLOAT, expected FLOAT16/],
    ] as const
  ).map(([rule, title, broken, message]): Case => {
    return { rule, title, broken, sound: nbits(4), message, node: "graph.node[0]", fate: "refused" };
  }),
  {
    rule: "zero-point-type",
    title: "of floats at 8 bits",
    broken: nbits(8, { zeroPoints: zeros("zp", "FLOAT", [4, 3]) }),
    sound: nbits(8, { zeroPoints: zeros("zp", "UINT8", [4, 3]) }),
    message: /MatMulNBits of 8 bits has zero points of FLOAT/,
    // It fails when it runs.
    fate: "loaded",
  },
  {
    rule: "float-zero-point",
    title: "at 4 bits",
    broken: nbits(4, { zeroPoints: zeros("zp", "FLOAT", [4, 3]) }),
    sound: nbits(4, { zeroPoints: zeros("zp", "UINT8", [4, 2]) }),
    message: /zero points of FLOAT: 40 to 140 times slower/,
    fate: "loaded",
  },
  {
    rule: "accuracy-level",
    title: "0 at 8 bits",
    broken: nbits(8, { attributes: { accuracy_level: attr.int(0) } }),
    sound: nbits(4, { attributes: { accuracy_level: attr.int(0) } }),
    message: /1 node has 2 or 8 bits and an accuracy_level below 4/,
    node: null,
    fate: "loaded",
  },
  ...(
    [
      [
        "weight-attribute",
        "of a table of 3 bits",
        table({ attributes: { bits: attr.int(3) } }),
        /GatherBlockQuantized has 3 bits/,
      ],
      [
        "weight-attribute",
        "of a table of small blocks",
        table({ attributes: { block_size: attr.int(8) } }),
        /block_size 8/,
      ],
      [
        "weight-attribute",
        "of a table with wider data",
        table({ data: zeros("data", "INT4", [4, 40]), attributes: { bits: attr.int(8) } }),
        /has 8 bits and data of INT4/,
      ],
      [
        "weight-shape",
        "of a table's type",
        table({ data: zeros("data", "INT8", [4, 20]) }),
        /data of INT8, expected UINT8 or INT4/,
      ],
      [
        "weight-shape",
        "of a table's scales",
        table({ scales: zeros("scales", "FLOAT", [4, 2]) }),
        /scales of the shape \[4, 2\], expected \[4, 3\]/,
      ],
      [
        "weight-shape",
        "of a table's rows",
        table({ scales: zeros("scales", "FLOAT", [3, 3]) }),
        /scales of the shape \[3, 3\]/,
      ],
      [
        "zero-point-type",
        "of a table",
        table({ zeroPoints: zeros("zeroPoints", "FLOAT", [4, 3]) }),
        /zero points of FLOAT, expected UINT8/,
      ],
    ] as const
  ).map(([rule, title, broken, message]): Case => {
    return { rule, title, broken, sound: table(), message, fate: "refused" };
  }),
  {
    rule: "weight-shape",
    title: "of a table's zero points",
    broken: table({ zeroPoints: zeros("zeroPoints", "UINT8", [4, 3]) }),
    sound: table({ zeroPoints: zeros("zeroPoints", "UINT8", [4, 2]) }),
    message: /zero points of the shape \[4, 3\], expected \[4, 2\]/,
    // It fails when it runs.
    fate: "loaded",
  },
  {
    rule: "moe-activation",
    title: "silu",
    broken: experts("silu", 16),
    sound: experts("geglu", 16),
    message: /QMoE has the activation "silu", which is not Gemma's gated GELU/,
    fate: "loaded",
  },
  {
    rule: "moe-activation",
    title: "by default",
    broken: experts(undefined, 16),
    sound: experts("geglu", 16),
    message: /the activation "relu"/,
    fate: "loaded",
  },
  {
    rule: "moe-block",
    title: "that does not divide a row",
    broken: experts("geglu", 64),
    sound: experts("geglu", 32),
    message: /rows of 32 in fc1, expected a multiple of block_size 64/,
    fate: "not asked",
  },
  {
    rule: "dequantize-2-bit",
    title: "with 6 columns",
    broken: dequantized("INT2", 6),
    sound: dequantized("INT2", 8),
    message: /MatMul takes "w" of 2 bits and 6 columns/,
    fate: "loaded",
  },
  {
    rule: "dequantize-2-bit",
    title: "unsigned",
    broken: dequantized("UINT2", 6),
    sound: dequantized("UINT4", 6),
    message: /6 columns/,
    fate: "loaded",
  },
  {
    rule: "data-file-size",
    title: "of 2^31 bytes",
    broken: plain,
    sound: plain,
    message: /"m\.onnx_data_0" has 2147483648 bytes, browsers hold at most 2147483647/,
    fate: "not asked",
    options: files(1, 2 ** 31),
    soundOptions: files(1, 2 ** 31 - 1),
  },
  {
    rule: "data-file-count",
    title: "of 101",
    broken: plain,
    sound: plain,
    message: /101 data files, transformers\.js fetches at most 100/,
    fate: "not asked",
    options: files(101, 1),
    soundOptions: files(100, 1),
  },
];

/** Activations that no release takes; the sound model of a rule about them is not loaded. */
const NOT_YET: ReadonlySet<Rule> = new Set<Rule>(["moe-activation", "moe-block"]);

describe.each(CASES)(
  "$rule: $title",
  ({ rule, broken, sound, message, node, fate, also = [], options, soundOptions }) => {
    test("is found where it is, and nothing else", () => {
      const [severity, advice] = RULES[rule];
      const found = lintModel(broken, options);
      expect(new Set(found.map((finding) => finding.rule))).toEqual(new Set([rule, ...also]));
      expect(found[0]).toMatchObject({ severity, advice, ...(node === undefined ? {} : { node }) });
      expect(found[0]?.message).toMatch(message);
      expect(lintModel(sound, soundOptions)).toEqual([]);
    });

    test.skipIf(runtime === undefined || fate === "not asked")("agrees with ONNX Runtime", async () => {
      const fates = [await loads(broken), NOT_YET.has(rule) || (await loads(sound))];
      expect(fates).toEqual([fate === "loaded", true]);
    });
  },
);

test("every rule is broken once", () => {
  expect([...new Set(CASES.map(({ rule }) => rule))].toSorted()).toEqual(Object.keys(RULES).toSorted());
});

test("every rule is described for those who read the output", () => {
  const text = readFileSync(join(packageRoot, "docs", "json.md"), "utf8");
  const rows = [...text.matchAll(/^\| `([a-z0-9-]+)` \| (error|warning) \| .+ \|$/gm)];
  const described = Object.fromEntries(rows.map(([, rule = "", severity]) => [rule, severity]));
  expect(described).toEqual(
    Object.fromEntries(Object.entries(RULES).map(([rule, [severity]]) => [rule, severity])),
  );
});

describe("what is allowed", () => {
  const sound: readonly (readonly [string, ModelProto])[] = [
    [
      "flat scales and zero points",
      nbits(4, { scales: zeros("scales", "FLOAT", [12]), zeroPoints: zeros("zp", "UINT8", [8]) }),
    ],
    [
      "half scales behind a Cast",
      nbits(4, {
        scales: zeros("half", "FLOAT16", [4, 3]),
        before: [node("Cast", { inputs: ["half"], outputs: ["scales"], attributes: { to: attr.int(1) } })],
      }),
    ],
    [
      "4-bit tables without packing",
      table({ data: zeros("data", "UINT4", [4, 40]), zeroPoints: zeros("zeroPoints", "UINT4", [4, 3]) }),
    ],
    ["the same name in two branches", branching(branch([neg("x", "b")], "b"))],
    [
      "an initializer of a branch with a name from outside",
      branching(
        graph("then", [neg("x", "a")], {
          outputs: [valueInfo("a", "FLOAT", [2])],
          initializers: [zeros("c", "FLOAT", [2])],
        }),
      ),
    ],
  ];
  test.each(sound)("%s", async (_, model) => {
    expect(lintModel(model)).toEqual([]);
    expect(runtime === undefined || (await loads(model))).toBe(true);
  });

  test("what is computed, and of no known type or shape", () => {
    const inputs = ["x", "b", "s"];
    const attributes = { K: attr.int(40), N: attr.int(4), bits: attr.int(4), block_size: attr.int(16) };
    const model = around([microsoft("MatMulNBits", { inputs, outputs: ["y"], attributes })], {
      inputs: inputs.map((name) => ({ name })),
    });
    expect(lintModel(model)).toEqual([]);
  });
});

test("types are followed through the graph", () => {
  const half = (nodes: readonly NodeProto[]): readonly Finding[] => {
    const attributes = { K: attr.int(16), N: attr.int(1), bits: attr.int(4), block_size: attr.int(16) };
    const last = microsoft("MatMulNBits", { inputs: ["h", "b", "scales"], outputs: ["y"], attributes });
    return lintModel(
      around([...nodes, last], {
        initializers: [zeros("b", "UINT8", [1, 1, 8]), zeros("scales", "FLOAT", [1, 1])],
      }),
    );
  };
  const cast = node("Cast", { inputs: ["x"], outputs: ["c"], attributes: { to: attr.int(10) } });
  const add = node("Add", { inputs: ["c", "c"], outputs: ["a"] });
  const last = node("Identity", { inputs: ["a"], outputs: ["h"] });
  expect(half([cast, add, last])).toMatchObject([{ rule: "scale-type" }]);
  expect(half([{ ...cast, attribute: [{ name: "to", ...attr.int(1) }] }, add, last])).toEqual([]);
  // Another domain's Add may do as it likes.
  const foreign = { ...add, domain: "foo" };
  expect(half([cast, foreign, last])).toMatchObject([{ rule: "domain" }]);
});

test("names that lead in circles come to an end", () => {
  const cast = (from: string, to: string): NodeProto => node("Identity", { inputs: [from], outputs: [to] });
  const attributes = { K: attr.int(16), N: attr.int(1), bits: attr.int(4), block_size: attr.int(16) };
  const found = lintModel(
    around([
      cast("p", "q"),
      cast("q", "p"),
      microsoft("MatMulNBits", { inputs: ["p", "p", "q"], outputs: ["y"], attributes }),
    ]),
  );
  expect(found).toMatchObject([{ rule: "node-order", node: "graph.node[0]" }]);
});

describe("functions", () => {
  const body = (nodes: readonly NodeProto[]): FunctionProto => ({
    name: "f",
    domain: "local",
    input: ["a"],
    output: ["b"],
    node: nodes,
    opsetImport: [{ domain: "", version: 21 }],
  });
  const calling = (nodes: readonly NodeProto[]): ModelProto =>
    around([node("f", { inputs: ["x"], outputs: ["y"], domain: "local" })], {
      domains: { local: 1 },
      functions: [body(nodes)],
    });

  test("are looked at like graphs, and see nothing around them", () => {
    expect(lintModel(calling([neg("a", "b")]))).toEqual([]);
    expect(lintModel(calling([neg("x", "b")]))).toMatchObject([
      { rule: "undefined-value", node: "functions[0].node[0]" },
    ]);
    expect(lintModel(calling([]))).toMatchObject([{ rule: "undefined-value", message: /functions\[0\]/ }]);
  });

  test("import their operators themselves", () => {
    expect(lintModel(calling([microsoft("FastGelu", { inputs: ["a"], outputs: ["b"] })]))).toMatchObject([
      { rule: "domain-import" },
    ]);
  });

  test("may hand attributes on, but not with a value beside", () => {
    const softmax = (attribute: AttributeProto): ModelProto =>
      calling([{ ...node("Softmax", { inputs: ["a"], outputs: ["b"] }), attribute: [attribute] }]);
    const reference = { name: "axis", type: 2, refAttrName: "axis" };
    expect(lintModel(softmax(reference))).toEqual([]);
    expect(lintModel(softmax({ ...reference, i: 1 }))).toMatchObject([{ rule: "attribute-type" }]);
  });
});

describe("hostile models", () => {
  test("with a mistake at every node keep the report short", () => {
    const nodes = Array.from({ length: 3000 }, (_, index) => neg("nothing", `h${index}`));
    const found = lintModel(around([...nodes, neg("x", "y")]));
    expect(found).toHaveLength(1001);
    expect(found.at(-1)).toMatchObject({ node: null, message: "2000 more are left out." });
  });

  test("with long names keep messages short", () => {
    const [found] = lintModel(around([{ ...neg("n".repeat(1e6), "y"), name: "m".repeat(1e6) }]));
    expect(JSON.stringify(found).length).toBeLessThan(1000);
  });

  test("with everything that the format has are read to the end", () => {
    expect(lintModel(everything).map(({ rule }) => rule)).toContain("undefined-value");
  });
});
