import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import Convert from "../../commands/convert.js";
import Quantize from "../../commands/quantize.js";
import { openGguf } from "../../formats/gguf/read.js";
import { LapidaryError } from "../../src/base/errors.js";
import { checkpointNameOf, ggufNameOf, headWeight, listWeights } from "../../src/gemma4/weights.js";
import { groupOf } from "../../src/plan/onnx/dtypes.js";
import { formatPlan, parsePlan, planName, writePlan } from "../../src/pipeline/plan-file.js";
import { type PlanFile, planJsonSchema } from "../../src/pipeline/plan-schema.js";
import { openSource } from "../../src/pipeline/source.js";
import { mayChange } from "../../src/plan/assign.js";
import { configOf } from "../plan/members.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { runCommand } from "../support/run-command.js";

const DOWN = "layers.0.mlp.down_proj.weight";

/** A plan for nano-e: one type everywhere but in one matrix. */
async function nanoPlan(change: (weights: PlanFile["weights"]) => void = () => {}): Promise<PlanFile> {
  const source = await openSource(nanoCheckpoint);
  if (source.kind !== "checkpoint") throw new Error("no checkpoint");
  const weights: PlanFile["weights"] = {};
  for (const { weight } of source.bound.weights) {
    if (weight.unused || groupOf(weight.role) === "exact") continue;
    const rounds = mayChange({ name: weight.gguf, ne: weight.shape.toReversed() });
    weights[weight.name] = {
      ...(rounds ? { gguf: { type: "Q4_0" } } : {}),
      onnx: { bits: 4, block: 32, zeroPoint: weight.role === "ple_table" },
    };
  }
  weights["lm_head.weight"] = { onnx: { bits: 8, block: 32 } };
  weights[DOWN] = { gguf: { type: "Q8_0" }, onnx: { bits: 8, block: 64, zeroPoint: true } };
  change(weights);
  return { plan: 1, gguf: { mix: "Q4_0" }, onnx: { dtype: "q4" }, weights };
}

async function written(plan: PlanFile): Promise<string> {
  const path = join(scratchFolder(), "my plan.yaml");
  await writePlan(path, plan);
  return path;
}

function refusal(text: string): LapidaryError {
  try {
    parsePlan(text, "plan.yaml");
  } catch (error) {
    if (error instanceof LapidaryError) return error;
    throw error;
  }
  throw new Error("not refused");
}

describe("names of weights", () => {
  it("lead from the checkpoint to GGUF and back for all members", () => {
    for (const member of ["E2B", "E4B", "12B", "26B-A4B", "31B"] as const) {
      const config = configOf(member);
      for (const { name, gguf } of [...listWeights(config), headWeight(config)]) {
        expect([ggufNameOf(name), checkpointNameOf(gguf)]).toEqual([gguf, name]);
      }
    }
    expect(ggufNameOf("layers.01.mlp.down_proj.weight")).toBeUndefined();
    expect(ggufNameOf("layers.1.constructor")).toBeUndefined();
    expect(checkpointNameOf("rope_freqs.weight")).toBeUndefined();
  });
});

describe("a plan as text", () => {
  it("has a line a weight, and is read as it was written", async () => {
    const plan: PlanFile = {
      ...(await nanoPlan()),
      name: "small-1.5",
      checkpoint: [{ file: "model.safetensors", sha256: "0".repeat(64) }],
      statistics: { text: "a".repeat(64), windows: 4, tokens: 2048 },
      gguf: {
        mix: "Q4_K_M",
        origin: "allocation",
        budget: { bytes: 1_600_000 },
        estimate: { bytes: 1_599_968, kld: 1.25e-7 },
        compared: [{ name: "Q3_K_M", bytes: 1_500_000, kld: 0.5 }],
      },
    };
    const text = formatPlan(plan);
    expect(parsePlan(text, "x.yaml").plan).toEqual(plan);
    expect(parse(text)).toEqual(plan);
    const lines = text.split("\n").filter((line) => line.includes("_proj.weight:"));
    expect(lines.find((line) => line.includes(DOWN))).toMatch(
      /^ {2}layers\.0\.mlp\.down_proj\.weight: +\{ gguf: \{ type: Q8_0 \}, onnx: \{ bits: 8, block: 64, zeroPoint: true \} \}$/,
    );
    expect(new Set(lines.map((line) => line.indexOf("{"))).size).toBe(1);
  });

  it("names its files by the name in it, or by its own", () => {
    const named = (path: string, name = ""): string =>
      planName(parsePlan(`plan: 1\n${name}weights: {}\n`, path));
    expect(named("a/small.yaml", "name: mine\n")).toBe("mine");
    expect([named("a/small.yaml"), named("a/my plan.yml"), named(".yaml")]).toEqual([
      "small",
      "my-plan",
      "plan",
    ]);
  });

  it.each([
    ["nothing in it", "", "plan.yaml: empty; expected at least plan: 1"],
    ["another version", "plan: 2\nweights: {}\n", "plan: expected version 1, found 2 (line 1, column 7)"],
    ["no weights", "plan: 1\n", "weights: expected a map of weights, the key is missing"],
    [
      "an unknown type",
      "plan: 1\nweights: {a: {gguf: {type: Q4_KK}}}\n",
      "weights.a.gguf.type: there is no type",
    ],
    [
      "a column that is none",
      "plan: 1\nweights: {a: {ggfu: {type: Q4_K}}}\n",
      'weights.a: there is no key "ggfu"',
    ],
    [
      "three bits",
      "plan: 1\nweights: {a: {onnx: {bits: 3}}}\n",
      "onnx.bits: expected 2, 4, 8, 16 or 32, found 3",
    ],
    [
      "blocks of numbers",
      "plan: 1\nweights: {a: {onnx: {bits: 16, block: 32}}}\n",
      "neither blocks nor zero",
    ],
    ["a weight twice", "plan: 1\nweights:\n  a: {}\n  a: {}\n", 'the key "a" is there twice'],
    ["no mix", "plan: 1\ngguf: {}\nweights: {}\n", "gguf.mix: expected the name of a mix"],
    [
      "no loss",
      "plan: 1\ngguf: {mix: Q4_0, estimate: {bytes: 1, kld: .nan}}\nweights: {}\n",
      "kld: expected a number",
    ],
  ])("is refused with %s", (_, text, message) => {
    const { code, exitCode, message: found } = refusal(text);
    expect([code, exitCode]).toEqual(["bad-plan", 2]);
    expect(found).toContain(message);
  });

  it("is a plan or refused, whatever it holds", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 3 }), fc.jsonValue({ maxDepth: 2 }), (weights, gguf) => {
        try {
          parsePlan(JSON.stringify({ plan: 1, weights, gguf }), "plan.yaml");
          return true;
        } catch (error) {
          return error instanceof LapidaryError && error.code === "bad-plan" && error.exitCode === 2;
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("the schema for editors", () => {
  it("is what the build makes of the schema", () => {
    expect(readFileSync("docs/plan.schema.json", "utf8")).toBe(planJsonSchema());
  });
});

describe("--plan", () => {
  const quantize = (source: string, ...argv: string[]) =>
    runCommand(Quantize, [source, "--threads", "1", ...argv]);
  const toOnnx = (...argv: string[]) =>
    runCommand(Convert, [nanoCheckpoint, "--to", "onnx", ...argv, "--dry-run"]);

  it("gives each tensor of a GGUF file its type, from a checkpoint and from a GGUF file", async () => {
    const path = await written(await nanoPlan());
    const folder = scratchFolder();
    const found = await quantize(nanoCheckpoint, "--plan", path, "--out", folder);
    expect(found).toMatchObject({ code: 0 });
    const down = String.raw`blk\.0\.ffn_down=Q8_0`;
    const flags = ["--type", "Q4_0", "--pure", "--tensor-type", down, "--tensor-type", "embd=Q4_0"];
    flags.push("--out", join(folder, "flags.gguf"));
    const byFlags = await quantize(nanoCheckpoint, ...flags);
    expect(byFlags.code).toBe(0);
    const bytes = readFileSync(join(folder, "nano-e-my-plan.gguf"));
    expect(bytes.equals(readFileSync(join(folder, "flags.gguf")))).toBe(true);

    const base = await convertFixture("BF16");
    await quantize(base, "--plan", path, "--out", join(folder, "again.gguf"));
    const model = await openGguf(join(folder, "again.gguf"));
    const types = new Map(model.tensors.map(({ name, type }) => [name, type]));
    expect([types.get("blk.0.ffn_down.weight"), types.get("blk.1.ffn_down.weight")]).toEqual([
      "Q8_0",
      "Q4_0",
    ]);
  });

  it("gives each matrix of ONNX graphs its codes", async () => {
    const path = await written(await nanoPlan());
    const run = await toOnnx("--plan", path, "--out", scratchFolder(), "--json");
    const { graphs } = JSON.parse(run.stdout) as {
      graphs: { graph: string; dtype: string; tensors: { name: string; type: string }[] }[];
    };
    const types = new Map(graphs.flatMap(({ tensors }) => tensors.map(({ name, type }) => [name, type])));
    expect(new Set(graphs.map(({ dtype }) => dtype))).toEqual(new Set(["q4"]));
    expect([types.get(DOWN), types.get("lm_head.weight"), types.get("embed_tokens.weight")]).toEqual([
      "q8z",
      "q8",
      "q4",
    ]);
    expect(types.get("layers.1.mlp.down_proj.weight")).toBe("q4");
  });

  it("comes behind other flags, and into a recipe", async () => {
    const path = await written(await nanoPlan());
    const recipe = join(scratchFolder(), "recipe.yaml");
    writeFileSync(
      recipe,
      `recipe: 1\nmix: Q5_0\nplan: ${JSON.stringify(path)}\ntensors: [{match: ffn_up, type: Q5_0}]\n`,
    );
    for (const flags of [
      ["--plan", path, "--tensor-type", "ffn_up=Q5_0"],
      ["--recipe", recipe],
    ]) {
      const run = await quantize(nanoCheckpoint, ...flags, "--out", scratchFolder(), "--dry-run", "--json");
      const { artifacts } = JSON.parse(run.stdout) as {
        artifacts: [{ tensors: { name: string; type: string }[] }];
      };
      const types = new Map(artifacts[0].tensors.map(({ name, type }) => [name, type]));
      expect([types.get("blk.1.ffn_up.weight"), types.get("blk.0.ffn_down.weight")]).toEqual([
        "Q5_0",
        "Q8_0",
      ]);
      expect(types.get("blk.1.ffn_down.weight")).toBe("Q4_0");
    }
  });

  const line = { gguf: { type: "Q4_0" }, onnx: { bits: 4 as const } };
  it.each<[string, (weights: PlanFile["weights"]) => void, RegExp, RegExp]>([
    [
      "a line that is missing",
      (weights) => delete weights[DOWN],
      /weights\.layers\.0\.mlp\.down_proj\.weight: the column gguf is missing/,
      /weights\.layers\.0\.mlp\.down_proj\.weight: the column onnx is missing/,
    ],
    [
      "a weight that is not there",
      (weights) => (weights["layers.99.mlp.down_proj.weight"] = line),
      /weights\.layers\.99\S+\.gguf: the model has no weight called/,
      /weights\.layers\.99\S+\.onnx: the model has no weight called/,
    ],
    [
      "a name that is none",
      (weights) => (weights["toString"] = line),
      /the model has no weight called "toString"/,
      /the model has no weight called "toString"/,
    ],
    [
      "a type for a norm",
      (weights) => (weights["norm.weight"] = line),
      /output_norm\.weight is never rounded/,
      /norm\.weight is never rounded/,
    ],
    [
      "a type that does not fit",
      (weights) =>
        (weights["layers.0.per_layer_projection.weight"] = {
          gguf: { type: "Q4_K" },
          onnx: { bits: 2, block: 256 },
        }),
      /per_layer_projection\.weight\.gguf: rows of 64 values are no whole blocks of Q4_K/,
      /per_layer_projection\.weight\.onnx: .* no fast kernel for 2 bits in blocks of 256/,
    ],
  ])("names %s", async (_, change, gguf, onnx) => {
    const path = await written(await nanoPlan(change));
    const rounded = await quantize(nanoCheckpoint, "--plan", path, "--out", scratchFolder(), "--dry-run");
    expect(rounded.code).toBe(2);
    expect(rounded.stderr.replaceAll(/\n\s*/g, " ")).toMatch(gguf);
    const exported = await toOnnx("--plan", path, "--out", scratchFolder());
    expect(exported.code).toBe(2);
    expect(exported.stderr.replaceAll(/\n\s*/g, " ")).toMatch(onnx);
  });

  it("needs the column of the format", async () => {
    const { gguf, onnx, ...rest } = await nanoPlan();
    const forOnnx = await written({ ...rest, onnx: onnx! });
    const forGguf = await written({ ...rest, gguf: gguf! });
    const out = ["--out", scratchFolder()];
    expect((await quantize(nanoCheckpoint, "--plan", forOnnx, ...out)).stderr).toContain("nothing for gguf");
    expect((await toOnnx("--plan", forGguf, ...out)).stderr).toContain("nothing for onnx");
    const both = await quantize(nanoCheckpoint, "--plan", forGguf, "--type", "Q4_0", ...out);
    expect(both.code).toBe(2);
  });
});
