import { mkdtemp, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  roundTensors,
  type RoundingOptions,
  type RoundingRequest,
  statisticsIdentity,
  storedSteps,
} from "../../../calibration/rounding/run.js";
import {
  makeRoundingStore,
  openRoundingStore,
  type RoundingStore,
} from "../../../calibration/rounding/store.js";
import { makeStore, type StatisticsStore } from "../../../calibration/statistics/store.js";
import type { InputStatistics, Moments } from "../../../calibration/statistics/types.js";
import { type LayerStep, type WalkOptions, walkLayers } from "../../../calibration/statistics/walk.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { readTextModel, type TextModel } from "../../support/forward/model.js";
import { randomTokens, trainedSpread } from "../../support/text-models.js";
import { inputOf, walkOptions } from "../../support/walks.js";

const windows = [randomTokens(64, 1), randomTokens(64, 2), randomTokens(64, 3), randomTokens(64, 4)];
const header = {
  checkpoint: [{ file: "model.safetensors", bytes: 1, sha256: "0".repeat(64) }],
  statistics: "1".repeat(64),
  method: {},
};

let engine: OnnxEngine;
let nano: TextModel;
let module: WebAssembly.Module;
beforeAll(async () => {
  engine = await startOnnxEngine();
  nano = await readTextModel(NANO);
  module = await compileKernels();
});
afterAll(async () => {
  await engine.close();
});

/** Statistics in a folder. */
async function stored(steps: readonly LayerStep[]): Promise<StatisticsStore> {
  const text = { sha256: "2".repeat(64), windows: windows.length, tokens: 256 };
  const folder = await mkdtemp(join(scratchFolder(), "statistics-"));
  const store = await makeStore(folder, {
    checkpoint: header.checkpoint,
    text,
    method: {},
    steps: steps.length,
  });
  for (const step of steps) await store.append(step);
  return store;
}

async function walk(folder: string, more: Partial<WalkOptions> = {}): Promise<WalkOptions> {
  return { ...(await walkOptions(engine, folder, windows)), moments: { memory: 2 ** 28 }, ...more };
}

async function optionsFor(
  { checkpoint, scratch }: WalkOptions,
  requests: readonly RoundingRequest[],
  more: Pick<RoundingOptions, "steps"> & Partial<RoundingOptions>,
): Promise<RoundingOptions> {
  const folder = await mkdtemp(join(scratchFolder(), "rounded-"));
  const store = await makeRoundingStore(folder, header);
  const { weights, shards } = checkpoint;
  return {
    weights,
    shards,
    requests,
    store,
    order: "parallel",
    threads: 2,
    memory: 2 ** 30,
    scratch,
    ...more,
  };
}

/** tr(E·H·Eᵀ) on the mean over the tokens. */
function lossOf(
  values: ArrayLike<number>,
  stored: Float32Array,
  { columns, values: h, tokens }: Moments,
): number {
  let loss = 0;
  const error = new Float64Array(columns);
  for (let row = 0; row < stored.length; row += columns) {
    for (let k = 0; k < columns; k++) error[k] = values[row + k]! - stored[row + k]!;
    for (let i = 0; i < columns; i++) {
      let sum = 0;
      for (let j = 0; j < columns; j++) sum += h[i * columns + j]! * error[j]!;
      loss += error[i]! * sum;
    }
  }
  return loss / tokens;
}

function searchLoss(values: Float32Array, { sumSquares }: InputStatistics, moments: Moments): number {
  const kernels = new Kernels(module, values.length);
  kernels.input.set(new Uint8Array(values.buffer));
  kernels.convert("F32", "Q4_0", values.length, Float32Array.from(sumSquares), "search");
  const stored = new Float32Array(values.length);
  decode("Q4_0", kernels.output, stored);
  return lossOf(values, stored, moments);
}

async function storedValues(store: RoundingStore, request: RoundingRequest): Promise<Float32Array> {
  return store.rows(request, 0, store.get(request).rows);
}

const q4 = (tensor: string): RoundingRequest => ({ tensor, target: "Q4_0", effort: 1 });

describe("roundTensors", () => {
  it("loses less than the search on every matrix of a layer of nano-e", async () => {
    const options = await walk(NANO);
    const steps: LayerStep[] = [];
    for await (const step of walkLayers(options)) steps.push(step);
    const layer = "layers.1";
    const parts = ["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj", "per_layer_projection"];
    const requests = parts.map((part) => q4(`${layer}.${part}.weight`));
    const seen: string[] = [];
    const run = await optionsFor(options, requests, {
      steps: storedSteps(await stored(steps)),
      onProgress: ({ tensor }) => seen.push(tensor),
    });
    await roundTensors(run);
    expect(seen.toSorted()).toEqual(requests.map(({ tensor }) => tensor).toSorted());
    for (const request of requests) {
      const input = steps
        .flatMap(({ statistics }) => statistics)
        .find(({ weights }) => weights.includes(request.tensor))!;
      const values = Float32Array.from(nano.weights.get(request.tensor)!);
      const found = lossOf(values, await storedValues(run.store, request), input.moments!);
      const { loss } = run.store.get(request);
      // The record's has the damping in it.
      expect(found).toBeLessThan(loss);
      expect(found).toBeGreaterThan(0.7 * loss);
      expect(found).toBeLessThan(0.9 * searchLoss(values, input, input.moments!));
    }
  });

  it("goes on where it was stopped", async () => {
    const options = await walk(NANO);
    const requests = [q4("layers.0.self_attn.k_proj.weight"), q4("layers.1.self_attn.k_proj.weight")];
    const stop = new AbortController();
    const reason = new Error("enough");
    const run = await optionsFor(options, requests, { steps: walkLayers(options), signal: stop.signal });
    const stopped = roundTensors({ ...run, onProgress: () => stop.abort(reason) });
    await expect(stopped).rejects.toBe(reason);
    const store = await openRoundingStore(run.store.folder, header);
    expect(store.tensors.map(({ tensor }) => tensor)).toEqual(["layers.0.self_attn.k_proj.weight"]);
    await roundTensors({ ...run, store, signal: undefined, steps: walkLayers(await walk(NANO)) });
    expect(store.tensors).toHaveLength(2);
    for (const request of requests) await store.check(request);
  });

  it("lets later layers read what rounded ones give", async () => {
    const request: RoundingRequest = { tensor: "layers.0.mlp.down_proj.weight", target: "Q2_0", effort: 0 };
    const options = await walk(NANO, { order: "sequential", moments: { memory: 2 ** 28 } });
    const inputs: InputStatistics[] = [];
    const watched = async function* (): AsyncGenerator<LayerStep> {
      for await (const step of walkLayers(options)) {
        inputs.push(...step.statistics);
        yield step;
      }
    };
    const run = await optionsFor(options, [request], { steps: watched(), order: "sequential" });
    await roundTensors(run);
    expect(await readdir(options.scratch)).toEqual([]);
    const plain: LayerStep[] = [];
    for await (const step of walkLayers(await walk(NANO))) plain.push(step);
    const differs = (name: string): boolean =>
      inputs.find(({ input }) => input === name)!.sumSquares[0] !== inputOf(plain, name).sumSquares[0];
    expect(differs("layers.0.mlp.down")).toBe(false);
    expect(differs("layers.1.attention")).toBe(true);
  });

  it("rounds experts one by one, and a table as the output matrix", async () => {
    const folder = join(scratchFolder(), "moe-it");
    await makeCheckpoint(folder, { kind: "moe", spread: trainedSpread });
    const options = await walk(folder);
    const requests: RoundingRequest[] = [
      { tensor: "layers.0.experts.down_proj", target: { bits: 4, block: 32, zeroPoints: true }, effort: 0 },
      { tensor: "embed_tokens.weight", target: "Q8_0", effort: 0 },
    ];
    const run = await optionsFor(options, requests, { steps: walkLayers(options) });
    await roundTensors(run);
    const model = await readTextModel(folder);
    for (const request of requests) {
      const values = model.weights.get(request.tensor)!;
      const stored = await storedValues(run.store, request);
      expect(stored).toHaveLength(values.length);
      let [error, size] = [0, 0];
      for (const [index, value] of stored.entries()) {
        error += (value - values[index]!) ** 2;
        size += values[index]! ** 2;
      }
      expect(error / size).toBeLessThan(0.02);
    }
  });

  it("names what it knows nothing of", async () => {
    const options = await walk(NANO, { moments: null });
    const fails = async (tensor: string): Promise<unknown> => {
      const run = async (): Promise<void> =>
        roundTensors(
          await optionsFor(options, [q4(tensor)], { steps: walkLayers(await walk(NANO, { moments: null })) }),
        );
      return run().catch((error: unknown) => error);
    };
    expect(await fails("layers.0.self_attn.k_proj.weight")).toMatchObject({
      code: "no-moments",
      message: expect.stringContaining("no second moments of layers.0.attention") as string,
    });
    expect(await fails("embed_tokens_per_layer.weight")).toMatchObject({ code: "no-moments", exitCode: 2 });
    expect(await fails("layers.99.self_attn.k_proj.weight")).toMatchObject({ code: "unknown-weight" });
  });
});

describe("statisticsIdentity", () => {
  it("depends on text and method, not on the order of keys", () => {
    const of = (method: Record<string, string>, sha256 = "a".repeat(64)): string =>
      statisticsIdentity({
        checkpoint: header.checkpoint,
        text: { sha256, windows: 1, tokens: 2 },
        method,
        steps: 3,
      });
    expect(of({ a: "1", b: "2" })).toBe(of({ b: "2", a: "1" }));
    expect(of({ a: "1" })).not.toBe(of({ a: "2" }));
    expect(of({}, "b".repeat(64))).not.toBe(of({}));
  });
});
