import { readFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { beforeAll, describe, expect, it } from "vitest";
import { makeCheckpoint, type CheckpointOptions } from "../support/checkpoints.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { forward } from "../support/forward/forward.js";
import { readTextModel, type TextModel, withWeights } from "../support/forward/model.js";
import { type Caches, loadOnnx, step } from "../support/onnx-model.js";
import { exportPackage, graphPaths, nanoPackage, storedModel } from "../support/packages.js";
import { randomTokens, relativeError, trainedSpread } from "../support/text-models.js";

/** Of single precision; 2e-6 is what it costs. */
const SINGLE = 1e-4;
/** Of matrices and activations in halves. */
const HALF = 1e-2;

/** A little longer than the miniature's window of 64; a plain pass over them takes most of a second. */
const PAST_WINDOW = randomTokens(70, 3);
const TOKENS = PAST_WINDOW.subarray(0, 28);

let nano: TextModel;
let folder = "";

beforeAll(async () => {
  nano = await readTextModel(nanoCheckpoint);
  folder = await nanoPackage();
});

async function load(from: string, dtype: Parameters<typeof graphPaths>[1]) {
  const { embed, decoder } = graphPaths(from, dtype);
  return loadOnnx(embed, decoder);
}

describe("logits of the miniature's package", () => {
  it.each([
    ["fp32", SINGLE, PAST_WINDOW],
    ["q8", SINGLE, TOKENS],
    ["q4", SINGLE, TOKENS],
    ["q2", SINGLE, TOKENS],
    ["fp16", HALF, TOKENS],
    ["q4f16", HALF, TOKENS],
    ["q2f16", HALF, TOKENS],
  ] as const)(
    "in %s are those of a plain forward pass with the stored weights",
    async (dtype, tolerance, tokens) => {
      const stored = withWeights(nano, await storedModel(folder, dtype));
      const expected = forward(stored, tokens);
      const { logits } = await step(await load(folder, dtype), [tokens]);
      expect(relativeError(logits, expected)).toBeLessThan(tolerance);
    },
  );

  it.each(["fp32", "q8", "q4", "q2", "q4f16"] as const)(
    "in %s go on past four windows, token by token, as in one pass",
    async (dtype) => {
      const model = await load(folder, dtype);
      const long = randomTokens(4 * 64 + 12, 5);
      const whole = await step(model, [long], { keep: 12 });
      let { caches }: { caches: Caches } = await step(model, [long.subarray(0, 4 * 64)], { keep: 1 });
      const rows: number[] = [];
      for (const token of long.subarray(4 * 64)) {
        const next = await step(model, [[token]], { caches });
        rows.push(...next.logits);
        ({ caches } = next);
      }
      expect(relativeError(rows, whole.logits)).toBeLessThan(dtype === "q4f16" ? HALF : 1e-5);
    },
  );
});

describe("logits of a random package of", () => {
  const kinds: readonly (readonly [string, CheckpointOptions])[] = [
    ["a dense model with k = v", { kind: "dense" }],
    ["a mixture of experts", { kind: "moe" }],
  ];
  it.each(kinds)("%s are those of a plain forward pass with the stored weights", async (_what, options) => {
    const source = join(scratchFolder(), "random-it");
    await makeCheckpoint(source, { ...options, spread: trainedSpread });
    const plain = await readTextModel(source);
    const out = scratchFolder();
    await exportPackage({ source, out, dtypes: ["q4", "fp32"], method: "nearest" });
    const tokens = randomTokens(12, 7);
    for (const dtype of ["q4", "fp32"] as const) {
      const expected = forward(withWeights(plain, await storedModel(out, dtype)), tokens);
      const model = await load(out, dtype);
      const { logits, caches } = await step(model, [tokens.subarray(0, 9)]);
      expect(relativeError(logits, expected.subarray(0, logits.length))).toBeLessThan(SINGLE);
      const rest = await step(model, [tokens.subarray(9)], { caches });
      expect(relativeError(rest.logits, expected.subarray(logits.length))).toBeLessThan(SINGLE);
    }
  });
});

interface GenaiConfig {
  readonly model: {
    readonly vocab_size: number;
    readonly eos_token_id: unknown;
    readonly decoder: {
      readonly filename: string;
      readonly num_hidden_layers: number;
      readonly head_size: number;
      readonly num_key_value_heads: number;
      readonly inputs: Readonly<Record<string, string>>;
      readonly outputs: Readonly<Record<string, string>>;
    };
  };
}

describe("a package for onnxruntime-genai", () => {
  const int64 = (values: readonly number[]): Tensor =>
    new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

  it.each(["q4", "q2f16"] as const)("in %s is one graph with the names of its settings", async (dtype) => {
    const out = scratchFolder();
    await exportPackage({ out, layout: "genai", dtypes: [dtype] });
    const { model } = JSON.parse(readFileSync(join(out, "genai_config.json"), "utf8")) as GenaiConfig;
    const { decoder } = model;
    const session = await InferenceSession.create(join(out, decoder.filename), { logSeverityLevel: 3 });

    // Layers that have caches of their own.
    const { config } = nano;
    const layers = config.layers.filter(({ sharesKv }) => !sharesKv);
    const named = (names: Readonly<Record<string, string>>): string[] =>
      Object.values(names).flatMap((name) =>
        name.includes("%d") ? layers.map(({ index }) => name.replace("%d", String(index))) : [name],
      );
    expect(named(decoder.inputs).toSorted()).toEqual(session.inputNames.toSorted());
    expect(named(decoder.outputs).toSorted()).toEqual(session.outputNames.toSorted());
    expect(decoder).toMatchObject({
      num_hidden_layers: config.layers.length,
      head_size: 64,
      num_key_value_heads: 1,
    });
    expect(model).toMatchObject({ vocab_size: 1024, eos_token_id: [1, 6] });

    // The runtime reads head count and head size of each layer here.
    const feeds: Record<string, Tensor> = {};
    for (const { index, kvHeads, headDim } of layers) {
      for (const part of ["key", "value"]) {
        const name = `past_key_values.${index}.${part}`;
        const input = session.inputMetadata.find((each) => each.name === name);
        expect(input).toMatchObject({
          shape: ["batch_size", kvHeads, "past_sequence_length", headDim],
          type: dtype === "q4" ? "float32" : "float16",
        });
        const data = dtype === "q4" ? new Float32Array(0) : (new Uint16Array(0) as unknown as Float32Array);
        const type = dtype === "q4" ? "float32" : ("float16" as "float32");
        feeds[name] = new Tensor(type, data, [1, kvHeads, 0, headDim]);
      }
    }
    const tokens = [...TOKENS];
    const result = await session.run({
      ...feeds,
      input_ids: int64(tokens),
      attention_mask: int64(tokens.map(() => 1)),
      position_ids: int64([...tokens.keys()]),
    });
    const { logits } = await step(await load(folder, dtype), [tokens]);
    expect(relativeError(result["logits"]!.data as Float32Array, logits)).toBeLessThan(
      dtype === "q4" ? 1e-5 : HALF,
    );
  });
});
