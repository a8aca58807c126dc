import { mkdtemp, readdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type InputStatistics,
  type LayerStep,
  type StepStatistics,
  type WalkOptions,
  type WalkProgress,
  walkLayers,
} from "../../../calibration/statistics/walk.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { readTextModel, type TextModel, withWeights } from "../../support/forward/model.js";
import { plainStatistics, readRows } from "../../support/statistics.js";
import { randomTokens, relativeError, trainedSpread } from "../../support/text-models.js";
import {
  compareAll,
  type Comparison,
  crossed,
  inputOf,
  momentsIn,
  walkOptions,
  walkThrough,
} from "../../support/walks.js";

/** Of sums of what single precision has computed, against double precision: 3e-6 on random weights. */
const TOLERANCE = 1e-5;

/** More than the sliding window of 16 that random checkpoints get, and not all of one length. */
const windows = [randomTokens(22, 1), randomTokens(22, 2), randomTokens(11, 3)];
/** The same for nano-e, which has one of 64. */
const long = [randomTokens(70, 4), randomTokens(20, 5)];
/** Of one length. */
const even = windows.map((window) => window.slice(0, 10));

let engine: OnnxEngine;
beforeAll(async () => {
  engine = await startOnnxEngine();
});
afterAll(async () => {
  await engine.close();
});

async function random(options: CheckpointOptions): Promise<string> {
  const folder = join(scratchFolder(), "random-it");
  const text = { sliding_window: 16, ...options.text };
  await makeCheckpoint(folder, { ...options, text, spread: trainedSpread });
  return folder;
}

/** What of some numbers does not agree. */
function wrongOnes(compared: readonly Comparison[]): string[] {
  return compared
    .map(({ what, found, expected }) => ({ what, error: relativeError(found, expected) }))
    .filter(({ error }) => !(error < TOLERANCE))
    .map(({ what, error }) => `${what}: ${error}`);
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
    const text = options === null ? long : windows;
    const expected = plainStatistics(await readTextModel(folder), text, false);
    const steps = await walkThrough(await walkOptions(engine, folder, text));
    expect(wrongOnes(compareAll(steps, expected))).toEqual([]);
    const weights = steps.flatMap(({ statistics }) => statistics.flatMap((input) => input.weights));
    const known = weights.map((name) => (expected.has(name) ? name : "embed_tokens.weight"));
    expect(known.toSorted()).toEqual([...expected.keys()].toSorted());
    const [first] = steps;
    const ids = text.flatMap((window) => [...window]);
    for (const { counts } of first!.frequencies) {
      expect(counts[2]).toBe(text.length);
      expect(counts[ids[7]!]).toBe(ids.filter((id) => id === ids[7]).length);
    }
  });
});

describe("moments", () => {
  it("agree with a plain forward pass, of experts too", async () => {
    const few = [even[0]!];
    const folder = await random({ kind: "moe", text: { intermediate_size: 512, num_attention_heads: 2 } });
    const expected = plainStatistics(await readTextModel(folder), few, true);
    const options = await walkOptions(engine, folder, few);
    const steps = await walkThrough({ ...options, moments: { memory: 2 ** 28 } });
    const compared = compareAll(steps, expected);
    expect(wrongOnes(compared)).toEqual([]);
    // q, k, v, o, gate, up, down and router of both layers, but for the value of the full one, and the output matrix.
    expect(compared.filter(({ what }) => /^[^ ]*: moments$/.test(what))).toHaveLength(16);
    expect(compared.filter(({ what }) => /experts.down.* of expert .: moments$/.test(what)).length).toBe(
      [0, 1].reduce((sum, layer) => sum + expected.get(`layers.${layer}.experts.down_proj`)!.experts.size, 0),
    );
  });

  it("are zeros of an expert that no token chose", async () => {
    const folder = await random({ kind: "moe" });
    const options = await walkOptions(engine, folder, [randomTokens(2, 5)]);
    const steps = await walkThrough({ ...options, moments: { memory: 2 ** 30 } });
    const { experts } = inputOf(steps, "layers.0.experts.down");
    const starved = experts!.tokens.indexOf(0);
    expect(experts!.tokens.reduce((sum, tokens) => sum + tokens, 0)).toBe(4);
    expect(experts!.moments![starved]!.tokens).toBe(0);
    expect(experts!.moments![starved]!.values.every((value) => value === 0)).toBe(true);
  });

  it("are blocks on the diagonal where memory ends, and of some rows of wide inputs", async () => {
    const folder = await random({ kind: "dense" });
    const model = await readTextModel(folder);
    const down = "layers.0.mlp.down_proj.weight";
    const options = await walkOptions(engine, folder, even);
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
    expect(tokens).toBe(30);
    expect(moments).toMatchObject({ columns: 1024, blockWidth: 256, tokens: 10 });
    const rows = readRows(model, even, [down]).get(down)!;
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

/** What a step has found. */
function foundBy({ index, kind, layer, statistics, frequencies }: LayerStep): StepStatistics {
  return { index, kind, layer, statistics, frequencies };
}

describe("a walk that was stopped", () => {
  async function steps(options: WalkOptions, count: number): Promise<LayerStep[]> {
    const found: LayerStep[] = [];
    for await (const step of walkLayers(options)) {
      found.push(step);
      if (found.length === count) break;
    }
    return found;
  }

  it("goes on behind the last step that is done", async () => {
    const options = { ...(await walkOptions(engine, NANO, windows)), resumable: true };
    const whole = await walkThrough(options);
    expect(whole.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    // Behind both layers that others take keys and values of.
    expect(await steps(options, 4)).toHaveLength(4);
    const rest = await walkThrough({ ...options, done: 3 });
    expect(rest.map(foundBy)).toEqual(whole.slice(3).map(foundBy));
  });

  it("does a step again whose states are not whole", async () => {
    const options = { ...(await walkOptions(engine, NANO, windows)), resumable: true };
    const whole = await walkThrough(options);
    await steps(options, 2);
    const states = (await readdir(options.scratch)).find((file) => file.startsWith("states-1"));
    await truncate(join(options.scratch, states!), 100);
    const again = await walkThrough({ ...options, done: 2 });
    expect(again.map(foundBy)).toEqual(whole.slice(1).map(foundBy));
  });

  it("ends with the reason of the signal", async () => {
    const own = await startOnnxEngine();
    const stop = new AbortController();
    const options = { ...(await walkOptions(own, NANO, windows)), signal: stop.signal };
    const walked: number[] = [];
    const run = async (): Promise<void> => {
      for await (const { index } of walkLayers(options)) {
        walked.push(index);
        if (index === 1) stop.abort(new Error("enough"));
      }
    };
    await expect(run()).rejects.toThrow("enough");
    expect(walked).toEqual([0, 1]);
    expect(await readdir(options.scratch)).toEqual([]);
    await own.close();
  });

  it("tells how far it is", async () => {
    const told: WalkProgress[] = [];
    const options = await walkOptions(engine, NANO, windows);
    await walkThrough({ ...options, onProgress: (progress) => told.push(progress) });
    // Two batches a step, as there are windows of two lengths.
    expect(told.map(({ index, layer, tokens }) => [index, layer, tokens])).toEqual(
      [null, 0, 1, 2, 3, null].flatMap((layer, index) => [
        [index, layer, 44],
        [index, layer, 55],
      ]),
    );
    expect(told.every(({ total, steps }) => total === 55 && steps === 6)).toBe(true);
  });
});

describe("a walk is refused", () => {
  it("weights of another step", async () => {
    const options = { ...(await walkOptions(engine, NANO, even)), order: "sequential" } as const;
    const walk = walkLayers(options);
    const { value } = await walk.next();
    (value as LayerStep).replace(new Map([["layers.1.mlp.down_proj.weight", new Float32Array(3)]]));
    await expect(walk.next()).rejects.toMatchObject({ code: "other-step" });
    expect(await readdir(options.scratch)).toEqual([]);
  });

  const refusals: readonly (readonly [string, Partial<WalkOptions>, string])[] = [
    ["without windows", { windows: [] }, "window-count"],
    ["with an empty window", { windows: [new Int32Array(0)] }, "window-size"],
    ["with what is no token", { windows: [Int32Array.of(2, 1024)] }, "unknown-token"],
    ["that replaces in the parallel order", { replaced: new Map() }, "wrong-order"],
    ["across models without moments", { order: "sequential", cross: true }, "no-moments"],
    ["without memory for moments", { moments: { memory: 1000 } }, "memory-too-small"],
    [
      "with values of another size",
      { order: "sequential", replaced: new Map([["norm.weight", new Float32Array(3)]]) },
      "replacement-size",
    ],
    [
      "with values of no weight",
      { order: "sequential", replaced: new Map([["x.weight", new Float32Array(3)]]) },
      "unknown-weight",
    ],
  ];
  it.each(refusals)("%s", async (_name, wrong, code) => {
    const options = await walkOptions(engine, NANO, windows);
    await expect(walkThrough({ ...options, ...wrong })).rejects.toMatchObject({
      name: "StatisticsError",
      code,
    });
    expect(await readdir(options.scratch)).toEqual([]);
  });
});
