import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { attr, valueInfo } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../../src/gemma4/bind.js";
import { readConfig } from "../../../src/gemma4/config.js";
import { gradientOf, type GradientProbe, HEAD, laterGradientOf } from "../../../src/gemma4/graph/backward.js";
import {
  checkpointGradient,
  type CheckpointParts,
  checkpointStep,
  type StepGraph,
} from "../../../src/gemma4/graph/files.js";
import { isShared, sharedNames, sourceLayer, STEP } from "../../../src/gemma4/graph/steps.js";
import type { Weight } from "../../../src/gemma4/types.js";
import { type CheckpointOptions, makeCheckpoint } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { forward } from "../../support/forward/forward.js";
import { readTextModel, type TextModel, withWeights } from "../../support/forward/model.js";
import { randomTokens, trainedSpread } from "../../support/text-models.js";
import { randomFrom } from "../../support/weights.js";

const TOKENS = 12;
/** Less than the tokens, so that the sliding window hides some. */
const WINDOW = 5;
/** Small, as the plain forward pass runs some sixty times. */
const text = { sliding_window: WINDOW, intermediate_size: 96, head_dim: 16, global_head_dim: 32 };
/** Gradients of single precision against differences of double precision. */
const TOLERANCE = 1e-4;

type Values = Record<string, Tensor>;

async function run({ model, folder }: StepGraph, feeds: Values): Promise<Values> {
  const session = await InferenceSession.create(await encodeModel(model), {
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
    extra: { session: { model_external_initializers_file_folder_path: folder } },
  });
  const wanted = session.inputNames.map((name) => [name, feeds[name]!]);
  const found = await session.run(Object.fromEntries(wanted) as Values);
  await session.release();
  return found;
}

/** Gives Σ g · xᵀ, which is the gradient of the matrix, under the name of the weight and its first row. */
const matrixGradients: GradientProbe = (builder, { weight, rows, x, gradient }) => {
  const [out, columns] = [rows?.count ?? weight.shape.at(-2)!, weight.shape.at(-1)!];
  const flat = (name: string, value: string, width: number): string =>
    builder.add("Reshape", `${weight.name}.${name}`, [value, builder.integers([-1, width])]);
  const name = `${weight.name}@${rows?.first ?? 0}`;
  const product = [flat("g", gradient, out), flat("x", x, columns)];
  return [valueInfo(builder.add("Gemm", name, product, { transA: attr.int(1) }), "FLOAT", [out, columns])];
};

/** Gradients of all matrices of −Σ log p(token) over all tokens but the first. */
async function gradientsOf(parts: CheckpointParts, tokens: Int32Array): Promise<Map<string, Float64Array>> {
  const { config } = parts;
  const ids = new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
  const first = await run(await checkpointStep(parts, "embedding", null, new Map()), { [STEP.ids]: ids });
  const states: Tensor[] = [first[STEP.next]!];
  const shared: Values = {};
  for (const layer of config.layers) {
    const step = await checkpointStep(parts, layer, null, new Map());
    const found = await run(step, { [STEP.ids]: ids, [STEP.states]: states.at(-1)!, ...shared });
    states.push(found[STEP.next]!);
    if (isShared(config, layer)) {
      for (const name of Object.values(sharedNames(layer))) shared[name] = found[name]!;
    }
  }
  const gradients = new Map<string, Float64Array>();
  const note = (found: Values): void => {
    for (const [name, tensor] of Object.entries(found)) {
      const [weight = "", row] = name.split("@");
      if (row === undefined) continue;
      const own = parts.weights.find((each) => each.weight.name === weight)?.weight ?? headOf(parts);
      const whole = gradients.get(weight) ?? new Float64Array(own.shape.reduce((a, b) => a * b, 1));
      whole.set(tensor.data as Float32Array, Number(row) * own.shape.at(-1)!);
      gradients.set(weight, whole);
    }
  };
  const { hidden } = config;
  const count = tokens.length - 1;
  const scored = new Tensor("float32", (states.pop()!.data as Float32Array).slice(0, count * hidden), [
    1,
    count,
    hidden,
  ]);
  const labels = new Tensor("int64", BigInt64Array.from(tokens.subarray(1), BigInt), [1, count]);
  const head = await run(await checkpointGradient(parts, "head", "given", matrixGradients), {
    [STEP.states]: scored,
    [HEAD.labels]: labels,
  });
  note(head);
  const whole = new Float32Array(tokens.length * hidden);
  whole.set(head[gradientOf(STEP.states)]!.data as Float32Array);
  let later = new Tensor("float32", whole, [1, tokens.length, hidden]);
  const ofShared: Values = {};
  for (const [name, { dims }] of Object.entries(shared)) {
    const size = dims.reduce((a, b) => a * b, 1);
    ofShared[laterGradientOf(name)] = new Tensor("float32", new Float32Array(size), dims);
  }
  for (const layer of config.layers.toReversed()) {
    const found = await run(await checkpointGradient(parts, layer, "given", matrixGradients), {
      [STEP.ids]: ids,
      [STEP.states]: states.pop()!,
      [laterGradientOf(STEP.next)]: later,
      ...shared,
      ...ofShared,
    });
    note(found);
    later = found[gradientOf(STEP.states)]! as typeof later;
    const source = sourceLayer(config, layer);
    if (source === null) continue;
    for (const name of Object.values(sharedNames(source))) {
      ofShared[laterGradientOf(name)] = found[gradientOf(name)]!;
    }
  }
  return gradients;
}

function headOf({ weights }: CheckpointParts): Weight {
  return weights.find(({ weight }) => weight.role === "embedding")!.weight;
}

/** −Σ log p(token) over all tokens but the first. */
function loss(model: TextModel, tokens: Int32Array): number {
  const logits = forward(model, tokens);
  const { vocabulary } = model.config;
  let sum = 0;
  for (let at = 0; at + 1 < tokens.length; at++) {
    const row = logits.subarray(at * vocabulary, (at + 1) * vocabulary);
    const most = row.reduce((a, b) => Math.max(a, b));
    const whole = row.reduce((total, value) => total + Math.exp(value - most), 0);
    sum += most + Math.log(whole) - row[tokens[at + 1]!]!;
  }
  return sum;
}

interface Direction {
  readonly slope: number;
  readonly expected: number;
}

/** The slope of the loss in a random direction of some weights, by gradients and by differences. */
function along(
  model: TextModel,
  tokens: Int32Array,
  gradients: ReadonlyMap<string, Float64Array>,
  names: readonly string[],
): Direction {
  const random = randomFrom(names.length);
  let slope = 0;
  const directions = new Map<string, Float64Array>();
  for (const name of names) {
    const gradient = gradients.get(name)!;
    const direction = gradient.map(() => random() - 0.5);
    // Along the gradient, too: a direction that is merely random shows little of it.
    const size = Math.hypot(...gradient.subarray(0, 4096)) || 1;
    for (const [index, value] of gradient.entries()) direction[index]! += value / size;
    for (const [index, value] of gradient.entries()) slope += value * direction[index]!;
    directions.set(name, direction);
  }
  const at = (step: number): number => {
    const moved = [...directions].map(([name, direction]) => {
      const values = model.weights.get(name) ?? model.weights.get("embed_tokens.weight")!;
      const all = new Float64Array(values);
      return [name, all.map((value, index) => value + step * direction[index]!)] as const;
    });
    return loss(withWeights(model, new Map(moved)), tokens);
  };
  const step = 1e-5;
  return { slope, expected: (at(step) - at(-step)) / (2 * step) };
}

const kinds: readonly (readonly [string, CheckpointOptions])[] = [
  ["an E-like checkpoint, with shared keys and wide MLPs", { kind: "e", layers: 6, shards: 2 }],
  ["a dense one with k = v and an output matrix of its own", { kind: "dense", dtype: "F32", head: true }],
];

describe("gradients through the layers agree with differences of a plain forward pass on", () => {
  it.each(kinds)("%s", async (_name, options) => {
    const folder = join(scratchFolder(), "gradients");
    await makeCheckpoint(folder, { ...options, hidden: 64, spread: trainedSpread, text });
    const config = await readConfig(folder);
    const checkpoint = await openCheckpoint(folder);
    const { weights } = bindCheckpoint(config, checkpoint);
    const parts = { config, weights, shards: checkpoint.shards, placeholders: [], padding: 0 };
    const tokens = randomTokens(TOKENS, 1);
    const model = await readTextModel(folder);
    const gradients = await gradientsOf(parts, tokens);
    const all = [...gradients.keys()];
    const groups = [
      ...new Set(all.map((name) => name.replace(/^layers\.\d+\./, ""))),
      ...config.layers.map(({ index }) => `layers.${index}.`),
    ];
    for (const group of groups) {
      const names = all.filter((name) => name.startsWith(group) || name.endsWith(group));
      const { slope, expected } = along(model, tokens, gradients, names);
      expect(Math.abs(slope / expected - 1), group).toBeLessThan(TOLERANCE);
    }
  });
});
