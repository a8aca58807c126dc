import { existsSync, readdirSync } from "node:fs";
import { cp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import Bench from "../../commands/bench.js";
import Convert from "../../commands/convert.js";
import Verify from "../../commands/verify.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { type CommandRun, runCommand } from "../support/run-command.js";

/** A package of two decoders, at the level that packages have unless another is asked for. */
let folder = "";
let text = "";
let reference = "";

const convertTo = (out: string, dtypes: string, ...flags: string[]): Promise<CommandRun> =>
  runCommand(Convert, [nanoCheckpoint, "--to", "onnx", "--dtype", dtypes, "--out", out, ...flags]);

beforeAll(async () => {
  folder = scratchFolder();
  const run = await convertTo(folder, "q4,fp16", "--method", "nearest");
  if (run.code !== 0) throw new Error(run.stderr);
  text = join(scratchFolder(), "text.txt");
  await writeFile(text, (await readFile("fixtures/text/eval.txt", "utf8")).slice(0, 3000));
  reference = await convertFixture("F32");
});

describe("convert --to onnx", () => {
  it("writes a package and tells what is in it", async () => {
    const out = scratchFolder();
    const { code, stdout } = await convertTo(out, "embed_tokens=q4", "--json", "--block-size", "64");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      outcome: "written",
      graphs: [{ graph: "embed_tokens", dtype: "q4", block: 64, accuracyLevel: 4, method: "search" }],
    });
    expect(readdirSync(join(out, "onnx"))).toEqual(["embed_tokens_q4.onnx", "embed_tokens_q4.onnx_data"]);
  });

  it("shows in a dry run what it would write, and writes nothing", async () => {
    const out = join(scratchFolder(), "out");
    const { code, stdout } = await convertTo(out, "q4,q2", "--dry-run");
    expect(code).toBe(0);
    for (const name of ["decoder_model_merged", "embed_tokens", "q4", "q2"]) expect(stdout).toContain(name);
    expect(existsSync(out)).toBe(false);
  });

  it.each([
    [["--dtype", "q5"], "unknown-dtype", "--dtype q5"],
    [[], "misuse", "--dtype"],
    [["--dtype", "q4", "--block-size", "48"], "bad-block-size", "--block-size 48"],
    [["--dtype", "q4", "--tensor-type", "nothing=q8"], "pattern-finds-nothing", "nothing=q8"],
    [["--dtype", "q4", "--tensor-type", "mlp=Q4_K"], "unknown-form", "mlp=Q4_K"],
    [["--dtype", "q4", "--method", "ggml"], "bad-flag", "--method ggml"],
    [["--dtype", "q4,q8", "--layout", "genai"], "single-dtype", "one graph"],
    [["--dtype", "q4", "--split-max-size", "1G"], "bad-flag", "--split-max-size"],
  ])("refuses %j with exit code 2 and a code", async (flags, code, message) => {
    const out = join(scratchFolder(), "out");
    const run = await runCommand(Convert, [nanoCheckpoint, "--to", "onnx", "--out", out, "--json", ...flags]);
    expect(run.code).toBe(2);
    const { error } = JSON.parse(run.stdout) as { error: { code: string; message: string } };
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
    expect(existsSync(out)).toBe(false);
  });

  it("refuses its flags to GGUF", async () => {
    const argv = [nanoCheckpoint, "--to", "gguf", "--type", "F16", "--out", scratchFolder(), "--json"];
    for (const flag of [
      ["--layout", "genai"],
      ["--block-size", "32"],
      ["--accuracy-level", "0"],
    ]) {
      const run = await runCommand(Convert, [...argv, ...flag]);
      expect(run.code).toBe(2);
      expect(run.stdout).toContain(flag[0]);
    }
  });
});

interface Measured {
  readonly file: string;
  readonly accuracyLevel: number | null;
  readonly result: {
    readonly candidate: { readonly bytes: number };
    readonly windows: { readonly scored: number; readonly comparison: { divergence: { value: number } } };
  };
}

describe("verify of a package", () => {
  const common = (): string[] => ["--text", text, "--context", "128", "--threads", "1", "--json"];
  const measure = (what: string, ...flags: string[]): Promise<CommandRun> =>
    runCommand(Verify, [what, "--reference", reference, ...common(), "--chunks", "2", ...flags]);
  const decoder = (dtype: string): string => join(folder, "onnx", `decoder_model_merged_${dtype}.onnx`);

  it("measures every decoder, exactly and as it is used", async () => {
    const { code, stdout } = await measure(folder);
    expect(code).toBe(0);
    const { files } = JSON.parse(stdout) as { files: Measured[] };
    // Products of halves have no level.
    expect(files.map(({ file, accuracyLevel }) => [file, accuracyLevel])).toEqual([
      [decoder("fp16"), null],
      [decoder("q4"), 0],
      [decoder("q4"), 4],
    ]);
    const [half, exact, used] = files.map(({ result }) => result.windows.comparison.divergence.value);
    expect(half).toBeLessThan(1e-4);
    expect(exact).toBeGreaterThan(half!);
    expect(exact).toBeLessThan(0.05);
    expect(used).not.toBe(exact);
    expect(files[0]!.result.candidate.bytes).toBeGreaterThan(8_000_000);
  });

  it("measures one decoder at the levels asked for, and misses a gate with exit code 3", async () => {
    const run = await measure(decoder("q4"), "--accuracy-level", "0", "--max-kl", "1e-9");
    expect(run.code).toBe(3);
    const { files } = JSON.parse(run.stdout) as { files: Measured[] };
    expect(files.map(({ accuracyLevel }) => accuracyLevel)).toEqual([0]);
  });

  it("takes a package as the reference of a GGUF file, if it is one model", async () => {
    const flags = [...common(), "--chunks", "1"];
    const one = await runCommand(Verify, [reference, "--reference", decoder("fp16"), ...flags]);
    expect(one.code).toBe(0);
    const { files } = JSON.parse(one.stdout) as { files: Measured[] };
    expect(files).toMatchObject([{ file: reference, accuracyLevel: null }]);
    expect(files[0]!.result.windows.comparison.divergence.value).toBeLessThan(1e-4);
    const two = await runCommand(Verify, [reference, "--reference", folder, ...flags]);
    expect(two.code).toBe(2);
    expect(two.stdout).toContain("it holds 2 decoders, expected one");
  });

  const broken: readonly (readonly [
    string,
    (onnx: string) => Promise<void>,
    { code: string; message: string },
  ])[] = [
    [
      "without a data file",
      (onnx) => rm(join(onnx, "decoder_model_merged_q4.onnx_data")),
      { code: "onnx-data-missing", message: "decoder_model_merged_q4.onnx_data: there is no such data file" },
    ],
    [
      "with a data file cut short",
      (onnx) => truncate(join(onnx, "embed_tokens_q4.onnx_data"), 100_000),
      { code: "onnx-truncated", message: "embed_tokens_q4.onnx_data: the data of" },
    ],
    [
      "with a graph cut short",
      (onnx) => truncate(join(onnx, "decoder_model_merged_q4.onnx"), 10_000),
      { code: "onnx-", message: "decoder_model_merged_q4.onnx" },
    ],
    [
      "without the embedding",
      async (onnx) => {
        await rm(join(onnx, "embed_tokens_q4.onnx"));
        await rm(join(onnx, "embed_tokens_fp16.onnx"));
      },
      { code: "bad-package", message: "it goes with embed_tokens_q4.onnx, and there is none" },
    ],
    [
      "with data outside of its folder",
      async (onnx) => {
        const path = join(onnx, "decoder_model_merged_q4.onnx");
        const name = "decoder_model_merged_q4.onnx_data";
        await writeFile(join(onnx, "..", name.slice(3)), await readFile(join(onnx, name)));
        const bytes = (await readFile(path)).toString("latin1");
        await writeFile(path, bytes.replaceAll(name, `../${name.slice(3)}`), "latin1");
      },
      { code: "onnx-location", message: "../oder_model_merged_q4.onnx_data" },
    ],
    [
      "without config.json",
      (onnx) => rm(join(onnx, "..", "config.json")),
      { code: "no-config", message: "config.json" },
    ],
  ];

  it.each(broken)("%s is refused in one sentence, and so is its bench", async (_what, damage, expected) => {
    const copy = join(scratchFolder(), "copy");
    await cp(folder, copy, { recursive: true });
    await rm(join(copy, "onnx", "decoder_model_merged_fp16.onnx"));
    await damage(join(copy, "onnx"));
    const runs = [await measure(copy), await runCommand(Bench, [copy, "--json"])];
    for (const run of runs) {
      expect([1, 2]).toContain(run.code);
      const { error } = JSON.parse(run.stdout) as { error: { code: string; message: string } };
      expect(error.code).toContain(expected.code);
      expect(error.code).not.toBe("internal");
      expect(error.message).toContain(expected.message);
      expect(error.message).toContain(copy);
      expect(error.message).not.toContain("\n");
    }
  });
});

describe("bench of a package", () => {
  it("times every decoder at its level and exactly, each in a process of its own", async () => {
    const flags = ["--prompt", "8", "--generation", "3", "--repetitions", "2", "--threads", "1", "--json"];
    const { code, stdout } = await runCommand(Bench, [folder, ...flags]);
    expect(code).toBe(0);
    const { files } = JSON.parse(stdout) as {
      files: {
        accuracyLevel: number | null;
        speeds: { kind: string; tokens: number; mean: number }[];
        peakMemory: number;
        model: { parameters: number };
      }[];
    };
    expect(files.map(({ accuracyLevel }) => accuracyLevel)).toEqual([null, 4, 0]);
    for (const { speeds, peakMemory, model } of files) {
      expect(speeds.map(({ kind, tokens }) => [kind, tokens])).toEqual([
        ["prompt", 8],
        ["generation", 3],
      ]);
      for (const { mean } of speeds) expect(mean).toBeGreaterThan(0);
      expect(peakMemory).toBeGreaterThan(20e6);
      expect(model.parameters).toBeGreaterThan(3_000_000);
    }
  });
});
