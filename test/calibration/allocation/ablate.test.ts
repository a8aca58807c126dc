import { mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ablate, type AblateOptions, type Variant } from "../../../calibration/allocation/ablate.js";
import { RowRounder } from "../../../calibration/allocation/round.js";
import { roundedType } from "../../../calibration/allocation/types.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import { headWeight, listWeights } from "../../../src/gemma4/weights.js";
import { nanoCheckpoint, scratchFolder } from "../../support/convert.js";
import { measureDivergence } from "../../support/divergence.js";
import { readTextModel } from "../../support/forward/model.js";
import { spikyLayer } from "../../support/spiky-layer.js";
import { randomTokens } from "../../support/text-models.js";
import { partsOf } from "../../support/walks.js";

const windows = [1, 2, 3].map((seed) => randomTokens(48, seed));
let engine: OnnxEngine;

beforeAll(async () => {
  engine = await startOnnxEngine();
});
afterAll(() => engine.close());

async function ablateIn(
  folder: string,
  variants: readonly Variant[],
  type: string,
  options: Partial<AblateOptions> = {},
): Promise<{ readonly kld: number[]; readonly top: number[]; readonly left: string[] }> {
  const checkpoint = await partsOf(folder);
  const rounder = await RowRounder.start(checkpoint);
  const weights = [...listWeights(checkpoint.config), headWeight(checkpoint.config)];
  const scratch = mkdtempSync(join(scratchFolder(), "ablate-"));
  const found = await ablate({
    engine,
    checkpoint,
    windows,
    variants,
    write: (path, name) =>
      rounder.write(
        path,
        weights.find((weight) => weight.name === name)!,
        roundedType(type),
      ),
    threads: 2,
    scratch,
    stateMemory: 2 ** 30,
    logitMemory: 2 ** 24,
    ...options,
  });
  await rounder.close();
  return {
    kld: found.map(({ kld }) => kld),
    top: found.map(({ sameTop }) => sameTop),
    left: readdirSync(scratch),
  };
}

function alone(...names: string[]): Variant[] {
  return names.map((name) => ({ name, weights: [name] }));
}

describe("ablation", () => {
  it("finds what a whole graph finds with one weight after the other replaced", async () => {
    const variants = alone(
      "embed_tokens.weight",
      "lm_head.weight",
      "embed_tokens_per_layer.weight",
      "per_layer_model_projection.weight",
      "layers.0.self_attn.k_proj.weight",
      "layers.1.self_attn.v_proj.weight",
      "layers.2.mlp.down_proj.weight",
      "layers.3.self_attn.q_proj.weight",
    );
    variants.push({ name: "none", weights: [] });
    variants.push({
      name: "two",
      weights: ["layers.0.mlp.up_proj.weight", "layers.3.mlp.down_proj.weight", "lm_head.weight"],
    });
    const { kld, top, left } = await ablateIn(nanoCheckpoint, variants, "q2-32");
    expect(left).toEqual([]);
    const model = await readTextModel(nanoCheckpoint);
    const divergence = await measureDivergence(nanoCheckpoint, model, windows);
    const rounder = await RowRounder.start(await partsOf(nanoCheckpoint));
    for (const [index, { weights }] of variants.entries()) {
      // The graph of the test has the decoder's weights only.
      if (weights.some((name) => name.startsWith("embed_tokens"))) continue;
      const values = new Map<string, Float32Array>();
      for (const name of weights) {
        const own = model.weights.get(name) ?? model.weights.get("embed_tokens.weight")!;
        const row = name.includes("down_proj") ? own.length / 256 : 256;
        values.set(
          name,
          rounder.round(Float32Array.from(own), roundedType("q2-32"), { row, importance: undefined, name }),
        );
      }
      const expected = await divergence.of(new Map([...values].map(([name, own]) => [name, own])));
      expect(Math.abs(kld[index]! - expected)).toBeLessThan(1e-5 + expected * 1e-3);
    }
    await rounder.close();
    expect(kld[8]).toBeLessThan(1e-6);
    expect(top[8]).toBe(1);
    for (const index of [0, 1, 2, 3, 4, 5, 6, 7, 9]) expect(kld[index]).toBeGreaterThan(1e-4);
    expect(kld[9]).toBeGreaterThan(kld[1]!);
  });

  it("finds the same with states in files, a token through the head at a time, and windows of two lengths", async () => {
    const variants = alone(
      "layers.0.self_attn.k_proj.weight",
      "layers.2.mlp.down_proj.weight",
      "lm_head.weight",
    );
    const mixed = { windows: [windows[0]!.subarray(0, 20), windows[1]!.subarray(0, 9)] };
    const usual = await ablateIn(nanoCheckpoint, variants, "Q2_K", mixed);
    const small = await ablateIn(nanoCheckpoint, variants, "Q2_K", {
      ...mixed,
      stateMemory: 0,
      logitMemory: 1,
    });
    expect(small.left).toEqual([]);
    for (const [index, kld] of usual.kld.entries()) expect(small.kld[index]).toBeCloseTo(kld, 5);
    expect(small.top).toEqual(usual.top);
  });

  it("finds the matrix whose columns lie far apart", async () => {
    const folder = await spikyLayer(join(scratchFolder(), "spiky"), 1, 3);
    const weights = (await partsOf(folder)).weights.filter(({ weight }) => !weight.unused);
    const names = weights
      .filter(({ weight }) => weight.name.endsWith("_proj.weight") && weight.layer !== null)
      .map(({ weight }) => weight.name);
    const { kld } = await ablateIn(folder, alone(...names), "Q4_0");
    const { kld: before } = await ablateIn(nanoCheckpoint, alone(...names), "Q4_0");
    const first = kld.indexOf(Math.max(...kld));
    expect(names[first]).toBe("layers.1.mlp.down_proj.weight");
    expect(kld[first]).toBeGreaterThan(10 * before[first]!);
    // Powers of two that are taken out of whole rows change nothing for the up projection.
    const up = names.indexOf("layers.1.mlp.up_proj.weight");
    expect(kld[up]! / before[up]!).toBeCloseTo(1, 3);
  });

  it("refuses a weight that the model does not have", async () => {
    await expect(ablateIn(nanoCheckpoint, alone("layers.4.mlp.up_proj.weight"), "Q4_0")).rejects.toThrow(
      "the model has no layers.4.mlp.up_proj.weight",
    );
  });
});
