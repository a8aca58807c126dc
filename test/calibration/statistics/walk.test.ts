import { mkdtemp, readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type LayerStep, type WalkOptions, walkLayers } from "../../../calibration/statistics/walk.js";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { bindCheckpoint } from "../../../src/gemma4/bind.js";
import { readConfig } from "../../../src/gemma4/config.js";
import type { CheckpointParts } from "../../../src/gemma4/graph/files.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { readTextModel } from "../../support/forward/model.js";
import { plainStatistics } from "../../support/statistics.js";
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
