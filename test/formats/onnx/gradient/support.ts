import { InferenceSession, Tensor } from "onnxruntime-node";
import { graph, model, valueInfo } from "../../../../formats/onnx/build.js";
import { encodeModel } from "../../../../formats/onnx/codec.js";
import { addGradients } from "../../../../formats/onnx/gradient/gradient.js";
import { GraphBuilder } from "../../../../src/gemma4/graph/builder.js";

/** A function of some inputs, as nodes. */
export interface Example {
  /** By name, the dimensions of each input. */
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  /** Adds the nodes, and gives the values that the loss is made of. */
  readonly build: (builder: GraphBuilder) => readonly string[];
  /** Inputs that no gradient is wanted of. */
  readonly constant?: readonly string[];
  /** Where the values of inputs come from: −1 to 1 when left out. */
  readonly between?: readonly [least: number, most: number];
  readonly opset?: number;
}

/** Numbers from 0 to 1, the same on every run. */
export function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const count = (dims: readonly number[]): number => dims.reduce((product, size) => product * size, 1);

type Values = Record<string, Float32Array>;

async function open(
  builder: GraphBuilder,
  inputs: Example["inputs"],
  outputs: readonly string[],
  opset: number,
): Promise<InferenceSession> {
  const whole = graph("example", builder.nodes, {
    // Sizes are not told: the runtime believes that attention gives as many keys as it has of the past.
    inputs: Object.entries(inputs).map(([name, dims]) =>
      valueInfo(
        name,
        "FLOAT",
        dims.map((_, index) => `${name}.${index}`),
      ),
    ),
    outputs: outputs.map((name) => valueInfo(name, "FLOAT")),
    initializers: builder.constants,
  });
  const bytes = await encodeModel(model(whole, { opset, domains: { "com.microsoft": 1 } }));
  return InferenceSession.create(bytes, { logSeverityLevel: 3, intraOpNumThreads: 1 });
}

async function run(
  session: InferenceSession,
  dims: Example["inputs"],
  values: Values,
): Promise<Record<string, Tensor>> {
  const feeds = Object.entries(dims).map(([name, shape]) => [
    name,
    new Tensor("float32", values[name]!, [...shape]),
  ]);
  return session.run(Object.fromEntries(feeds) as Record<string, Tensor>);
}

/**
 * The largest difference between the gradients of Σ c ⊙ y and differences of its values at four places around each
 * input value, relative to the largest gradient of the same input.
 */
export async function gradientError(example: Example): Promise<number> {
  const { inputs, build, constant = [], between = [-1, 1], opset = 21 } = example;
  const random = uniform(7);
  const [least, most] = between;
  const values: Values = {};
  for (const [name, dims] of Object.entries(inputs)) {
    values[name] = Float32Array.from({ length: count(dims) }, () => least + (most - least) * random());
  }
  const plain = new GraphBuilder();
  const outputs = build(plain);
  const forward = await open(plain, inputs, outputs, opset);
  const first = await run(forward, inputs, values);
  const factors: Values = {};
  const factorDims: Record<string, readonly number[]> = {};
  for (const name of outputs) {
    factorDims[`c.${name}`] = first[name]!.dims;
    factors[`c.${name}`] = Float32Array.from(first[name]!.data as Float32Array, () => 2 * random() - 1);
  }
  const loss = async (): Promise<number> => {
    const found = await run(forward, inputs, values);
    let sum = 0;
    for (const name of outputs) {
      const y = found[name]!.data as Float32Array;
      for (const [index, value] of y.entries()) sum += value * factors[`c.${name}`]![index]!;
    }
    return sum;
  };
  const builder = new GraphBuilder();
  build(builder);
  const wanted = Object.keys(inputs).filter((name) => !constant.includes(name));
  const gradients = addGradients(builder, {
    nodes: [...builder.nodes],
    incoming: new Map(outputs.map((name) => [name, `c.${name}`])),
    wanted,
  });
  const allDims = { ...inputs, ...factorDims };
  const backward = await open(builder, allDims, [...gradients.values()], opset);
  const found = await run(backward, allDims, { ...values, ...factors });
  let worst = 0;
  for (const name of wanted) {
    const gradient = found[gradients.get(name)!]!;
    if (gradient.dims.join() !== inputs[name]!.join()) return Infinity;
    const differences = await differencesOf(values[name]!, loss);
    const scale = Math.max(...differences.map(Math.abs), 1e-3);
    for (const [index, value] of (gradient.data as Float32Array).entries()) {
      worst = Math.max(worst, Math.abs(value - differences[index]!) / scale);
    }
  }
  return worst;
}

/** The step: single precision gives 7 digits of the values, and the error of the differences goes with its power of 4. */
const STEP = 0.02;

async function differencesOf(values: Float32Array, loss: () => Promise<number>): Promise<number[]> {
  const result: number[] = [];
  for (const [index, before] of values.entries()) {
    const at = async (offset: number): Promise<number> => {
      values[index] = before + offset;
      return loss();
    };
    const near = (await at(STEP)) - (await at(-STEP));
    const far = (await at(2 * STEP)) - (await at(-2 * STEP));
    values[index] = before;
    result.push((8 * near - far) / (12 * STEP));
  }
  return result;
}
