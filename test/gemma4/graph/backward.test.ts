import { join } from "node:path";
import { Tensor } from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { attr, valueInfo } from "../../../formats/onnx/build.js";
import { type GradientProbe, HEAD } from "../../../src/gemma4/graph/backward.js";
import { checkpointGradient, type CheckpointParts } from "../../../src/gemma4/graph/files.js";
import { STEP } from "../../../src/gemma4/graph/steps.js";
import { headWeight, listWeights, parameterCount } from "../../../src/gemma4/weights.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { forward } from "../../support/forward/forward.js";
import { linear, rmsNorm, rowOf, softmax } from "../../support/forward/math.js";
import { readTextModel, type TextModel, withWeights } from "../../support/forward/model.js";
import { goBack, run } from "../../support/gradients.js";
import { randomTokens, trainedSpread } from "../../support/text-models.js";
import { partsOf } from "../../support/walks.js";
import { randomFrom } from "../../support/weights.js";

const TOKENS = 12;
/** Less than the tokens, so that the sliding window hides some. */
const WINDOW = 5;
/** Small, as the plain forward pass runs some sixty times. */
const text = { sliding_window: WINDOW, intermediate_size: 96, head_dim: 16, global_head_dim: 32 };
/** Gradients of single precision against differences of double precision. */
const TOLERANCE = 1e-4;

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
  const gradients = new Map<string, Float64Array>();
  const listed = new Map(
    [...listWeights(parts.config), headWeight(parts.config)].map((each) => [each.name, each]),
  );
  for (const [name, tensor] of await goBack(parts, tokens, matrixGradients)) {
    const [weight = "", row] = name.split("@");
    const own = listed.get(weight)!;
    const whole = gradients.get(weight) ?? new Float64Array(parameterCount(own));
    whole.set(tensor.data as Float32Array, Number(row) * own.shape.at(-1)!);
    gradients.set(weight, whole);
  }
  return gradients;
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
  ["a mixture of experts", { kind: "moe" }],
  ["a dense one with k = v and an output matrix of its own", { kind: "dense", dtype: "F32", head: true }],
];

describe("gradients through the layers agree with differences of a plain forward pass on", () => {
  it.each(kinds)("%s", async (_name, options) => {
    const folder = join(scratchFolder(), "gradients");
    await makeCheckpoint(folder, { ...options, hidden: 64, spread: trainedSpread, text });
    const parts = await partsOf(folder);
    const tokens = randomTokens(TOKENS, 1);
    const model = await readTextModel(folder);
    const gradients = await gradientsOf(parts, tokens);
    const all = [...gradients.keys()];
    const groups = [
      ...new Set(all.map((name) => name.replace(/^layers\.\d+\./, ""))),
      ...parts.config.layers.map(({ index }) => `layers.${index}.`),
    ];
    const errors: [group: string, error: number][] = [];
    for (const group of groups) {
      const names = all.filter((name) => name.startsWith(group) || name.endsWith(group));
      const { slope, expected } = along(model, tokens, gradients, names);
      errors.push([group, Math.abs(slope / expected - 1)]);
    }
    expect(errors.filter(([, error]) => !(error < TOLERANCE))).toEqual([]);
  });
});

describe("labels", () => {
  const states = [0, 1, 2].map((seed) => randomFrom(seed));

  it("are drawn by the probabilities that the head gives", async () => {
    const parts = await partsOf(NANO);
    const { hidden, vocabulary, rmsEpsilon, softcap } = parts.config;
    const model = await readTextModel(NANO);
    const x = Float32Array.from(
      { length: states.length * hidden },
      (_, index) => 8 * (states[Math.floor(index / hidden)]!() - 0.5),
    );
    const draws = Float32Array.of(0, 0.4, 0.9999);
    const tensors = {
      [STEP.states]: new Tensor("float32", x, [1, 3, hidden]),
      [HEAD.draws]: new Tensor("float32", draws, [1, 3]),
    };
    const found = await run(await checkpointGradient(parts, "head", "drawn", () => []), tensors);
    const labels = Array.from(found[HEAD.drawn]!.data as BigInt64Array, Number);
    const rows = { rows: 3, columns: hidden, values: Float64Array.from(x) };
    const normed = rmsNorm(rows, model.weights.get("norm.weight")!, rmsEpsilon);
    const raw = linear(normed, model.weights.get("embed_tokens.weight")!);
    for (const [row, label] of labels.entries()) {
      const logits = rowOf(raw, row).map((value) => softcap! * Math.tanh(value / softcap!));
      const p = softmax(logits);
      const before = p.subarray(0, label).reduce((sum, value) => sum + value, 0);
      expect(before).toBeLessThanOrEqual(draws[row]! + 1e-6);
      expect(before + p[label]!).toBeGreaterThanOrEqual(draws[row]! - 1e-6);
    }
    expect(labels.every((label) => label < vocabulary)).toBe(true);
    expect(new Set(labels).size).toBe(3);
  });
});
