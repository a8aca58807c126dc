import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import Bench from "../../commands/bench.js";
import Build from "../../commands/build.js";
import Convert from "../../commands/convert.js";
import Inspect from "../../commands/inspect.js";
import Quantize from "../../commands/quantize.js";
import Verify from "../../commands/verify.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { writeImatrix } from "../support/imatrix.js";
import { type CommandRun, runCommand } from "../support/run-command.js";

/** A copy of the fixture's checkpoint that a test may spoil. */
function copyOfNano(): string {
  const folder = join(scratchFolder(), "spoiled");
  cpSync(nanoCheckpoint, folder, { recursive: true });
  return folder;
}

interface Header {
  [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] };
}

/** Rewrites the header of a copied checkpoint; the data stays where it is. */
function editHeader(folder: string, edit: (header: Header) => void): void {
  const path = join(folder, "model.safetensors");
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  edit(header);
  const text = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([head, text, bytes.subarray(8 + length)]));
}

/** One clear error: the code, the words, no stack trace, and nothing under the final name. */
function expectError(run: CommandRun, code: 1 | 2, words: RegExp, out?: string): void {
  expect(run.stderr).toMatch(words);
  expect(run.stderr).toMatch(/^Error: /m);
  expect(run.stderr).not.toMatch(/^\s+at /m);
  expect(run.code).toBe(code);
  const left =
    out !== undefined && statSync(out, { throwIfNoEntry: false })?.isDirectory() ? readdirSync(out) : [];
  expect(left.filter((name) => name.endsWith(".gguf"))).toEqual([]);
}

async function convert(folder: string): Promise<{ run: CommandRun; out: string }> {
  const out = join(scratchFolder(), "out");
  return { run: await runCommand(Convert, [folder, "--to", "gguf", "--type", "q8_0", "--out", out]), out };
}

describe("convert refuses a checkpoint", () => {
  it("whose safetensors header is cut short", async () => {
    const folder = copyOfNano();
    truncateSync(join(folder, "model.safetensors"), 1000);
    const { run, out } = await convert(folder);
    expectError(run, 1, /model\.safetensors/, out);
  });

  it("whose header lies about its length", async () => {
    const folder = copyOfNano();
    const bytes = readFileSync(join(folder, "model.safetensors"));
    bytes.writeBigUInt64LE(2n ** 40n);
    writeFileSync(join(folder, "model.safetensors"), bytes);
    const { run, out } = await convert(folder);
    expectError(run, 1, /model\.safetensors/, out);
  });

  it("whose data is cut short", async () => {
    const folder = copyOfNano();
    truncateSync(join(folder, "model.safetensors"), 9_000_000);
    const { run, out } = await convert(folder);
    expectError(run, 1, /model\.safetensors/, out);
  });

  it("of which a shard is missing", async () => {
    const folder = join(scratchFolder(), "sharded");
    await makeCheckpoint(folder, { kind: "dense", shards: 3 });
    const { rmSync } = await import("node:fs");
    rmSync(join(folder, "model-00002-of-00003.safetensors"));
    const { run, out } = await convert(folder);
    expectError(run, 1, /model-00002-of-00003\.safetensors/, out);
  });

  it.each(["../model-00001-of-00003.safetensors", "/etc/passwd", "a/b.safetensors"])(
    "whose index points to %s",
    async (path) => {
      const folder = join(scratchFolder(), "sharded");
      await makeCheckpoint(folder, { kind: "dense", shards: 3 });
      const file = join(folder, "model.safetensors.index.json");
      const index = JSON.parse(readFileSync(file, "utf8")) as { weight_map: Record<string, string> };
      const [name = ""] = Object.keys(index.weight_map);
      index.weight_map[name] = path;
      writeFileSync(file, JSON.stringify(index));
      const { run, out } = await convert(folder);
      expectError(run, 1, /index\.json/, out);
    },
  );

  it("whose index names a tensor that no shard has", async () => {
    const folder = join(scratchFolder(), "sharded");
    await makeCheckpoint(folder, { kind: "dense", shards: 3 });
    const file = join(folder, "model.safetensors.index.json");
    const index = JSON.parse(readFileSync(file, "utf8")) as { weight_map: Record<string, string> };
    index.weight_map["model.language_model.ghost.weight"] = "model-00001-of-00003.safetensors";
    writeFileSync(file, JSON.stringify(index));
    const { run, out } = await convert(folder);
    expectError(run, 1, /ghost\.weight/, out);
  });

  it.each(["gemma3", "llama"])("of the model %s, and says what is supported", async (model) => {
    const folder = copyOfNano();
    const file = join(folder, "config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify({ ...config, model_type: model }));
    const { run, out } = await convert(folder);
    expectError(run, 2, new RegExp(`${model}[\\s\\S]*gemma4`), out);
  });

  it("without a tokenizer", async () => {
    const folder = copyOfNano();
    const { rmSync } = await import("node:fs");
    rmSync(join(folder, "tokenizer.json"));
    const { run, out } = await convert(folder);
    expectError(run, 2, /tokenizer\.json/, out);
  });

  it("with a tensor of another shape", async () => {
    const folder = copyOfNano();
    editHeader(folder, (header) => {
      const tensor = header["model.language_model.layers.1.mlp.up_proj.weight"];
      if (tensor !== undefined) tensor.shape = [256, 512];
    });
    const { run, out } = await convert(folder);
    expectError(run, 1, /layers\.1\.mlp\.up_proj\.weight.*\[256, 512\].*\[512, 256\]/, out);
  });

  it("with a tensor that nobody knows", async () => {
    const folder = join(scratchFolder(), "unknown");
    await makeCheckpoint(folder, { kind: "e", add: { "model.language_model.mystery.weight": [4, 4] } });
    const { run, out } = await convert(folder);
    expectError(run, 1, /mystery\.weight/, out);
  });

  it("without a tensor that the config calls for", async () => {
    const folder = join(scratchFolder(), "missing");
    await makeCheckpoint(folder, { kind: "e", drop: ["layers.1.mlp.up_proj.weight"] });
    const { run, out } = await convert(folder);
    expectError(run, 1, /layers\.1\.mlp\.up_proj\.weight is missing/, out);
  });

  it.each([
    ["NaN", 0x7fc0],
    ["infinity", 0xff80],
  ])("with %s in it, naming tensor and place", async (_name, bits) => {
    const folder = copyOfNano();
    const path = join(folder, "model.safetensors");
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
    const start = header["model.language_model.layers.0.mlp.up_proj.weight"]?.data_offsets[0] ?? 0;
    bytes.writeUInt16LE(bits, 8 + length + start + 2 * (3 * 256 + 7));
    writeFileSync(path, bytes);
    const { run, out } = await convert(folder);
    expectError(run, 1, /blk\.0\.ffn_up\.weight.*row 3, column 7/, out);
    expect(readdirSync(out)).toEqual([]);
  });
});

describe("quantize refuses", () => {
  async function spoil(edit: (bytes: Buffer) => Buffer): Promise<CommandRun> {
    const path = join(scratchFolder(), "spoiled.gguf");
    writeFileSync(path, edit(readFileSync(await convertFixture("BF16"))));
    const out = join(scratchFolder(), "out");
    const run = await runCommand(Quantize, [path, "--type", "Q8_0", "--out", out]);
    expect(statSync(out, { throwIfNoEntry: false })).toBeUndefined();
    return run;
  }

  it("a GGUF that is cut short", async () => {
    expectError(await spoil((bytes) => bytes.subarray(0, bytes.length - 100)), 1, /spoiled\.gguf/);
    expectError(await spoil((bytes) => bytes.subarray(0, 500)), 1, /spoiled\.gguf/);
  });

  it("a GGUF with a huge count", async () => {
    const run = await spoil((bytes) => {
      bytes.writeBigUInt64LE(2n ** 62n, 8);
      return bytes;
    });
    expectError(run, 1, /spoiled\.gguf/);
  });

  it("a GGUF whose tensors overlap, or are of an unknown type", async () => {
    const overlap = await spoil((bytes) => {
      const name = bytes.lastIndexOf("blk.1.attn_q.weight");
      bytes.writeBigUInt64LE(0n, name + "blk.1.attn_q.weight".length + 4 + 16 + 4);
      return bytes;
    });
    expectError(overlap, 1, /blk\.1\.attn_q\.weight/);
    const type = await spoil((bytes) => {
      const name = bytes.lastIndexOf("blk.1.attn_q.weight");
      bytes.writeUInt32LE(4242, name + "blk.1.attn_q.weight".length + 4 + 16);
      return bytes;
    });
    expectError(type, 1, /blk\.1\.attn_q\.weight.*4242/);
  });

  it("a GGUF that is rounded already", async () => {
    const run = await runCommand(Quantize, [
      await convertFixture("Q8_0"),
      "--type",
      "Q4_0",
      "--out",
      scratchFolder(),
    ]);
    expectError(run, 2, /Q8_0/);
  });

  it("a mix or a type that it does not know", async () => {
    const refuse = async (argv: readonly string[], pattern: RegExp): Promise<void> =>
      expectError(
        await runCommand(Quantize, [nanoCheckpoint, ...argv, "--out", scratchFolder()]),
        2,
        pattern,
      );
    await refuse(["--type", "Q4KM"], /Q4KM[\s\S]*Did you mean Q4_K_M/);
    await refuse(["--type", "float8"], /float8[\s\S]*Q4_K_M/);
    await refuse(["--type", "Q4_0", "--embedding-type", "Q9"], /Q9/);
    await refuse(["--type", "Q4_0", "--tensor-type", "ffn_down"], /--tensor-type ffn_down/);
    await refuse(["--type", "Q4_0", "--tensor-type", "ffn_dwn=Q8_0"], /ffn_dwn.*finds no tensor/);
    await refuse(["--type", "Q4_0", "--tensor-type", "(=Q8_0"], /regular expression/);
    await refuse(["--type", "Q4_0", "--tensor-type", "ffn=I8"], /I8/);
    await refuse(["--type", "Q1_0"], /rows of 64 values/);
  });

  it("an importance matrix that is missing, wanting, damaged or of another model", async () => {
    const folder = scratchFolder();
    const out = ["--out", folder];
    const refuse = async (type: string, imatrix: readonly string[], code: 1 | 2, pattern: RegExp) => {
      expectError(
        await runCommand(Quantize, [nanoCheckpoint, "--type", type, ...imatrix, ...out]),
        code,
        pattern,
      );
      expect(readdirSync(folder)).toEqual([]);
    };
    await refuse("IQ2_XS", [], 2, /blk\.0[\s\S]*--imatrix/);
    const file = join(scratchFolder(), "imatrix.gguf");
    await refuse("Q4_K_M", ["--imatrix", file], 2, /imatrix\.gguf/);
    const flag = ["--imatrix", file];
    writeImatrix(file, new Map([["blk.0.attn_q.weight", new Float32Array(256).fill(1)]]));
    await refuse("IQ2_XS", flag, 2, /imatrix\.gguf: no entry for tensor blk\.0/);
    writeImatrix(file, new Map([["blk.0.attn_q.weight", new Float32Array(255).fill(1)]]));
    await refuse("Q4_K_M", flag, 2, /attn_q\.weight has an importance of 255 values, expected 256/);
    writeImatrix(file, new Map([["blk.9.attn_q.weight", new Float32Array(256).fill(1)]]));
    await refuse("Q4_K_M", flag, 2, /another model/);
    writeImatrix(file, new Map([["blk.0.attn_q.weight", new Float32Array(256).fill(Number.NaN)]]));
    await refuse("Q4_K_M", flag, 1, /attn_q\.weight.*NaN/);
    writeFileSync(file, readFileSync("fixtures/reference/imatrix.gguf").subarray(0, 20_000));
    await refuse("Q4_K_M", flag, 1, /imatrix\.gguf/);
  });

  it("a file in the way, unless it is told to replace it", async () => {
    const out = join(scratchFolder(), "mine.gguf");
    writeFileSync(out, "precious");
    const argv = [nanoCheckpoint, "--type", "Q8_0", "--out", out];
    expectError(await runCommand(Quantize, argv), 2, /mine\.gguf.*there already[\s\S]*--force/);
    expect(readFileSync(out, "utf8")).toBe("precious");
    expect((await runCommand(Quantize, [...argv, "--force"])).code).toBe(0);
    expect(readFileSync(out).subarray(0, 4).toString()).toBe("GGUF");
  });

  it("to begin when the last of several files is in the way", async () => {
    const out = scratchFolder();
    writeFileSync(join(out, "nano-e-Q4_0.gguf"), "precious");
    const run = await runCommand(Quantize, [nanoCheckpoint, "--type", "Q8_0,Q4_0", "--out", out]);
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(/nano-e-Q4_0\.gguf.*there already/);
    expect(readdirSync(out)).toEqual(["nano-e-Q4_0.gguf"]);
  });

  it("an output that cannot be a folder", async () => {
    const file = join(scratchFolder(), "file");
    writeFileSync(file, "");
    expectError(
      await runCommand(Quantize, [nanoCheckpoint, "--type", "Q8_0", "--out", join(file, "below")]),
      1,
      /below/,
    );
  });

  it("several types for one file, and one type twice", async () => {
    const out = join(scratchFolder(), "one.gguf");
    expectError(
      await runCommand(Quantize, [nanoCheckpoint, "--type", "Q8_0,Q4_0", "--out", out]),
      2,
      /--type names 2/,
    );
    expectError(
      await runCommand(Quantize, [nanoCheckpoint, "--type", "Q8_0,q8_0", "--out", scratchFolder()]),
      2,
      /Q8_0 twice/,
    );
  });

  it("a ceiling too low to work under", async () => {
    expectError(
      await runCommand(Quantize, [
        nanoCheckpoint,
        "--type",
        "Q8_0",
        "--out",
        scratchFolder(),
        "--memory",
        "1MiB",
      ]),
      2,
      /memory/,
    );
  });
});

describe("flags and paths", () => {
  it("that make no sense are misuse", async () => {
    for (const argv of [
      ["nowhere", "--type", "Q8_0", "--out", scratchFolder()],
      [join(nanoCheckpoint, "config.json"), "--type", "Q8_0", "--out", scratchFolder()],
      [nanoCheckpoint, "--type", "Q8_0", "--out", scratchFolder(), "--memory", "lots"],
      [nanoCheckpoint, "--type", "Q8_0,", "--out", scratchFolder()],
      [nanoCheckpoint, "--type", "Q8_0", "--out", scratchFolder(), "--threads", "0"],
      [nanoCheckpoint, "--type", "Q8_0", "--out", scratchFolder(), "--bogus"],
      [nanoCheckpoint, "--out", scratchFolder()],
    ]) {
      expectError(await runCommand(Quantize, argv), 2, /Error: /);
    }
  });

  it("have to name mixes or a recipe, and not both", async () => {
    const recipe = join(scratchFolder(), "recipe.yaml");
    writeFileSync(recipe, "recipe: 1\nmix: Q8_0\n");
    const out = ["--out", scratchFolder()];
    const ways = /--type.*--recipe|--recipe.*--type/;
    expectError(await runCommand(Quantize, [nanoCheckpoint, ...out]), 2, ways);
    expectError(await runCommand(Build, [nanoCheckpoint, ...out]), 2, ways);
    const both = [nanoCheckpoint, "--type", "Q8_0", "--recipe", recipe, ...out];
    expectError(await runCommand(Quantize, both), 2, ways);
    const exact = [nanoCheckpoint, "--to", "gguf", "--match-converter", "--recipe", recipe, ...out];
    expectError(await runCommand(Convert, exact), 2, /--match-converter/);
  });

  it("name a recipe that is one", async () => {
    const recipe = join(scratchFolder(), "recipe.yaml");
    const out = join(scratchFolder(), "out");
    const argv = [nanoCheckpoint, "--recipe", recipe, "--out", out];
    expectError(await runCommand(Quantize, argv), 2, /recipe\.yaml: there is no such file/, out);
    writeFileSync(recipe, "recipe: 1\nmix: Q8_0\ntensors:\n  - {match: ffn, typ: Q4_0}\n");
    const words =
      /recipe\.yaml: tensors\[0\]: there is no key "typ" \(line 4, column 18\)\.\n {2}Did you mean type\?/;
    for (const run of [
      await runCommand(Quantize, argv),
      await runCommand(Convert, [...argv, "--to", "gguf"]),
      await runCommand(Build, argv),
    ]) {
      expectError(run, 2, words, out);
    }
    writeFileSync(recipe, "recipe: 1\nmix: [Q8_0\n");
    expectError(await runCommand(Quantize, argv), 2, /recipe\.yaml: line 3, column 1: /, out);
    const json = await runCommand(Quantize, [...argv, "--json"]);
    expect(json.code).toBe(2);
    expect(JSON.parse(json.stdout)).toMatchObject({ error: { code: "bad-recipe", exitCode: 2 } });
  });

  it("come as JSON when JSON is asked for", async () => {
    const run = await runCommand(Inspect, ["nowhere", "--json"]);
    expect(run.code).toBe(2);
    expect(JSON.parse(run.stdout)).toEqual({
      error: { code: "no-source", exitCode: 2, message: expect.stringContaining("nowhere") as string },
    });
  });
});

describe("inspect", () => {
  it("refuses modes that do not go with the paths or with each other", async () => {
    const path = await convertFixture("Q8_0");
    for (const [argv, words] of [
      [["--diff", path], /--diff compares two models, and only .*nano-e-Q8_0\.gguf/],
      [["--diff", "--check", path, path], /--diff and --check/],
      [["--check", "--tensors", path], /--check and --tensors/],
      [["--check", path, nanoCheckpoint], /nano-e: --check reads one model/],
      [[path, nanoCheckpoint], /nano-e: inspect shows one model[\s\S]*--diff/],
      [["--diff", path, path, path], /Unexpected argument/],
      [["--diff", path, "nowhere"], /nowhere/],
      [["--check", join(nanoCheckpoint, "config.json")], /config\.json/],
    ] as const) {
      expectError(await runCommand(Inspect, argv), 2, words);
    }
  });

  it("--check prints what it found, then fails with one error", async () => {
    const bytes = readFileSync(await convertFixture("Q8_0"));
    const path = join(scratchFolder(), "spoiled.gguf");
    // The last tensor of the file is a norm in F32.
    bytes.writeFloatLE(NaN, bytes.length - 4 * 64 + 4 * 5);
    writeFileSync(path, bytes);
    const run = await runCommand(Inspect, ["--check", path]);
    expectError(
      run,
      1,
      /^Error: .*spoiled\.gguf: 1 tensor holds .*per_layer_proj_norm\.weight \(NaN at row 0, column 5\)/m,
    );
    expect(run.stderr.match(/^Error: /gm)).toHaveLength(1);
    expect(run.stdout).toMatch(/per_layer_proj_norm\.weight.*NaN/);
    expect(run.stdout).toMatch(/there is no .*manifest\.json/);

    const json = await runCommand(Inspect, ["--check", path, "--json"]);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({
      kind: "check",
      bad: [{ name: "per_layer_proj_norm.weight", row: 0, column: 5, value: "NaN", values: 1 }],
      error: { code: "non-finite", exitCode: 1 },
    });
    expect(json.stderr).not.toContain("Error:");
  });

  it("--check and --diff of sound files end with 0", async () => {
    const [a, b] = [await convertFixture("Q8_0"), await convertFixture("Q4_0")];
    const check = await runCommand(Inspect, ["--check", a]);
    expect(check).toMatchObject({ code: 0 });
    expect(check.stdout).toMatch(/all finite/);
    const diff = await runCommand(Inspect, ["--diff", a, b]);
    expect(diff).toMatchObject({ code: 0 });
    expect(diff.stdout).toMatch(
      /│ ≠ │ blk\.0\.attn_q\.weight +│ Q8_0 │ Q4_0 │ +69,632 │ +36,864 │ +0\.08\d+ │/,
    );
    expect(diff.stdout).toMatch(/│ {3}│ output_norm\.weight .* identical │/);
    const json = await runCommand(Inspect, ["--diff", a, b, "--json"]);
    expect(JSON.parse(json.stdout)).toMatchObject({ kind: "diff", total: { compared: 68 } });
  });
});

describe("verify, bench and build refuse", () => {
  it("a text that is empty, or shorter than a window", async () => {
    const text = join(scratchFolder(), "text.txt");
    const model = await convertFixture("Q8_0");
    writeFileSync(text, " \n");
    expectError(await runCommand(Verify, [model, "--text", text]), 2, /text\.txt.*empty/);
    writeFileSync(text, "Too short.");
    expectError(await runCommand(Verify, [model, "--text", text]), 2, /512/);
    expectError(await runCommand(Verify, [model, "--text", `${text}.none`]), 2, /text\.txt\.none/);
  });

  it("a file that llama.cpp cannot load", async () => {
    const path = join(scratchFolder(), "broken.gguf");
    writeFileSync(path, readFileSync(await convertFixture("Q8_0")).subarray(0, 200_000));
    expectError(await runCommand(Bench, [path]), 1, /broken\.gguf/);
    expectError(await runCommand(Bench, [`${path}.none`]), 2, /broken\.gguf\.none/);
  });

  it("a gate that cannot be meant", async () => {
    const model = await convertFixture("Q8_0");
    expectError(await runCommand(Verify, [model, "--max-kl", "0.1"]), 2, /reference/);
    expectError(await runCommand(Verify, [model, "--reference", model, "--min-top1", "95"]), 2, /top-1/);
    expectError(await runCommand(Verify, [model, "--max-ppl", "much"]), 2, /--max-ppl much/);
  });

  it("to build into a single file, or over files that nothing vouches for", async () => {
    expectError(
      await runCommand(Build, [nanoCheckpoint, "--type", "Q8_0", "--out", "one.gguf"]),
      2,
      /one\.gguf/,
    );
    const out = scratchFolder();
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, "nano-e-Q8_0.gguf"), "precious");
    expectError(
      await runCommand(Build, [nanoCheckpoint, "--type", "Q8_0", "--out", out]),
      2,
      /there already/,
    );
    expect(readFileSync(join(out, "nano-e-Q8_0.gguf"), "utf8")).toBe("precious");
  });
});
