import { readFileSync } from "node:fs";
import { mkdtemp, readdir } from "node:fs/promises";
import { join } from "node:path";
import { AutoTokenizer, env } from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Curvature,
  curvatureOf,
  type CurvatureOptions,
  estimateDivergence,
  walkBack,
} from "../../../calibration/statistics/curvature.js";
import { drawNumber } from "../../../calibration/statistics/draws.js";
import { makeStore } from "../../../calibration/statistics/store.js";
import type { StepStatistics } from "../../../calibration/statistics/types.js";
import type { WalkProgress } from "../../../calibration/statistics/walk.js";
import { valueInfo } from "../../../formats/onnx/build.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { rowBytes } from "../../../src/blocks/table.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import type { GradientProbe } from "../../../src/gemma4/graph/backward.js";
import { makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { measureDivergence } from "../../support/divergence.js";
import { readTextModel, type TextModel } from "../../support/forward/model.js";
import { goBack } from "../../support/gradients.js";
import { randomTokens, relativeError, trainedSpread } from "../../support/text-models.js";
import { momentsIn, partsOf } from "../../support/walks.js";

let engine: OnnxEngine;
/** E-like, small: its gradients are compared one by one. */
let small: string;
beforeAll(async () => {
  engine = await startOnnxEngine();
  small = join(scratchFolder(), "small");
  const text = { sliding_window: 8, intermediate_size: 320, head_dim: 16, global_head_dim: 32 };
  await makeCheckpoint(small, { kind: "e", layers: 4, hidden: 64, spread: trainedSpread, text });
});
afterAll(async () => {
  await engine.close();
});

const windows = [randomTokens(20, 1), randomTokens(20, 2), randomTokens(11, 3)];

async function walk(folder: string, options: Partial<CurvatureOptions> = {}): Promise<StepStatistics[]> {
  const steps: StepStatistics[] = [];
  const scratch = await mkdtemp(join(scratchFolder(), "back-"));
  const all: CurvatureOptions = {
    engine,
    checkpoint: await partsOf(folder),
    windows,
    threads: 2,
    labels: "drawn",
    seed: 1,
    moments: { memory: 2 ** 30 },
    logitMemory: 2 ** 24,
    scratch,
    stateMemory: 2 ** 30,
    ...options,
  };
  for await (const step of walkBack(all)) steps.push(step);
  expect(await readdir(scratch)).toEqual([]);
  return steps;
}

/** Gives the rows themselves: [rows, columns] of the gradients and of what a matrix reads. */
const rawRows: GradientProbe = (builder, { weight, rows, x, gradient }) => {
  const widths = { g: rows?.count ?? weight.shape.at(-2)!, x: weight.shape.at(-1)! };
  const at = `${weight.name}${rows === undefined ? "" : `:${rows.first}`}`;
  return (
    [
      ["g", gradient],
      ["x", x],
    ] as const
  ).map(([kind, value]) =>
    valueInfo(
      builder.add("Reshape", `${kind}@${at}`, [value, builder.integers([-1, widths[kind]])]),
      "FLOAT",
      ["rows", widths[kind]],
    ),
  );
};

interface PlainRows {
  readonly g: Float64Array[];
  readonly x: Float64Array[];
}

/** Rows of all windows by matrix, with those of the positions that nothing is predicted at left out. */
async function plainRows(): Promise<Map<string, PlainRows>> {
  const all = new Map<string, PlainRows>();
  for (const window of windows) {
    for (const [key, tensor] of await goBack(await partsOf(small), window, rawRows)) {
      const [kind = "", name = ""] = key.split("@");
      const own = all.get(name) ?? { g: [], x: [] };
      all.set(name, own);
      const width = tensor.dims[1]!;
      for (let row = 0; row + 1 < window.length; row++) {
        const values = (tensor.data as Float32Array).subarray(row * width, (row + 1) * width);
        own[kind as keyof PlainRows].push(Float64Array.from(values));
      }
    }
  }
  return all;
}

/** Σ r·rᵀ */
function secondMoments(rows: readonly Float64Array[]): Float64Array {
  const width = rows[0]!.length;
  const sum = new Float64Array(width ** 2);
  for (const row of rows) {
    for (let i = 0; i < width; i++) {
      for (let j = 0; j < width; j++) sum[i * width + j]! += row[i]! * row[j]!;
    }
  }
  return sum;
}

function squaredLength(row: Float64Array): number {
  return row.reduce((sum, value) => sum + value ** 2, 0);
}

describe("walking back", () => {
  const progress: WalkProgress[] = [];
  let drawn: StepStatistics[];
  beforeAll(async () => {
    drawn = await walk(small, { onProgress: (each) => progress.push(each) });
  });

  it("sums what the gradients and inputs of every matrix give one by one", async () => {
    const steps = await walk(small, { labels: "text" });
    const expected = await plainRows();
    const errors: [name: string, error: number][] = [];
    const seen: string[] = [];
    for (const { statistics } of steps) {
      for (const { input, tokens, sum, sumSquares, moments } of statistics) {
        const name = input.slice(input.indexOf(":") + 1);
        const { g, x } = expected.get(name)!;
        seen.push(name);
        const weighted = x.map((row, index) =>
          row.map((value) => value * Math.sqrt(squaredLength(g[index]!))),
        );
        const rows = input.startsWith("gradients:") ? g : weighted;
        expect(tokens).toBe(rows.length);
        const total = (of: (value: number) => number): number[] =>
          Array.from(rows[0]!, (_, column) => rows.reduce((all, row) => all + of(row[column]!), 0));
        errors.push([
          `${input}: sum`,
          relativeError(
            sum,
            total((value) => value),
          ),
        ]);
        errors.push([
          `${input}: squares`,
          relativeError(
            sumSquares,
            total((value) => value ** 2),
          ),
        ]);
        if (moments === null) continue;
        errors.push([input, relativeError(moments.values, momentsIn(secondMoments(rows), moments))]);
      }
    }
    expect(errors.filter(([, error]) => !(error < 1e-4))).toEqual([]);
    expect(new Set(seen)).toEqual(new Set(expected.keys()));
  });

  it("gives the same again, whatever fits in memory", async () => {
    const again = await walk(small, { logitMemory: 2 ** 18, stateMemory: 0 });
    expect(again).toHaveLength(drawn.length);
    const errors: [name: string, error: number][] = [];
    for (const [index, { statistics, ...step }] of again.entries()) {
      const { statistics: all, ...other } = drawn[index]!;
      expect(step).toEqual(other);
      expect(statistics.map(({ input }) => input)).toEqual(all.map(({ input }) => input));
      for (const [place, { input, sumSquares, moments }] of statistics.entries()) {
        const before = all[place]!;
        errors.push([`${input}: squares`, relativeError(sumSquares, before.sumSquares)]);
        if (moments !== null) errors.push([input, relativeError(moments.values, before.moments!.values)]);
      }
    }
    expect(errors.filter(([, error]) => !(error < 1e-5))).toEqual([]);
  });

  it("draws other tokens for another seed, and stores what it has without moments", async () => {
    const steps = await walk(small, { seed: 2, moments: null });
    const squares = (step: StepStatistics): number[] =>
      step.statistics.flatMap(({ sumSquares }) => Array.from(sumSquares));
    for (const [index, step] of steps.entries()) {
      expect(relativeError(squares(step), squares(drawn[index]!))).toBeGreaterThan(0.01);
    }
    const store = await makeStore(await mkdtemp(join(scratchFolder(), "curvature-")), {
      checkpoint: [{ file: "model.safetensors", bytes: 1, sha256: "0".repeat(64) }],
      text: { sha256: "0".repeat(64), windows: windows.length, tokens: 51 },
      method: { labels: "drawn", seed: 2 },
      steps: steps.length,
    });
    for (const step of steps) await store.append(step);
    expect(store.complete).toBe(true);
    expect(await store.read(1)).toEqual(steps[1]);
  });

  it("tells how far it is, and stops when it is to", async () => {
    expect(progress.map(({ layer }) => layer)).toEqual(
      [null, 0, 1, 2, 3, null, 3, 2, 1, 0].flatMap((layer) => [layer, layer]),
    );
    expect(new Set(progress.map(({ steps }) => steps))).toEqual(new Set([10]));
    expect(progress.map(({ tokens, total }) => tokens === total)).toEqual(
      progress.map((_, i) => i % 2 === 1),
    );
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(walk(small, { signal })).rejects.toThrow("enough");
  });

  it("refuses windows that predict nothing", async () => {
    await expect(walk(small, { windows: [Int32Array.of(2)] })).rejects.toThrow(
      "window 0 has 1 tokens, expected two or more",
    );
  });
});

describe("numbers that are drawn", () => {
  it("lie evenly, and one says nothing of the next", () => {
    const numbers = Array.from({ length: 20_000 }, (_, index) => drawNumber(5, index));
    const mean = (of: (value: number, index: number) => number): number =>
      numbers.reduce((sum, value, index) => sum + of(value - 0.5, index), 0) / numbers.length;
    expect(Math.abs(mean((value) => value))).toBeLessThan(0.01);
    expect(Math.abs(mean((value) => value ** 2) - 1 / 12)).toBeLessThan(0.003);
    const other = (index: number): number => drawNumber(6, index) - 0.5;
    expect(Math.abs(mean((value, index) => value * other(index)))).toBeLessThan(0.003);
    expect(Math.abs(mean((value, index) => value * (numbers[index + 1] ?? 0)))).toBeLessThan(0.003);
    expect(numbers.every((value) => value >= 0 && value < 1)).toBe(true);
  });
});

describe("the estimate of the divergence", () => {
  const random = (count: number, seed: number): Float64Array =>
    Float64Array.from({ length: count }, (_, index) => drawNumber(seed, index) - 0.5);

  it("is ½ tr(G·E·H·Eᵀ), of blocks, and of diagonals", () => {
    const [out, columns] = [3, 4];
    const [g, h] = [secondMoments([random(out, 1), random(out, 2)]), secondMoments([random(columns, 3)])];
    const error = Float32Array.from(random(out * columns, 4));
    const by = (
      seesOut: (i: number, k: number) => boolean,
      seesIn: (j: number, l: number) => boolean,
    ): number => {
      let sum = 0;
      for (let i = 0; i < out; i++) {
        for (let k = 0; k < out; k++) {
          for (let j = 0; j < columns; j++) {
            for (let l = 0; l < columns; l++) {
              if (!seesOut(i, k) || !seesIn(j, l)) continue;
              sum +=
                g[i * out + k]! * h[j * columns + l]! * error[i * columns + j]! * error[k * columns + l]!;
            }
          }
        }
      }
      return sum / 2;
    };
    const moments = (full: Float64Array, size: number, blockWidth: number) => {
      const shape = { columns: size, blockWidth, tokens: 1, values: new Float32Array(0) };
      return { ...shape, values: Float32Array.from(momentsIn(full, shape)) };
    };
    const curvature: Curvature = {
      firstRow: 0,
      gradients: moments(g, out, out),
      gradientSquares: Float64Array.from({ length: out }, (_, i) => g[i * (out + 1)]!),
      inputs: moments(h, columns, columns),
      inputSquares: Float64Array.from({ length: columns }, (_, i) => h[i * (columns + 1)]!),
    };
    const all = (): boolean => true;
    const same = (a: number, b: number): boolean => a === b;
    const near = (a: number, b: number): boolean => Math.floor(a / 2) === Math.floor(b / 2);
    const estimate = (parts: Partial<Curvature>): number =>
      estimateDivergence({ ...curvature, ...parts }, error);
    expect(estimate({})).toBeCloseTo(by(all, all), 6);
    expect(estimate({ gradients: null, inputs: null })).toBeCloseTo(by(same, same), 6);
    expect(estimate({ gradients: moments(g, out, 2), inputs: moments(h, columns, 2) })).toBeCloseTo(
      by(near, near),
      6,
    );
    expect(() => estimateDivergence(curvature, error.subarray(1))).toThrow(
      "there are 11 errors, expected 3 rows of 4",
    );
  });

  it("foretells what rounding single matrices of nano-e costs", async () => {
    const text = await textWindows(5);
    const model = await readTextModel(NANO);
    const divergence = await measureDivergence(NANO, model, text);
    const costs: { readonly name: string; readonly estimate: number; readonly measured: number }[] = [];
    for (const step of await walk(NANO, { windows: text })) {
      // One layer of each kind, with keys of its own or without: all of them would take long.
      if (step.layer === 0 || step.layer === 2) continue;
      for (const name of new Set(step.statistics.flatMap(({ weights }) => weights))) {
        // Each layer has rows of it: to round one layer's costs far less than to round any other matrix.
        if (name === "per_layer_model_projection.weight") continue;
        const { values, error } = rounded(model, name);
        const estimate = estimateDivergence(curvatureOf(step, name)!, error);
        costs.push({ name, estimate, measured: await divergence.of(new Map([[name, values]])) });
      }
    }
    expect(costs).toHaveLength(17);
    const far = costs.filter(({ estimate, measured }) => !(Math.abs(Math.log2(estimate / measured)) < 1));
    expect(far).toEqual([]);
    const ranks = (of: (cost: (typeof costs)[number]) => number): number[] =>
      costs.map((cost) => costs.filter((other) => of(other) < of(cost)).length);
    const [found, expected] = [ranks(({ estimate }) => estimate), ranks(({ measured }) => measured)];
    const squares = found.reduce((sum, rank, index) => sum + (rank - expected[index]!) ** 2, 0);
    expect(1 - (6 * squares) / (costs.length * (costs.length ** 2 - 1))).toBeGreaterThan(0.9);
  });
});

/** Windows of 64 tokens from text that nano-e was not trained on. */
async function textWindows(count: number): Promise<Int32Array[]> {
  env.allowRemoteModels = false;
  env.localModelPath = join(NANO, "..");
  const tokenizer = await AutoTokenizer.from_pretrained("nano-e");
  const text = readFileSync(join(NANO, "..", "text", "eval.txt"), "utf8").slice(0, 200 * count);
  const ids = tokenizer.encode(text, { add_special_tokens: false });
  return Array.from({ length: count }, (_, index) =>
    Int32Array.of(2, ...ids.slice(63 * index, 63 * (index + 1))),
  );
}

/** A matrix after rounding to Q4_0, and the difference that it makes. */
function rounded(model: TextModel, name: string) {
  const before = Float32Array.from(model.weights.get(name) ?? model.weights.get("embed_tokens.weight")!);
  const bytes = new Uint8Array(rowBytes("Q4_0", before.length));
  encode("Q4_0", before, bytes);
  const values = new Float32Array(before.length);
  decode("Q4_0", bytes, values);
  return { values, error: values.map((value, index) => value - before[index]!) };
}
