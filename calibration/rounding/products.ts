import { attr, graph, inlineTensor, model, node, valueInfo } from "../../formats/onnx/build.js";
import { encodeModel } from "../../formats/onnx/codec.js";
import type { NodeProto } from "../../formats/onnx/types.js";
import { Gate } from "../../src/engines/onnx/gate.js";
import type { Runtime, RuntimeTensor } from "../../src/engines/onnx/runtime.js";
import { Session } from "../../src/engines/onnx/session.js";

/** All graphs are of operators that have not changed for years. */
const OPSET = 21;

/** Threads that wait would spin, and take the cores from those that round meanwhile: 15 times as slow on two cores. */
const SETTINGS = { "session.intra_op.allow_spinning": "0" } as const;

const AXES = inlineTensor("axes", "INT64", [2], new Uint8Array(new BigInt64Array([0n, 1n]).buffer));

/** Rows and columns from `starts` up to `ends` of a matrix. */
function sliced(matrix: string, starts: string, ends: string, output: string): NodeProto {
  return node("Slice", { inputs: [matrix, starts, ends, "axes"], outputs: [output] });
}

function matrixInput(name: string): ReturnType<typeof valueInfo> {
  return valueInfo(name, "FLOAT", [`${name}_rows`, `${name}_columns`]);
}

function place(name: string): ReturnType<typeof valueInfo> {
  return valueInfo(name, "INT64", [2]);
}

const OUTPUT = valueInfo("product", "FLOAT", ["rows", "columns"]);

/** a[from, to]·diag(weights[from[1], to[1]])·a[otherFrom, to]ᵀ of one matrix: what a panel's later columns give. */
const laterColumns = graph(
  "later-columns",
  [
    sliced("a", "from", "to", "rows_above"),
    sliced("a", "own_from", "own_to", "own_rows"),
    sliced("weights", "weights_from", "weights_to", "some_weights"),
    node("Mul", { inputs: ["own_rows", "some_weights"], outputs: ["weighted"] }),
    node("Gemm", {
      inputs: ["rows_above", "weighted"],
      outputs: ["product"],
      attributes: { transB: attr.int(1) },
    }),
  ],
  {
    inputs: [
      matrixInput("a"),
      matrixInput("weights"),
      ...["from", "to", "own_from", "own_to", "weights_from", "weights_to"].map((name) => place(name)),
    ],
    outputs: [OUTPUT],
    initializers: [AXES],
  },
);

/** a[from, to]·b */
const partTimes = graph(
  "part-times",
  [sliced("a", "from", "to", "part"), node("MatMul", { inputs: ["part", "b"], outputs: ["product"] })],
  {
    inputs: [matrixInput("a"), matrixInput("b"), place("from"), place("to")],
    outputs: [OUTPUT],
    initializers: [AXES],
  },
);

/** aᵀ·b */
const transposedTimes = graph(
  "transposed-times",
  [node("Gemm", { inputs: ["a", "b"], outputs: ["product"], attributes: { transA: attr.int(1) } })],
  { inputs: [matrixInput("a"), matrixInput("b")], outputs: [OUTPUT] },
);

/** A matrix of floats, row by row. Its memory must not be shared: the runtime refuses such. */
export interface Floats {
  readonly values: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** Rows and columns of a matrix, the ends excluded. */
export interface Part {
  readonly rows: readonly [number, number];
  readonly columns: readonly [number, number];
}

/** Products of matrices by ONNX Runtime, which blocks the thread that asks for them. */
export class Products {
  readonly #runtime: Runtime;
  readonly #sessions: readonly [later: Session, part: Session, transposed: Session];

  private constructor(runtime: Runtime, sessions: readonly [Session, Session, Session]) {
    this.#runtime = runtime;
    this.#sessions = sessions;
  }

  /** `release` has to be called. */
  static async open(runtime: Runtime, threads: number, gate = new Gate()): Promise<Products> {
    const open = async (each: typeof partTimes): Promise<Session> =>
      Session.open(runtime, gate, {
        model: await encodeModel(model(each, { opset: OPSET })),
        name: each.name ?? "product",
        threads,
        settings: SETTINGS,
      });
    const later = await open(laterColumns);
    const part = await open(partTimes);
    return new Products(runtime, [later, part, await open(transposedTimes)]);
  }

  /** a[:end, end:]·diag(weights[end:])·a[start:end, end:]ᵀ, [end, end − start]. */
  async later(a: Floats, weights: Float32Array, start: number, end: number): Promise<Float32Array> {
    const n = a.columns;
    return this.#run(this.#sessions[0], {
      a: this.#floats(a),
      weights: this.#floats({ values: weights, rows: 1, columns: n }),
      from: this.#place(0, end),
      to: this.#place(end, n),
      own_from: this.#place(start, end),
      own_to: this.#place(end, n),
      weights_from: this.#place(0, end),
      weights_to: this.#place(1, n),
    });
  }

  /** The product of a part of one matrix with another one. */
  async times(a: Floats, { rows, columns }: Part, b: Floats): Promise<Float32Array> {
    return this.#run(this.#sessions[1], {
      a: this.#floats(a),
      b: this.#floats(b),
      from: this.#place(rows[0], columns[0]),
      to: this.#place(rows[1], columns[1]),
    });
  }

  /** aᵀ·b */
  async transposed(a: Floats, b: Floats): Promise<Float32Array> {
    return this.#run(this.#sessions[2], { a: this.#floats(a), b: this.#floats(b) });
  }

  async release(): Promise<void> {
    for (const session of this.#sessions) await session.release();
  }

  #floats({ values, rows, columns }: Floats): RuntimeTensor {
    return new this.#runtime.Tensor("float32", values, [rows, columns]);
  }

  #place(row: number, column: number): RuntimeTensor {
    return new this.#runtime.Tensor("int64", new BigInt64Array([BigInt(row), BigInt(column)]), [2]);
  }

  async #run(session: Session, feeds: Readonly<Record<string, RuntimeTensor>>): Promise<Float32Array> {
    const { product } = await session.run(feeds, ["product"]);
    return product!.data as unknown as Float32Array;
  }
}
