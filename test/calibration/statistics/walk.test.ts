import { mkdtemp, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type InputStatistics, type WalkOptions, walkLayers } from "../../../calibration/statistics/walk.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { readTextModel, type TextModel, withWeights } from "../../support/forward/model.js";
import { plainStatistics, readRows } from "../../support/statistics.js";
import { randomTokens, relativeError, trainedSpread } from "../../support/text-models.js";
import { compareAll, crossed, inputOf, momentsIn, walkOptions, walkThrough } from "../../support/walks.js";

/** Of sums of what single precision has computed, against double precision: 3e-6 on random weights. */
const TOLERANCE = 1e-5;

/** More than the sliding window of 64, and not all of one length. */
const windows = [randomTokens(70, 1), randomTokens(70, 2), randomTokens(33, 3)];
const short = windows.map((window) => window.slice(0, 20));

let engine: OnnxEngine;
beforeAll(async () => {
  engine = await startOnnxEngine();
});
afterAll(async () => {
  await engine.close();
});

async function random(options: CheckpointOptions): Promise<string> {
  const folder = join(scratchFolder(), "random-it");
  await makeCheckpoint(folder, { ...options, spread: trainedSpread });
  return folder;
}

describe("sums agree with a plain forward pass on", () => {
  const kinds: readonly (readonly [string, CheckpointOptions | null])[] = [
    ["nano-e", null],
    ["an E-like checkpoint", { kind: "e", dtype: "F16", layers: 6, shards: 2 }],
    ["a dense one with k = v and an output matrix of its own", { kind: "dense", dtype: "F32", head: true }],
    ["a mixture of experts", { kind: "moe" }],
  ];
  it.each(kinds)("%s", async (_name, options) => {
    const folder = options === null ? NANO : await random(options);
    const expected = plainStatistics(await readTextModel(folder), windows, false);
    const steps = await walkThrough(await walkOptions(engine, folder, windows));
    for (const { what, found, expected: plain } of compareAll(steps, expected)) {
      expect(relativeError(found, plain), what).toBeLessThan(TOLERANCE);
    }
    const weights = steps.flatMap(({ statistics }) => statistics.flatMap((input) => input.weights));
    const known = weights.map((name) => (expected.has(name) ? name : "embed_tokens.weight"));
    expect(known.toSorted()).toEqual([...expected.keys()].toSorted());
    const [first] = steps;
    const ids = windows.flatMap((window) => [...window]);
    for (const { counts } of first!.frequencies) {
      expect(counts[2]).toBe(windows.length);
      expect(counts[ids[7]!]).toBe(ids.filter((id) => id === ids[7]).length);
    }
  });
});

describe("moments", () => {
  it("agree with a plain forward pass, of experts too", async () => {
    const folder = await random({ kind: "moe", text: { intermediate_size: 512, num_attention_heads: 2 } });
    const expected = plainStatistics(await readTextModel(folder), short, true);
    const options = await walkOptions(engine, folder, short);
    const steps = await walkThrough({ ...options, moments: { memory: 2 ** 28 } });
    const compared = compareAll(steps, expected);
    for (const { what, found, expected: plain } of compared) {
      expect(relativeError(found, plain), what).toBeLessThan(TOLERANCE);
    }
    // q, k, v, o, gate, up, down and router of both layers, but for the value of the full one, and the output matrix.
    expect(compared.filter(({ what }) => /^[^ ]*: moments$/.test(what))).toHaveLength(16);
    expect(compared.filter(({ what }) => /experts.down.* of expert .: moments$/.test(what)).length).toBe(
      [0, 1].reduce((sum, layer) => sum + expected.get(`layers.${layer}.experts.down_proj`)!.experts.size, 0),
    );
  });

  it("are zeros of an expert that no token chose", async () => {
    const folder = await random({ kind: "moe", text: { num_experts: 32 } });
    const options = await walkOptions(engine, folder, [randomTokens(4, 5)]);
    const steps = await walkThrough({ ...options, moments: { memory: 2 ** 30 } });
    const { experts } = inputOf(steps, "layers.0.experts.down");
    const starved = experts!.tokens.indexOf(0);
    expect(experts!.tokens.reduce((sum, tokens) => sum + tokens, 0)).toBe(8);
    expect(experts!.moments![starved]!.tokens).toBe(0);
    expect(experts!.moments![starved]!.values.every((value) => value === 0)).toBe(true);
  });

  it("are blocks on the diagonal where memory ends, and of some rows of wide inputs", async () => {
    const folder = await random({ kind: "dense" });
    const model = await readTextModel(folder);
    const down = "layers.0.mlp.down_proj.weight";
    const options = await walkOptions(engine, folder, short);
    const steps = await walkThrough({
      ...options,
      moments: {
        // Room for blocks of 256 of its 1024 columns, which cost three times as much as 292 columns whole.
        memory: 1024 * 256 * 4 * 3,
        fullColumns: 296,
        wanted: (weights) => weights.some(({ name }) => name === down),
      },
    });
    const inputs = steps.flatMap(({ statistics }) => statistics);
    expect(inputs.filter((each) => each.moments !== null)).toHaveLength(1);
    const { moments, tokens } = inputOf(steps, "layers.0.mlp.down");
    expect(tokens).toBe(60);
    expect(moments).toMatchObject({ columns: 1024, blockWidth: 256, tokens: 20 });
    const rows = readRows(model, short, [down]).get(down)!;
    const taken = rows.filter((_, row) => row % 3 === 0);
    expect(relativeError(moments!.values, momentsIn(crossed(taken, taken), moments!))).toBeLessThan(
      TOLERANCE,
    );
  });
});

/** Values of a weight, each rounded to a multiple of a step. */
function rounded(model: TextModel, name: string): Float32Array {
  const step = 2 ** -6;
  return Float32Array.from(model.weights.get(name)!, (value) => Math.round(value / step) * step);
}

describe("the sequential order", () => {
  const names = {
    table: "embed_tokens_per_layer.weight",
    projection: "per_layer_model_projection.weight",
    key: "layers.1.self_attn.k_proj.weight",
    down: "layers.1.mlp.down_proj.weight",
  };

  it.each([2 ** 30, 0])("reads what replaced weights give, with %d bytes for states", async (stateMemory) => {
    const model = await readTextModel(NANO);
    const replacements = new Map(Object.values(names).map((name) => [name, rounded(model, name)]));
    const last = `layers.${model.config.layers.length - 1}.per_layer_input_gate.weight`;
    const [plain, other] = [model, withWeights(model, replacements)].map((each) =>
      readRows(each, windows, [last]).get(last)!,
    ) as [Float64Array[], Float64Array[]];
    const values = await mkdtemp(join(scratchFolder(), "values-"));
    const path = join(values, "down.f32");
    await writeFile(path, replacements.get(names.down)!);
    const options: WalkOptions = {
      ...(await walkOptions(engine, NANO, windows)),
      order: "sequential",
      moments: { memory: 2 ** 28, wanted: (weights) => weights[0]!.name === last },
      cross: true,
      stateMemory,
    };
    let found: InputStatistics | undefined;
    for await (const step of walkLayers(options)) {
      if (step.kind === "embedding") {
        step.replace(new Map([names.table, names.projection].map((name) => [name, replacements.get(name)!])));
      }
      if (step.layer === 1) {
        step.replace(new Map([[names.key, replacements.get(names.key)!]]));
        step.replace(new Map([[names.down, { path }]]));
      }
      found ??= step.statistics.find(({ weights }) => weights[0] === last);
    }
    expect(relativeError(found!.moments!.values, crossed(other, other))).toBeLessThan(TOLERANCE);
    expect(relativeError(found!.cross!.values, crossed(plain, other))).toBeLessThan(TOLERANCE);
    // They do differ.
    expect(relativeError(found!.moments!.values, crossed(plain, plain))).toBeGreaterThan(100 * TOLERANCE);
    expect(await readdir(options.scratch)).toEqual([]);
    expect(await readdir(values)).toEqual(["down.f32"]);
  });
});
