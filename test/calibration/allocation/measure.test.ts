import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ablate } from "../../../calibration/allocation/ablate.js";
import { type MeasureOptions, measureSensitivity } from "../../../calibration/allocation/measure.js";
import { partsToRound } from "../../../calibration/allocation/parts.js";
import { RowRounder } from "../../../calibration/allocation/round.js";
import { sampleRows } from "../../../calibration/allocation/sample.js";
import { SensitivityFile } from "../../../calibration/allocation/sensitivity.js";
import { bytesIn, roundedType } from "../../../calibration/allocation/types.js";
import { curvatureOf, estimateDivergence } from "../../../calibration/statistics/curvature.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { makeCheckpoint } from "../../support/checkpoints.js";
import { nanoCheckpoint, scratchFolder } from "../../support/convert.js";
import { type Calibrated, calibrate } from "../../support/sensitivity.js";
import { randomTokens, trainedSpread } from "../../support/text-models.js";
import { partsOf } from "../../support/walks.js";

const windows = [1, 2, 3].map((seed) => randomTokens(48, seed));
const types = ["Q4_0", "Q2_K"].map((name) => roundedType(name));
let engine: OnnxEngine;
let nano: Calibrated;

beforeAll(async () => {
  engine = await startOnnxEngine();
  nano = await calibrate(engine, nanoCheckpoint, windows);
});
afterAll(() => engine.close());

async function measure(
  checkpointFolder: string,
  { inputs, curvature, folder }: Calibrated,
  options: Partial<MeasureOptions> = {},
): Promise<SensitivityFile> {
  const text = JSON.stringify(Object.keys(options));
  const file = await SensitivityFile.open(join(folder, `${text.length}.json`), {
    headers: [inputs.header],
    sampled: options.sampleValues ?? 0,
  });
  await measureSensitivity({
    engine,
    checkpoint: await partsOf(checkpointFolder),
    threads: 2,
    scratch: mkdtempSync(join(scratchFolder(), "measure-")),
    stateMemory: 2 ** 30,
    logitMemory: 2 ** 26,
    inputs,
    curvature,
    types,
    file,
    windows: async () => windows,
    // The down projections of the wider layers are the first of which a part is rounded.
    sampleValues: 2 ** 17,
    ...options,
  });
  return file;
}

describe("sensitivity", () => {
  it("is the second-order estimate where gradients are known", async () => {
    const file = await measure(nanoCheckpoint, nano);
    const checkpoint = await partsOf(nanoCheckpoint);
    const rounder = await RowRounder.start(checkpoint);
    for (const name of ["layers.1.mlp.down_proj.weight", "layers.3.self_attn.q_proj.weight"]) {
      const { weight } = checkpoint.weights.find(({ weight }) => weight.name === name)!;
      const index = checkpoint.config.layers.length - weight.layer!;
      const curvature = curvatureOf(await nano.curvature.read(index), name)!;
      const step = await nano.inputs.read(weight.layer! + 1);
      const { sumSquares, tokens } = step.statistics.find(({ weights }) => weights.includes(name))!;
      const importance = Float32Array.from(sumSquares, (value) => value / tokens);
      const [rows, row] = weight.shape as [number, number];
      const original = await rounder.read(weight, 0, rows);
      const rounded = rounder.round(original, roundedType("Q4_0"), { row, importance, name });
      const expected = estimateDivergence(
        curvature,
        original.map((value, place) => value - rounded[place]!),
      );
      expect(file.loss(name, "Q4_0")! / expected).toBeCloseTo(1, 3);
      expect(file.loss(name, "Q2_K")).toBeGreaterThan(4 * expected);
    }
    await rounder.close();
  });

  it("covers all parts in all types that fit them, and foretells what is measured", async () => {
    const file = await measure(nanoCheckpoint, nano);
    const checkpoint = await partsOf(nanoCheckpoint);
    const parts = partsToRound(checkpoint.config, checkpoint.weights);
    for (const { weight, onnxOnly } of parts) {
      for (const type of types) {
        const fits = bytesIn(type, weight.shape.at(-1)!, 1) !== undefined;
        const expected = fits && !(onnxOnly && type.format === "gguf");
        expect(file.loss(weight.name, type.name) !== undefined).toBe(expected);
      }
    }
    const rounder = await RowRounder.start(checkpoint);
    const found = await ablate({
      engine,
      checkpoint,
      windows,
      variants: parts
        .filter(({ onnxOnly }) => !onnxOnly)
        .map(({ weight: { name } }) => ({ name, weights: [name] })),
      write: (path, name) => {
        const part = parts.find(({ weight }) => weight.name === name)!;
        return rounder.write(path, part.weight, roundedType("Q4_0"));
      },
      threads: 2,
      scratch: mkdtempSync(join(scratchFolder(), "ablate-")),
      stateMemory: 2 ** 30,
      logitMemory: 2 ** 26,
    });
    await rounder.close();
    const ratios = found.map(({ variant, kld }) => file.loss(variant.name, "Q4_0")! / kld);
    const sum = found.reduce((total, { kld }) => total + kld, 0);
    const foretold = found.reduce((total, { variant }) => total + file.loss(variant.name, "Q4_0")!, 0);
    expect(foretold / sum).toBeGreaterThan(0.6);
    expect(foretold / sum).toBeLessThan(1.6);
    for (const ratio of ratios) {
      expect(ratio).toBeGreaterThan(0.25);
      expect(ratio).toBeLessThan(4);
    }
  });

  it("does nothing that is done, and begins anew with other statistics or a damaged file", async () => {
    const file = await measure(nanoCheckpoint, nano);
    const before = readFileSync(file.path);
    const none = async (): Promise<Int32Array[]> => {
      throw new Error("measured again");
    };
    const again = await SensitivityFile.open(file.path, {
      headers: [nano.inputs.header],
      sampled: 0,
    });
    const seen: number[] = [];
    await measureSensitivity({
      engine,
      checkpoint: await partsOf(nanoCheckpoint),
      threads: 1,
      scratch: scratchFolder(),
      stateMemory: 2 ** 20,
      logitMemory: 2 ** 20,
      ...nano,
      types,
      file: again,
      windows: none,
      onProgress: (done) => seen.push(done),
    });
    expect(seen.length).toBe(1);
    expect(readFileSync(file.path)).toEqual(before);
    const other = await SensitivityFile.open(file.path, { headers: [], sampled: 0 });
    expect(other.loss("layers.0.mlp.up_proj.weight", "Q4_0")).toBeUndefined();
    for (const bad of ["{", "[]", '{"formatVersion":1}']) {
      writeFileSync(join(nano.folder, "bad.json"), bad);
      const opened = SensitivityFile.open(join(nano.folder, "bad.json"), {
        headers: [],
        sampled: 0,
      });
      await expect(opened).rejects.toMatchObject({ code: "sensitivity-damaged" });
    }
  });

  it("is about the same from a part of the rows", async () => {
    const whole = await measure(nanoCheckpoint, nano);
    const part = await measure(nanoCheckpoint, nano, { sampleValues: 2 ** 13 });
    let [foretold, all] = [0, 0];
    for (const { weight } of partsToRound(...(await configAndWeights(nanoCheckpoint)))) {
      foretold += part.loss(weight.name, "Q4_0") ?? 0;
      all += whole.loss(weight.name, "Q4_0") ?? 0;
    }
    expect(foretold / all).toBeGreaterThan(0.7);
    expect(foretold / all).toBeLessThan(1.4);
  });

  it("is measured by kinds of weights where there are no gradients, experts among them", async () => {
    const folder = join(scratchFolder(), "moe");
    const text = { moe_intermediate_size: 64, intermediate_size: 96 };
    await makeCheckpoint(folder, { kind: "moe", layers: 2, hidden: 64, spread: trainedSpread, text });
    const calibrated = await calibrate(engine, folder, windows, { experts: true });
    const onnx = [roundedType("q4-32"), roundedType("q8-32")];
    const file = await measure(folder, calibrated, { curvature: null, types: onnx });
    for (const { weight } of partsToRound(...(await configAndWeights(folder)))) {
      const [four, eight] = onnx.map(({ name }) => file.loss(weight.name, name)!);
      expect(four).toBeGreaterThan(0);
      expect(eight).toBeLessThan(four! / 50);
    }
    expect(file.groupOf("layers.0.experts.down_proj")).toBe("experts_down");
  });
});

async function configAndWeights(folder: string): Promise<Parameters<typeof partsToRound>> {
  const { config, weights } = await partsOf(folder);
  return [config, weights];
}

describe("a sample of rows", () => {
  it("is all of them where they are few", () => {
    expect(sampleRows([1, 2, 3], 3)).toEqual({ rows: [0, 1, 2], factors: Float64Array.of(1, 2, 3) });
  });

  it("has the heaviest, and others that stand for the rest", () => {
    const weights = Array.from({ length: 100 }, (_, row) => (row % 10 === 7 ? 100 + row : 1));
    const { rows, factors } = sampleRows(weights, 20);
    expect(rows.length).toBe(20);
    for (let row = 7; row < 100; row += 10) expect(factors[rows.indexOf(row)]).toBe(100 + row);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    expect(factors.reduce((sum, factor) => sum + factor, 0)).toBeCloseTo(total);
    expect(rows).toEqual(rows.toSorted((a, b) => a - b));
  });
});
