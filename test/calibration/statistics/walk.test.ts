import { mkdtemp, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type InputStatistics,
  type LayerStep,
  type Moments,
  type WalkOptions,
  walkLayers,
} from "../../../calibration/statistics/walk.js";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { bindCheckpoint } from "../../../src/gemma4/bind.js";
import { readConfig } from "../../../src/gemma4/config.js";
import type { CheckpointParts } from "../../../src/gemma4/graph/files.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { readTextModel, type TextModel, withWeights } from "../../support/forward/model.js";
import { plainStatistics, readRows } from "../../support/statistics.js";
import { randomTokens, relativeError, trainedSpread } from "../../support/text-models.js";

/** Of sums of what single precision has computed, against double precision: 3e-6 on random weights. */
const TOLERANCE = 1e-5;

let engine: OnnxEngine;
beforeAll(async () => {
  engine = await startOnnxEngine();
});
afterAll(async () => {
  await engine.close();
});

async function partsOf(folder: string): Promise<CheckpointParts> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const { weights } = bindCheckpoint(config, checkpoint);
  return { config, weights, shards: checkpoint.shards, placeholders: [8, 11, 13], padding: 0 };
}

/** More than the sliding window of 64, and not all of one length. */
const windows = [randomTokens(70, 1), randomTokens(70, 2), randomTokens(33, 3)];

async function walk(folder: string, options: Partial<WalkOptions> = {}): Promise<LayerStep[]> {
  const steps: LayerStep[] = [];
  const scratch = await mkdtemp(join(scratchFolder(), "walk-"));
  const all = {
    engine,
    checkpoint: await partsOf(folder),
    windows,
    threads: 2,
    order: "parallel",
    moments: null,
    scratch,
    stateMemory: 2 ** 30,
    ...options,
  } as const;
  for await (const step of walkLayers(all)) steps.push(step);
  expect(await readdir(scratch)).toEqual([]);
  return steps;
}

function inputOf(steps: readonly LayerStep[], name: string): InputStatistics {
  const found = steps.flatMap(({ statistics }) => statistics).find(({ input }) => input === name);
  if (found === undefined) throw new Error(`There is no input ${name}.`);
  return found;
}

/** The part of a full matrix that moments hold, in their order. */
function momentsIn(full: ArrayLike<number>, { columns, blockWidth }: Moments): number[] {
  const values: number[] = [];
  for (let start = 0; start < columns; start += blockWidth) {
    const end = Math.min(start + blockWidth, columns);
    for (let row = start; row < end; row++) {
      for (let column = start; column < end; column++) values.push(full[row * columns + column]!);
    }
  }
  return values;
}

/** Σ x·yᵀ */
function crossed(x: readonly Float64Array[], y: readonly Float64Array[]): Float64Array {
  const columns = x[0]!.length;
  const sum = new Float64Array(columns ** 2);
  for (const [row, values] of x.entries()) {
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) sum[i * columns + j]! += values[i]! * y[row]![j]!;
    }
  }
  return sum;
}

/** Values of a weight, each rounded to a multiple of a step. */
function rounded(model: TextModel, name: string, step = 2 ** -6): Float32Array {
  return Float32Array.from(model.weights.get(name)!, (value) => Math.round(value / step) * step);
}

async function random(options: CheckpointOptions): Promise<string> {
  const folder = join(scratchFolder(), "random-it");
  await makeCheckpoint(folder, { ...options, spread: trainedSpread });
  return folder;
}

describe("statistics agree with a plain forward pass on", () => {
  const kinds: readonly (readonly [string, CheckpointOptions | null])[] = [
    ["nano-e", null],
    ["an E-like checkpoint", { kind: "e", dtype: "F16", layers: 6, shards: 2 }],
    ["a dense one with k = v and an output matrix of its own", { kind: "dense", dtype: "F32", head: true }],
    ["a mixture of experts", { kind: "moe" }],
  ];
  it.each(kinds)("%s", async (_name, options) => {
    const folder = options === null ? NANO : await random(options);
    const model = await readTextModel(folder);
    const expected = plainStatistics(model, windows, false);
    const steps = await walk(folder);
    const weights = new Set<string>();
    for (const { statistics } of steps) {
      for (const input of statistics) {
        for (const weight of input.weights) {
          weights.add(model.weights.has(weight) ? weight : "embed_tokens.weight");
          const own = expected.get(model.weights.has(weight) ? weight : "embed_tokens.weight")!;
          expect(input.tokens, weight).toBe(own.tokens);
          expect(relativeError(input.sumSquares, own.sumSquares), weight).toBeLessThan(TOLERANCE);
          expect(relativeError(input.sum, own.sum), weight).toBeLessThan(TOLERANCE);
          const { columns, experts } = input;
          if (experts === null) continue;
          expect([...experts.tokens], weight).toEqual(
            Array.from(experts.tokens, (_, expert) => own.experts.get(expert)?.tokens ?? 0),
          );
          for (const [expert, { sum, sumSquares }] of own.experts) {
            const part = [expert * columns, (expert + 1) * columns] as const;
            expect(relativeError(experts.sum.subarray(...part), sum)).toBeLessThan(TOLERANCE);
            expect(relativeError(experts.sumSquares.subarray(...part), sumSquares)).toBeLessThan(TOLERANCE);
          }
        }
      }
    }
    expect([...weights].toSorted()).toEqual([...expected.keys()].toSorted());
  });
});

describe("moments", () => {
  const short = windows.map((window) => window.slice(0, 20));

  it("agree with a plain forward pass, of experts too", async () => {
    const folder = await random({ kind: "moe", text: { intermediate_size: 512 } });
    const expected = plainStatistics(await readTextModel(folder), short, true);
    const steps = await walk(folder, { windows: short, moments: { memory: 2 ** 28 } });
    for (const { weights, moments, experts } of steps.flatMap(({ statistics }) => statistics)) {
      const own = expected.get(weights[0] === "lm_head.weight" ? "embed_tokens.weight" : weights[0]!)!;
      if (moments !== null) {
        expect(moments.tokens).toBe(own.tokens);
        expect(relativeError(moments.values, momentsIn(own.moments, moments)), weights[0]).toBeLessThan(
          TOLERANCE,
        );
      }
      for (const [expert, sums] of own.experts) {
        const found = experts!.moments![expert]!;
        expect(found.tokens).toBe(sums.tokens);
        expect(relativeError(found.values, momentsIn(sums.moments, found)), weights[0]).toBeLessThan(
          TOLERANCE,
        );
      }
    }
    const unused = inputOf(steps, "layers.0.experts.down").experts!.tokens.indexOf(0);
    if (unused !== -1) {
      const { moments } = inputOf(steps, "layers.0.experts.down").experts!;
      expect(moments![unused]!.values.every((value) => value === 0)).toBe(true);
    }
  });

  it("are blocks on the diagonal where memory ends, and of some rows of wide inputs", async () => {
    const model = await readTextModel(NANO);
    const down = "layers.0.mlp.down_proj.weight";
    const columns = model.weights.get(down)!.length / model.config.hidden;
    const wanted: WalkOptions["moments"] = {
      memory: columns * 256 * 4 * 3,
      fullColumns: Math.floor(columns / 2),
      wanted: (weights) => weights.some(({ name }) => name === down),
    };
    const steps = await walk(NANO, { windows: short, moments: wanted });
    const { moments } = inputOf(steps, "layers.0.mlp.down");
    expect(columns % 256).toBe(0);
    expect(moments).toMatchObject({ columns, blockWidth: 256 });
    const inputs = steps.flatMap(({ statistics }) => statistics);
    expect(inputs.filter((each) => each.moments !== null)).toHaveLength(1);
    const rows = readRows(model, short, [down]).get(down)!;
    // Every so many rows of all windows of a length: 256 · columns values are 2 times those of fullColumns², made 3.
    const stride = Math.round(rows.length / moments!.tokens);
    const taken = rows.filter((_, row) => row % stride === 0);
    expect(taken).toHaveLength(moments!.tokens);
    expect(relativeError(moments!.values, momentsIn(crossed(taken, taken), moments!))).toBeLessThan(
      TOLERANCE,
    );
  });
});

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
    const last = `layers.${model.config.layers.length - 1}.mlp.down_proj.weight`;
    const [plain, other] = [model, withWeights(model, replacements)].map((each) =>
      readRows(each, windows, [last]).get(last)!,
    ) as [Float64Array[], Float64Array[]];
    const folder = await mkdtemp(join(scratchFolder(), "walk-"));
    const scratch = await mkdtemp(join(scratchFolder(), "values-"));
    const path = join(scratch, "down.f32");
    await writeFile(path, replacements.get(names.down)!);
    let found: InputStatistics | undefined;
    const options: WalkOptions = {
      engine,
      checkpoint: await partsOf(NANO),
      windows,
      threads: 2,
      order: "sequential",
      moments: { memory: 2 ** 28, wanted: (weights) => weights[0]!.name === last },
      cross: true,
      scratch: folder,
      stateMemory,
    };
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
    expect(await readdir(folder)).toEqual([]);
    expect(await readdir(scratch)).toEqual(["down.f32"]);
  });
});
