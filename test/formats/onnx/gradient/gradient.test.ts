import { describe, expect, it } from "vitest";
import { attr } from "../../../../formats/onnx/build.js";
import { OnnxError } from "../../../../formats/onnx/errors.js";
import { addGradients } from "../../../../formats/onnx/gradient/gradient.js";
import { RULES } from "../../../../formats/onnx/gradient/rules.js";
import { type Attributes, GraphBuilder, MICROSOFT } from "../../../../src/gemma4/graph/builder.js";
import { type Example, gradientError } from "./support.js";

/** What single precision leaves of differences: 6e-5 at most. */
const TOLERANCE = 2e-4;

const A = [2, 3, 4];

/** One operator over inputs a, b, … of given dimensions. */
function operator(
  opType: string,
  dims: readonly (readonly number[])[],
  attributes: Attributes = {},
  { domain = "", ...rest }: Partial<Example> & { readonly domain?: string } = {},
): Example {
  const names = dims.map((_, index) => "abcdefgh"[index]!);
  return {
    inputs: Object.fromEntries(names.map((name, index) => [name, dims[index]!])),
    build: (builder) => [builder.add(opType, "y", names, attributes, domain)],
    ...rest,
  };
}

/** One operator over a and whole numbers. */
function withIntegers(
  opType: string,
  dims: readonly number[],
  lists: readonly (readonly number[] | number)[],
  attributes: Attributes = {},
): Example {
  return {
    inputs: { a: dims },
    build: (builder) => {
      const others = lists.map((each) =>
        typeof each === "number" ? builder.integer(each) : builder.integers(each),
      );
      return [builder.add(opType, "y", ["a", ...others], attributes)];
    },
  };
}

const keep = (value: number): Attributes => ({ keepdims: attr.int(value) });
const axis = (value: number): Attributes => ({ axis: attr.int(value) });
const trans = (a: number, b: number, others: Attributes = {}): Attributes => ({
  transA: attr.int(a),
  transB: attr.int(b),
  ...others,
});
const fused = { domain: MICROSOFT };
const positive = { between: [0.3, 2] } as const;

const examples: Readonly<Record<string, readonly (readonly [what: string, example: Example])[]>> = {
  Add: [
    ["of like shapes", operator("Add", [A, A])],
    ["with a repeated side", operator("Add", [A, [3, 1]])],
    ["with a number", operator("Add", [[], A])],
  ],
  Sub: [["with repeated sides", operator("Sub", [[4], [3, 1]])]],
  Mul: [
    [
      "with repeated sides",
      operator("Mul", [
        [2, 1, 4],
        [3, 1],
      ]),
    ],
    ["by itself", { inputs: { a: A }, build: (builder) => [builder.add("Mul", "y", ["a", "a"])] }],
  ],
  Div: [["with a repeated side", operator("Div", [A, [3, 1]], {}, positive)]],
  Pow: [
    [
      "of a constant exponent",
      {
        inputs: { a: A },
        build: (builder) => [builder.add("Pow", "y", ["a", builder.number(1.5)])],
        ...positive,
      },
    ],
  ],
  Sum: [["of three", operator("Sum", [A, [4], [2, 1, 1]])]],
  Where: [
    [
      "by what is positive",
      {
        inputs: { a: A, b: A, c: [1, 4] },
        constant: ["c"],
        build: (builder) => {
          const condition = builder.add("Greater", "condition", ["c", builder.number(0)]);
          return [builder.add("Where", "y", [condition, "a", "b"])];
        },
      },
    ],
  ],
  Neg: [["", operator("Neg", [A])]],
  Abs: [["", operator("Abs", [A], {}, positive)]],
  Exp: [["", operator("Exp", [A])]],
  Log: [["", operator("Log", [A], {}, positive)]],
  Sqrt: [["", operator("Sqrt", [A], {}, positive)]],
  Reciprocal: [["", operator("Reciprocal", [A], {}, positive)]],
  Sin: [["", operator("Sin", [A])]],
  Cos: [["", operator("Cos", [A])]],
  Tanh: [["", operator("Tanh", [A])]],
  Sigmoid: [["", operator("Sigmoid", [A])]],
  Erf: [["", operator("Erf", [A])]],
  Gelu: [
    ["by tanh", operator("Gelu", [A], { approximate: attr.string("tanh") }, { between: [-3, 3] })],
    ["as it is", operator("Gelu", [A], {}, { between: [-3, 3] })],
  ],
  "com.microsoft.FastGelu": [["", operator("FastGelu", [A], {}, { ...fused, between: [-3, 3] })]],
  Softmax: [
    ["along the last axis", operator("Softmax", [A])],
    ["along another", operator("Softmax", [A], axis(1))],
  ],
  LogSoftmax: [["", operator("LogSoftmax", [A])]],
  Cast: [
    [
      "to double precision",
      {
        inputs: { a: A },
        build: (builder) => {
          const wide = builder.add("Cast", "wide", ["a"], { to: attr.int(11) });
          return [builder.add("Cast", "y", [builder.add("Exp", "exp", [wide])], { to: attr.int(1) })];
        },
      },
    ],
  ],
  Identity: [["", operator("Identity", [A])]],
  SimplifiedLayerNormalization: [
    ["", operator("SimplifiedLayerNormalization", [A, [4]], { ...axis(-1), epsilon: attr.float(0.01) })],
  ],
  RMSNormalization: [["", operator("RMSNormalization", [A, [4]], axis(-1), { opset: 23 })]],
  ReduceSum: [
    ["of one axis", withIntegers("ReduceSum", A, [[1]], keep(0))],
    ["of two axes", withIntegers("ReduceSum", A, [[0, -1]], keep(1))],
    ["of all", operator("ReduceSum", [A], keep(0))],
  ],
  ReduceMean: [
    ["of one axis", withIntegers("ReduceMean", A, [[1]], keep(0))],
    ["of the last", withIntegers("ReduceMean", A, [[-1]], keep(1))],
  ],
  ReduceSumSquare: [["of one axis", withIntegers("ReduceSumSquare", A, [[1]], keep(0))]],
  MatMul: [
    [
      "of matrices",
      operator("MatMul", [
        [3, 4],
        [4, 2],
      ]),
    ],
    [
      "of stacks with one matrix",
      operator("MatMul", [
        [2, 3, 4],
        [4, 2],
      ]),
    ],
    [
      "of stacks",
      operator("MatMul", [
        [2, 1, 3, 4],
        [2, 4, 2],
      ]),
    ],
  ],
  "com.microsoft.FusedMatMul": [
    [
      "turning the right side",
      operator(
        "FusedMatMul",
        [
          [2, 3, 4],
          [2, 4],
        ],
        trans(0, 1),
        fused,
      ),
    ],
    [
      "turning the left one",
      operator(
        "FusedMatMul",
        [
          [2, 4, 3],
          [2, 4, 2],
        ],
        trans(1, 0, { alpha: attr.float(0.5) }),
        fused,
      ),
    ],
    [
      "turning both",
      operator(
        "FusedMatMul",
        [
          [4, 3],
          [2, 4],
        ],
        trans(1, 1),
        fused,
      ),
    ],
  ],
  Gemm: [
    [
      "",
      operator("Gemm", [
        [3, 4],
        [4, 2],
      ]),
    ],
    [
      "turning the right side",
      operator(
        "Gemm",
        [
          [3, 4],
          [2, 4],
        ],
        trans(0, 1),
      ),
    ],
    [
      "turning the left one",
      operator(
        "Gemm",
        [
          [4, 3],
          [4, 2],
        ],
        trans(1, 0),
      ),
    ],
    [
      "with all that it has",
      operator("Gemm", [[4, 3], [2, 4], [2]], trans(1, 1, { alpha: attr.float(0.5), beta: attr.float(-2) })),
    ],
  ],
  Reshape: [["", withIntegers("Reshape", A, [[0, -1]])]],
  Squeeze: [["", withIntegers("Squeeze", [2, 1, 3], [[1]])]],
  Unsqueeze: [["", withIntegers("Unsqueeze", A, [[1]])]],
  Flatten: [["", operator("Flatten", [A], axis(2))]],
  Expand: [["", withIntegers("Expand", [3, 1], [[2, 3, 4]])]],
  Transpose: [
    ["in an order that is not its own way back", operator("Transpose", [A], { perm: attr.ints([1, 2, 0]) })],
    ["without one", operator("Transpose", [A])],
  ],
  Concat: [["along the second axis", operator("Concat", [A, [2, 1, 4], [2, 2, 4]], axis(1))]],
  Split: [
    [
      "of which one part is used",
      {
        inputs: { a: A },
        build: (builder) => {
          const parts = builder.addMany(
            "Split",
            "split",
            ["a", builder.integers([1, 3])],
            ["l", "r"],
            axis(2),
          );
          return [builder.add("Exp", "y", [parts[1]!])];
        },
      },
    ],
  ],
  Slice: [["backwards, in steps", withIntegers("Slice", A, [[3], [-9], [2], [-2]])]],
  Gather: [["with repetition", withIntegers("Gather", A, [[0, 2, 0, -1]], axis(1))]],
  GatherElements: [
    [
      "",
      {
        inputs: { a: [3, 4] },
        build: (builder) => {
          const indices = builder.add("Reshape", "i", [
            builder.integers([0, 1, 1, 2]),
            builder.integers([1, 4]),
          ]);
          return [builder.add("GatherElements", "y", ["a", indices], axis(0))];
        },
      },
    ],
  ],
  GatherND: [
    [
      "of a batch",
      {
        inputs: { a: [2, 3, 4] },
        build: (builder) => {
          const rows = builder.add("Reshape", "i", [builder.integers([2, 0]), builder.integers([2, 1])]);
          return [builder.add("GatherND", "y", ["a", rows], { batch_dims: attr.int(1) })];
        },
      },
    ],
    [
      "with repetition",
      {
        inputs: { a: [3, 4] },
        build: (builder) => {
          const rows = builder.add("Reshape", "i", [builder.integers([2, 0, 2]), builder.integers([3, 1])]);
          return [builder.add("GatherND", "y", ["a", rows])];
        },
      },
    ],
  ],
  TopK: [
    [
      "",
      {
        inputs: { a: [3, 4] },
        build: (builder) => {
          const outputs = ["values", "places"];
          const [values] = builder.addMany("TopK", "top", ["a", builder.integers([2])], outputs, axis(1));
          return [builder.add("Mul", "y", [values!, values!])];
        },
      },
    ],
  ],
  "com.microsoft.RotaryEmbedding": [
    [
      "",
      {
        inputs: { a: [2, 3, 8], cosines: [3, 2], sines: [3, 2] },
        constant: ["cosines", "sines"],
        build: (builder) => {
          const rows = builder.add("Reshape", "rows", [
            builder.integers([0, 1, 2, 0, 1, 2]),
            builder.integers([2, 3]),
          ]);
          return [builder.addMicrosoft("RotaryEmbedding", "y", ["a", rows, "cosines", "sines"])];
        },
      },
    ],
  ],
  "com.microsoft.GroupQueryAttention": [
    ["of whole windows", attention({ past: 0 })],
    ["with a sliding window", attention({ past: 0, window: 2 })],
    ["with a past", attention({ past: 2, window: 4 })],
    ["with a bias", attention({ past: 2, bias: true })],
    ["over nothing but a past", attention({ past: 3, shared: true })],
    ["whose keys and values go on", attention({ past: 1, goesOn: true })],
  ],
};

interface AttentionOptions {
  readonly past: number;
  readonly window?: number;
  readonly bias?: boolean;
  /** Whether all keys are another layer's. */
  readonly shared?: boolean;
  readonly goesOn?: boolean;
}

/** Attention of 3 tokens with 4 heads of 8, of which two share keys. */
function attention({
  past,
  window = -1,
  bias = false,
  shared = false,
  goesOn = false,
}: AttentionOptions): Example {
  // The runtime takes several tokens behind a past in one row only.
  const rows = past > 0 && !shared ? 1 : 2;
  const [tokens, heads, kvHeads, size] = [3, 4, 2, 8];
  const own = [rows, shared ? 0 : tokens, kvHeads * size];
  const total = shared ? past : past + tokens;
  const older = [rows, kvHeads, past, size];
  return {
    inputs: {
      q: [rows, tokens, heads * size],
      ...(shared ? {} : { k: own, v: own }),
      ...(past > 0 ? { pastK: older, pastV: older } : {}),
      ...(bias ? { bias: [1, heads, tokens, total] } : {}),
    },
    constant: ["bias"],
    build: (builder) => {
      const empty = (name: string, dims: readonly number[]): string =>
        builder.add("Expand", name, [builder.number(0), builder.integers(dims)]);
      const last = builder.cast(
        "last",
        builder.integers(Array.from({ length: rows }, () => total - 1)),
        "INT32",
      );
      const inputs = [
        "q",
        shared ? empty("k", own) : "k",
        shared ? empty("v", own) : "v",
        past > 0 ? "pastK" : empty("pastK", older),
        past > 0 ? "pastV" : empty("pastV", older),
        last,
        builder.cast("total", builder.integer(total), "INT32"),
        ...(bias ? ["", "", "", "bias"] : []),
      ];
      const outputs = builder.addMany(
        "GroupQueryAttention",
        "attention",
        inputs,
        ["y", "presentK", "presentV"],
        {
          num_heads: attr.int(heads),
          kv_num_heads: attr.int(kvHeads),
          scale: attr.float(0.7),
          ...(window > 0 ? { local_window_size: attr.int(window) } : {}),
        },
        MICROSOFT,
      );
      return goesOn ? outputs : outputs.slice(0, 1);
    },
  };
}

describe("the gradient of each operator", () => {
  const all = Object.entries(examples).flatMap(([name, list]) =>
    list.map(([what, example]) => [`${name} ${what}`.trim(), example] as const),
  );

  it.each(all)("%s", async (_name, example) => {
    expect(await gradientError(example)).toBeLessThan(TOLERANCE);
  });

  it("is tested for every rule", () => {
    expect(Object.keys(examples).toSorted()).toEqual([...RULES.keys()].toSorted());
  });
});

describe("gradients through a graph", () => {
  it("are summed over all that reads a value, and stop at what is not smooth", async () => {
    const error = await gradientError({
      inputs: { a: [2, 3], w: [3, 3] },
      build: (builder) => {
        const product = builder.add("MatMul", "product", ["a", "w"]);
        const bounded = builder.add("Tanh", "bounded", [product]);
        const shape = builder.add("Shape", "shape", [product]);
        const flat = builder.add("Reshape", "flat", [builder.add("Mul", "mul", [bounded, product]), shape]);
        return [builder.add("Add", "y", [flat, "a"]), bounded];
      },
    });
    expect(error).toBeLessThan(TOLERANCE);
  });

  const chain = (opType: string, attributes: Attributes = {}): GraphBuilder => {
    const builder = new GraphBuilder();
    builder.add("Exp", "x", ["a"]);
    builder.add(opType, "y", ["x"], attributes);
    return builder;
  };
  const gradientsOf = (builder: GraphBuilder, wanted: readonly string[]) =>
    addGradients(builder, { nodes: [...builder.nodes], incoming: new Map([["y", "g"]]), wanted });

  it("are of inner values as well, and need nothing of what comes before them", () => {
    const builder = chain("Neg");
    const before = builder.nodes.length;
    expect([...gradientsOf(builder, ["x"]).keys()]).toEqual(["x"]);
    expect(builder.nodes.slice(before).map(({ opType }) => opType)).toEqual(["Neg"]);
  });

  it("name the operator and the node that they cannot go through", () => {
    expect(() => gradientsOf(chain("Einsum"), ["a"])).toThrow(
      new OnnxError("onnx-gradient", 'Einsum "y" has no rule for its gradient.'),
    );
    expect(() => gradientsOf(chain("Gelu", { approximate: attr.string("sigmoid") }), ["a"])).toThrow(
      'Gelu "y" has the approximation sigmoid, expected none or tanh.',
    );
  });

  it("do not overlook what a body reads", () => {
    const body = { node: chain("Neg").nodes.slice(1), initializer: [], input: [], output: [], valueInfo: [] };
    const builder = new GraphBuilder();
    builder.add("Exp", "x", ["a"]);
    builder.add("If", "y", ["condition"], { then_branch: attr.graph(body), else_branch: attr.graph(body) });
    expect(() => gradientsOf(builder, ["a"])).toThrow('If "y" has no rule');
  });

  it("refuse what no incoming gradient reaches", () => {
    expect(() => gradientsOf(chain("Shape"), ["a"])).toThrow(
      'the gradient of "a" is wanted, but nothing with an incoming gradient depends on it.',
    );
  });
});
