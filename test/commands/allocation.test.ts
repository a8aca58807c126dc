import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import Ablate from "../../commands/ablate.js";
import Measure from "../../commands/measure.js";
import Plan from "../../commands/plan.js";
import Quantize from "../../commands/quantize.js";
import { startOnnxEngine } from "../../src/engines/onnx/engine.js";
import type { AblationReport } from "../../src/pipeline/ablation.js";
import type { AllocationReport } from "../../src/pipeline/allocate.js";
import { parsePlan } from "../../src/pipeline/plan-file.js";
import type { SensitivityReport } from "../../src/pipeline/sensitivity.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { runCommand } from "../support/run-command.js";
import { calibrate } from "../support/sensitivity.js";
import { spikyLayer } from "../support/spiky-layer.js";
import { randomTokens } from "../support/text-models.js";

const TYPES = ["--types", "Q3_K,Q4_K,Q6_K,Q5_0,Q8_0,q4-32,q8-32"];
let statistics = "";

const plan = (output: string, ...argv: string[]) =>
  runCommand(Plan, [nanoCheckpoint, "--statistics", statistics, "--output", output, ...argv]);

beforeAll(async () => {
  const engine = await startOnnxEngine();
  const windows = [1, 2].map((seed) => randomTokens(48, seed));
  statistics = (await calibrate(engine, nanoCheckpoint, windows)).folder;
  await engine.close();
  const run = await runCommand(Measure, [
    nanoCheckpoint,
    "--statistics",
    statistics,
    ...TYPES,
    "--threads",
    "2",
  ]);
  if (run.code !== 0) throw new Error(run.stderr);
});

describe("measure", () => {
  it("says what rounding everything to a type costs, and does nothing twice", async () => {
    const path = join(statistics, "sensitivity.json");
    const before = statSync(path).mtimeMs;
    const run = await runCommand(Measure, [nanoCheckpoint, "--statistics", statistics, ...TYPES, "--json"]);
    const { types, weights } = JSON.parse(run.stdout) as SensitivityReport;
    expect(statSync(path).mtimeMs).toBe(before);
    const cost = new Map(types.map(({ type, kld }) => [type, kld]));
    const order = ["Q3_K", "Q4_K", "Q6_K", "Q8_0"];
    for (const [index, type] of order.slice(1).entries()) {
      expect(cost.get(type)).toBeLessThan(cost.get(order[index]!)! / 1.5);
    }
    expect(weights.find(({ name }) => name === "embed_tokens_per_layer.weight")?.by).toBe("measurement");
    expect(weights.find(({ name }) => name === "lm_head.weight")?.by).toBe("gradients");
  });

  it("wants statistics of this checkpoint, and types that are some", async () => {
    const other = await runCommand(Measure, [nanoCheckpoint, "--statistics", scratchFolder()]);
    expect([other.code, other.stderr]).toEqual([2, expect.stringContaining("statistics.json")]);
    const folder = scratchFolder();
    const list = JSON.parse(readFileSync(join(statistics, "inputs", "statistics.json"), "utf8")) as {
      checkpoint: { bytes: number }[];
    };
    list.checkpoint[0]!.bytes += 1;
    mkdirSync(join(folder, "inputs"));
    writeFileSync(join(folder, "inputs", "statistics.json"), JSON.stringify(list));
    const stranger = await runCommand(Measure, [nanoCheckpoint, "--statistics", folder]);
    expect([stranger.code, stranger.stderr]).toEqual([2, expect.stringContaining("the statistics expect")]);
    const type = await runCommand(Measure, [nanoCheckpoint, "--statistics", statistics, "--types", "Q9_K"]);
    expect([type.code, type.stderr]).toEqual([2, expect.stringContaining('"Q9_K" is no type')]);
  });
});

describe("plan", () => {
  it("fills a budget for both formats, and quantize writes what it says", async () => {
    const folder = scratchFolder();
    const output = join(folder, "small.yaml");
    const run = await plan(output, ...TYPES, "--to", "gguf,onnx", "--budget", "2600000B", "--json");
    expect(run.code).toBe(0);
    const { columns } = JSON.parse(run.stdout) as AllocationReport;
    const [gguf, onnx] = columns as [
      AllocationReport["columns"][number],
      AllocationReport["columns"][number],
    ];
    for (const { bytes, kld, control, compared } of [gguf, onnx]) {
      expect(bytes).toBeLessThanOrEqual(2_600_000);
      expect(bytes).toBeGreaterThan(2_450_000);
      expect(kld).toBeLessThan(control.least);
      const rivals = compared.filter((rival) => rival.bytes <= 2_600_000);
      expect(kld).toBeLessThanOrEqual(Math.min(...rivals.map((rival) => rival.kld)));
    }
    expect(gguf.compared.map(({ name }) => name)).toContain("Q4_K_M");
    const { plan: written } = parsePlan(readFileSync(output, "utf8"), output);
    expect(written.gguf).toMatchObject({ origin: gguf.origin, estimate: { bytes: gguf.bytes } });
    expect(written.weights["lm_head.weight"]?.gguf).toBeUndefined();
    const made = await runCommand(Quantize, [
      nanoCheckpoint,
      "--plan",
      output,
      "--out",
      folder,
      "--threads",
      "1",
    ]);
    expect(made.code).toBe(0);
    expect(statSync(join(folder, "nano-e-small.gguf")).size).toBe(gguf.bytes);

    expect((await plan(output, ...TYPES, "--bpw", "4")).code).not.toBe(0);
    const again = await plan(output, ...TYPES, "--bpw", "4", "--force");
    expect(again.code).toBe(0);
    expect(again.stdout).toMatch(/bits a weight/);
    expect(again.stdout).toMatch(/by chance, best of 20/);
  });

  it("finds the smallest files below a loss", async () => {
    const sizes: number[] = [];
    for (const kld of ["0.02", "0.002"]) {
      const run = await plan(join(scratchFolder(), "p.yaml"), ...TYPES, "--max-kld", kld, "--json");
      const { columns } = JSON.parse(run.stdout) as AllocationReport;
      expect(columns[0]!.kld).toBeLessThanOrEqual(Number(kld));
      sizes.push(columns[0]!.bytes);
    }
    expect(sizes[0]).toBeLessThan(sizes[1]!);
  });

  it("says what is too small, and what was not measured", async () => {
    const output = join(scratchFolder(), "p.yaml");
    const small = await plan(output, ...TYPES, "--budget", "100kB");
    expect([small.code, small.stderr.replaceAll(/\s+/g, " ")]).toEqual([
      2,
      expect.stringMatching(/with the smallest of the types they take \d+/),
    ]);
    const other = await plan(output, "--types", "Q5_1", "--bpw", "5");
    expect([other.code, other.stderr.replaceAll(/\s+/g, " ")]).toEqual([
      2,
      expect.stringContaining("was not measured as Q5_1"),
    ]);
    expect((await plan(output, "--bpw", "5", "--budget", "1GB")).code).toBe(2);
  });
});

describe("ablate", () => {
  it("ranks the weight first whose columns lie far apart", async () => {
    const folder = await spikyLayer(join(scratchFolder(), "spiky"), 1, 3);
    const flags = ["--type", "Q4_0", "--context", "48", "--windows", "1", "--by", "weight,role,layer"];
    const run = await runCommand(Ablate, [folder, ...flags, "--threads", "2", "--json"]);
    const { results } = JSON.parse(run.stdout) as AblationReport;
    const first = (by: string): string | undefined => results.find((each) => each.by === by)?.name;
    expect([first("weight"), first("role"), first("layer")]).toEqual([
      "layers.1.mlp.down_proj.weight",
      "ffn_down",
      "layer 1",
    ]);
  });

  it("draws bars, and names what it leaves out", async () => {
    const flags = ["--type", "Q4_K", "--context", "32", "--windows", "1", "--by", "role", "--threads", "2"];
    const run = await runCommand(Ablate, [nanoCheckpoint, ...flags]);
    expect(run.code).toBe(0);
    expect(run.stdout).toMatch(/█{30}/);
    expect(run.stdout).toMatch(/Left out, since .* Q4_K: layers\.0\.per_layer_projection\.weight/);
    const wrong = await runCommand(Ablate, [nanoCheckpoint, "--type", "Q4_K", "--by", "size"]);
    expect(wrong.code).toBe(2);
  });
});
