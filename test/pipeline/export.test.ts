import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { cp, mkdir, open, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openOnnx } from "../../formats/onnx/read.js";
import { LapidaryError } from "../../src/base/errors.js";
import { encodeNBits } from "../../src/blocks/nbits/encode.js";
import { COPIED_FILES } from "../../src/gemma4/transformers-js.js";
import { exportOnnx, type ExportRequest } from "../../src/pipeline/export.js";
import { silent } from "../../src/pipeline/progress.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { writeImatrix } from "../support/imatrix.js";
import { readTextModel, type TextModel, weightOf } from "../support/forward/model.js";
import {
  ALL_DTYPES,
  asHalves,
  exportPackage,
  exportRequest,
  graphPaths,
  nanoPackage,
  storedWeights,
  type StoredWeight,
} from "../support/packages.js";

/** What every file of a folder holds, by its path below it. */
function filesOf(folder: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" }).toSorted()) {
    const path = join(folder, name);
    if (!statSync(path).isFile()) continue;
    files.set(name, createHash("sha256").update(readFileSync(path)).digest("hex"));
  }
  return files;
}

async function refusal(promise: Promise<unknown>): Promise<LapidaryError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(LapidaryError);
  return error as LapidaryError;
}

let nano: TextModel;
let folder = "";

beforeAll(async () => {
  nano = await readTextModel(nanoCheckpoint);
  folder = await nanoPackage();
});

/** The checkpoint's values of a stored weight: the tied output matrix is the embedding. */
function original(model: TextModel, name: string): Float32Array {
  return Float32Array.from(weightOf(model, name === "lm_head.weight" ? "embed_tokens.weight" : name));
}

/** Rows that are held to the slow reference encoder: the first, the last and one of the middle. */
function someRows(count: number): number[] {
  return [...new Set([0, Math.floor(count / 2), count - 1])];
}

/** What of a whole weight is not as it has to be, given the checkpoint's values. */
function differences(
  { name, type, element, row, values, parts }: StoredWeight,
  expected: Float32Array,
  method: "search" | "nearest",
): string[] {
  if (values.length !== expected.length) return [`${name} has ${values.length} values`];
  if (type === null) {
    const same = element === "FLOAT" ? expected : asHalves(expected);
    return values.every((value, index) => value === same[index]) ? [] : [`${name} has other values`];
  }
  const rows = values.length / row;
  const part = (bytes: Uint8Array, at: number): Uint8Array =>
    bytes.slice((at * bytes.length) / rows, ((at + 1) * bytes.length) / rows);
  return someRows(rows).flatMap((at) => {
    const direct = encodeNBits(type, row, expected.slice(at * row, (at + 1) * row), undefined, method);
    return (["codes", "scales", "zeroPoints"] as const)
      .filter((each) => Buffer.compare(part(parts[each], at), direct[each]) !== 0)
      .map((each) => `${name} has other ${each} in row ${at}`);
  });
}

describe("the files of a package", () => {
  it.each(["fp32", "fp16", "q8", "q4", "q2"] as const)(
    "hold in %s what the checkpoint has, as the nodes read it",
    async (dtype) => {
      const names = new Set<string>();
      for (const path of Object.values(graphPaths(folder, dtype))) {
        for (const weight of await storedWeights(path)) {
          names.add(weight.name);
          expect(differences(weight, original(nano, weight.name), "search")).toEqual([]);
        }
      }
      expect([...nano.weights.keys()].filter((name) => !names.has(name))).toEqual([]);
    },
  );

  it.each(["q4", "q2"] as const)("hold in %sf16 the same codes", (dtype) => {
    const half = graphPaths(folder, `${dtype}f16`);
    const single = graphPaths(folder, dtype);
    for (const graph of ["embed", "decoder"] as const) {
      expect(readFileSync(`${half[graph]}_data`).equals(readFileSync(`${single[graph]}_data`))).toBe(true);
    }
  });

  it("by the plain method are the reference encoder's, and lose more than by the search", async () => {
    const out = scratchFolder();
    await exportPackage({ out, dtypes: ["q2"], method: "nearest" });
    const searched = new Map(
      (await storedWeights(graphPaths(folder, "q2").decoder)).map((weight) => [weight.name, weight.values]),
    );
    const losses = [0, 0];
    for (const path of Object.values(graphPaths(out, "q2"))) {
      for (const weight of await storedWeights(path)) {
        const { name, values } = weight;
        const expected = original(nano, name);
        expect(differences(weight, expected, "nearest")).toEqual([]);
        for (const [which, stored] of [values, searched.get(name) ?? values].entries()) {
          for (const [index, value] of stored.entries()) losses[which]! += (value - expected[index]!) ** 2;
        }
      }
    }
    expect(losses[1]).toBeLessThan(0.95 * losses[0]!);
  });

  it("weigh errors by an importance matrix", async () => {
    const out = scratchFolder();
    const matrix = join(scratchFolder(), "imatrix.gguf");
    const name = "layers.0.mlp.down_proj.weight";
    const expected = original(nano, name);
    const row = expected.length / nano.config.hidden;
    // One column in sixteen is all that matters.
    const importance = Float32Array.from({ length: row }, (_, column) => (column % 16 === 3 ? 1000 : 1));
    writeImatrix(matrix, new Map([["blk.0.ffn_down.weight", importance]]));
    const dtypes = ["decoder_model_merged=q4"];
    // Balanced for such an importance, values would be others and the model the same.
    const report = await exportPackage({ out, dtypes, imatrix: matrix, balance: "off" });
    expect(report.graphs[0]?.importance).toBe(matrix);
    const loss = async (path: string): Promise<number> => {
      const { values } = (await storedWeights(path)).find((weight) => weight.name === name)!;
      return values.reduce((sum, value, i) => sum + importance[i % row]! * (value - expected[i]!) ** 2, 0);
    };
    const weighed = await loss(graphPaths(out, "q4").decoder);
    expect(weighed).toBeLessThan(0.5 * (await loss(graphPaths(folder, "q4").decoder)));
    writeImatrix(matrix, new Map([["blk.0.ffn_down.weight", importance.subarray(1)]]));
    const refused = await refusal(exportPackage({ dtypes, imatrix: matrix }));
    expect(refused).toMatchObject({ code: "importance-mismatch", exitCode: 2 });
    expect(refused.message).toContain("blk.0.ffn_down.weight");
  });

  it("are in another block, and with zero points, where that was asked for", async () => {
    const out = scratchFolder();
    await exportPackage({ out, dtypes: ["embed_tokens=q8"], block: 128, zeroPoints: true });
    const weights = await storedWeights(graphPaths(out, "q8").embed);
    expect(weights).toHaveLength(2);
    for (const weight of weights) {
      expect(weight.type).toEqual({ bits: 8, block: 128, zeroPoints: true });
      expect(differences(weight, original(nano, weight.name), "search")).toEqual([]);
    }
  });

  it("know their number of data files and the dtype to load", async () => {
    const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8")) as Record<string, unknown>;
    expect(config["model_type"]).toBe("gemma4");
    expect(config["architectures"]).toEqual(["Gemma4ForConditionalGeneration"]);
    const own = config["transformers.js_config"] as Record<string, Record<string, number>>;
    const graphs = readdirSync(join(folder, "onnx")).filter((name) => name.endsWith(".onnx"));
    expect(graphs).toHaveLength(14);
    const counts = graphs.map((name): [string, number] => [
      name,
      readdirSync(join(folder, "onnx")).filter((file) => file.startsWith(`${name}_data`)).length,
    ]);
    expect(own["use_external_data_format"]).toEqual(Object.fromEntries(counts));
    // Several dtypes: the runtime chooses.
    expect(own["dtype"]).toBeUndefined();
  });

  it("come with the checkpoint's tokenizer and settings", () => {
    const there = COPIED_FILES.filter((name) => existsSync(join(nanoCheckpoint, name)));
    expect(there).toContain("tokenizer.json");
    expect(COPIED_FILES.filter((name) => existsSync(join(folder, name)))).toEqual(there);
    for (const name of there.filter((each) => each !== "tokenizer_config.json")) {
      expect(readFileSync(join(folder, name)).equals(readFileSync(join(nanoCheckpoint, name)))).toBe(true);
    }
    expect(readdirSync(folder).filter((name) => name.includes("safetensors"))).toEqual([]);
  });

  it("have the chat template where the runtimes' tokenizers look for it", async () => {
    const json = async (name: string): Promise<Record<string, unknown>> =>
      JSON.parse(await readFile(join(name, "tokenizer_config.json"), "utf8")) as Record<string, unknown>;
    const template = await readFile(join(nanoCheckpoint, "chat_template.jinja"), "utf8");
    expect(await json(folder)).toEqual({ ...(await json(nanoCheckpoint)), chat_template: template });
    // One that is there already stays, and so does a file without a template beside it.
    const source = join(scratchFolder(), "nano");
    await cp(nanoCheckpoint, source, { recursive: true });
    const own = JSON.stringify({ ...(await json(source)), chat_template: "own" });
    const plain = await readFile(join(source, "tokenizer_config.json"), "utf8");
    for (const text of [own, plain]) {
      await writeFile(join(source, "tokenizer_config.json"), text);
      const out = scratchFolder();
      await exportPackage({ source, out, dtypes: ["embed_tokens=q8"] });
      expect(await readFile(join(out, "tokenizer_config.json"), "utf8")).toBe(text);
      await rm(join(source, "chat_template.jinja"), { force: true });
    }
  });
});

describe("config.json of", () => {
  const written = async (source: string, out: string): Promise<Record<string, unknown>> => {
    await exportPackage({ source, out, dtypes: ["q8"], method: "nearest" });
    return JSON.parse(await readFile(join(out, "config.json"), "utf8")) as Record<string, unknown>;
  };

  it.each([
    ["a text-only re-save", { kind: "e", form: "text" }],
    ["the unified form", { kind: "unified" }],
    ["a dense model", { kind: "dense" }],
  ] as const)("%s is one that transformers.js knows", async (_what, options) => {
    const source = join(scratchFolder(), "checkpoint");
    const { config } = await makeCheckpoint(source, options);
    const json = await written(source, scratchFolder());
    expect(json).toMatchObject({ model_type: "gemma4", architectures: ["Gemma4ForConditionalGeneration"] });
    expect(json["eos_token_id"]).toBeDefined();
    expect(json["text_config"]).toMatchObject({
      model_type: "gemma4_text",
      vocab_size: config.vocabulary,
      num_hidden_layers: config.layers.length,
      num_key_value_heads: config.kvHeads,
      head_dim: config.headDim,
      num_kv_shared_layers: config.layers.filter(({ sharesKv }) => sharesKv).length,
    });
    expect(json["transformers.js_config"]).toEqual({
      use_external_data_format: {
        "embed_tokens_quantized.onnx": 1,
        "decoder_model_merged_quantized.onnx": 1,
      },
      dtype: { embed_tokens: "q8", decoder_model_merged: "q8" },
    });
  });
});

describe("a second export into the folder of a package", () => {
  const embed = { dtypes: ["embed_tokens=q4"] };

  it("of another dtype adds to it", async () => {
    const out = scratchFolder();
    await exportPackage({ out, dtypes: ["q8"], method: "nearest" });
    const before = filesOf(out);
    const second = await exportPackage({ out, dtypes: ["q4"], method: "nearest" });
    expect(second).toMatchObject({ outcome: "written" });
    const after = filesOf(out);
    const others = [...before].filter(([name]) => name !== "config.json");
    for (const [name, hash] of others) expect([name, after.get(name)]).toEqual([name, hash]);
    expect(after.size).toBe(before.size + 4);
    const json = JSON.parse(await readFile(join(out, "config.json"), "utf8")) as Record<
      string,
      Record<string, unknown>
    >;
    expect(json["transformers.js_config"]!["use_external_data_format"]).toEqual({
      "embed_tokens_quantized.onnx": 1,
      "decoder_model_merged_quantized.onnx": 1,
      "embed_tokens_q4.onnx": 1,
      "decoder_model_merged_q4.onnx": 1,
    });
  });

  it("of the same is refused, and changes nothing", async () => {
    const out = scratchFolder();
    await exportPackage({ out, ...embed });
    const before = filesOf(out);
    expect(await refusal(exportPackage({ out, ...embed }))).toMatchObject({
      code: "output-exists",
      exitCode: 2,
    });
    expect(filesOf(out)).toEqual(before);
  });

  it("finds the graphs done when the first was stopped behind them", async () => {
    const out = scratchFolder();
    const first = await exportPackage({ out: scratchFolder(), ...embed });
    // What cannot be replaced by a file.
    await mkdir(join(out, "tokenizer.json"));
    await expect(exportPackage({ out, ...embed })).rejects.toThrow("tokenizer.json");
    await rmdir(join(out, "tokenizer.json"));
    expect(await exportPackage({ out, ...embed })).toMatchObject({ outcome: "unchanged", plan: first.plan });
    expect(existsSync(join(out, "tokenizer.json"))).toBe(true);
    expect(readdirSync(join(out, "onnx")).toSorted()).toEqual([
      "embed_tokens_q4.onnx",
      "embed_tokens_q4.onnx_data",
    ]);
  });

  it("in another form is refused, and replaces the first when told to", async () => {
    const out = scratchFolder();
    await exportPackage({ out, ...embed });
    const before = filesOf(out);
    const refused = await refusal(exportPackage({ out, ...embed, block: 64 }));
    expect(refused).toMatchObject({ exitCode: 2 });
    expect(refused.message).toContain(join(out, "onnx", "embed_tokens_q4.onnx"));
    expect(filesOf(out)).toEqual(before);
    await exportPackage({ out, ...embed, block: 64, force: true });
    const fresh = scratchFolder();
    await exportPackage({ out: fresh, ...embed, block: 64 });
    expect(filesOf(out)).toEqual(filesOf(fresh));
  });

  it("of another model is refused before anything is written", async () => {
    const out = scratchFolder();
    await exportPackage({ out, ...embed });
    const before = filesOf(out);
    const source = join(scratchFolder(), "other");
    await makeCheckpoint(source, { kind: "dense" });
    const refused = await refusal(exportPackage({ source, out, dtypes: ["q8"] }));
    expect(refused).toMatchObject({ code: "output-exists", exitCode: 2 });
    expect(refused.message).toContain(out);
    expect(filesOf(out)).toEqual(before);
  });

  it("takes away data files that it no longer has", async () => {
    const out = scratchFolder();
    await exportPackage({ out, ...embed });
    const stray = join(out, "onnx", "embed_tokens_q4.onnx_data_1");
    await writeFile(stray, "of an earlier export");
    await exportPackage({ out, ...embed, block: 64, force: true });
    expect(existsSync(stray)).toBe(false);
  });
});

describe("an export", () => {
  it.each([
    [{ source: "fixtures/text" }, "fixtures/text"],
    [{ source: "no-such-folder" }, "no-such-folder"],
  ])("of %j is refused with the path", async (request, path) => {
    const out = join(scratchFolder(), "out");
    const refused = await refusal(exportPackage({ ...request, out }));
    expect(refused.message).toContain(path);
    expect(existsSync(out)).toBe(false);
  });

  it("with a wrong flag is refused before anything is written", async () => {
    const wrong: readonly Partial<ExportRequest>[] = [
      { dtypes: ["q5"] },
      { block: 48 },
      { accuracyLevel: 9 },
      { tensorTypes: [{ pattern: "nothing", type: "q4" }] },
      { redo: "nothing" },
      { dtypes: ["q4", "q8"], layout: "genai" },
    ];
    for (const request of wrong) {
      const out = join(scratchFolder(), "out");
      expect(await refusal(exportPackage({ out, ...request }))).toMatchObject({ exitCode: 2 });
      expect(existsSync(out)).toBe(false);
    }
  });
});

describe("a dry run", () => {
  it("writes nothing, and knows every byte", async () => {
    const out = join(scratchFolder(), "out");
    const planned = await exportPackage({ out, dtypes: ALL_DTYPES, dryRun: true });
    expect(planned.outcome).toBe("planned");
    expect(existsSync(out)).toBe(false);
    const stored = readdirSync(join(folder, "onnx")).toSorted();
    const files = planned.graphs.flatMap((graph) => graph.files.map((path) => basename(path)));
    expect(files.toSorted()).toEqual(stored);
    for (const { files, bytes, tensors, shares } of planned.graphs) {
      const sizes = files.map((path) => statSync(join(folder, "onnx", basename(path))).size);
      expect(bytes).toBe(sizes.reduce((sum, size) => sum + size, 0));
      const shared = shares.reduce((sum, share) => sum + share.bytes, 0);
      expect(tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)).toBe(shared);
      expect(shares.reduce((sum, share) => sum + share.tensors, 0)).toBe(tensors.length);
    }
  });
});

describe("an export that is stopped", () => {
  const dtypes = ["q2", "fp16"];

  /** Stops a run once it has read some of its input. */
  async function breakOff(out: string): Promise<void> {
    const stop = new AbortController();
    const reason = new Error("enough");
    const reporter = {
      ...silent,
      progress: ({ done, total, unit }: { done: number; total: number; unit: string }) => {
        if (unit === "bytes" && done > total / 3) stop.abort(reason);
      },
    };
    // One tensor after the other.
    const request = exportRequest({ source: checkpoint, out, dtypes, threads: 1, memory: 2 ** 26 });
    await expect(exportOnnx(request, reporter, stop.signal)).rejects.toBe(reason);
  }

  let checkpoint = "";
  let whole: Map<string, string>;
  let tensors = 0;

  beforeAll(async () => {
    // Large enough to be looked at in the middle.
    checkpoint = join(scratchFolder(), "random-it");
    await makeCheckpoint(checkpoint, { hidden: 512, text: { intermediate_size: 1024 } });
    const out = scratchFolder();
    const report = await exportPackage({ source: checkpoint, out, dtypes });
    whole = filesOf(out);
    tensors = report.graphs.reduce((sum, graph) => sum + graph.tensors.length, 0);
  });

  it("leaves no graph behind, and the same command goes on to the same bytes", async () => {
    const out = scratchFolder();
    await breakOff(out);
    expect(readdirSync(join(out, "onnx")).filter((name) => /\.onnx(_data(_\d+)?)?$/.test(name))).toEqual([]);
    const report = await exportPackage({ source: checkpoint, out, dtypes });
    expect(report.outcome).toBe("continued");
    expect(report.resumed).toBeGreaterThan(0);
    expect(report.resumed).toBeLessThan(tensors);
    expect(filesOf(out)).toEqual(whole);
  });

  it("is not continued by another command, which begins anew when told to", async () => {
    const out = scratchFolder();
    await breakOff(out);
    const request = { source: checkpoint, out, dtypes, method: "nearest" } as const;
    expect(await refusal(exportPackage(request))).toMatchObject({ code: "journal-differs" });
    const report = await exportPackage({ ...request, force: true });
    expect(report).toMatchObject({ outcome: "written", resumed: 0 });
    const fresh = scratchFolder();
    await exportPackage({ ...request, out: fresh });
    expect(filesOf(out)).toEqual(filesOf(fresh));
  });
});

describe("redo", () => {
  const request = { dtypes: ["decoder_model_merged=q4"], method: "nearest" } as const;

  it("does the tensors again that it names, and nothing else", async () => {
    const out = scratchFolder();
    await exportPackage({ out, ...request });
    const before = filesOf(out);
    const damage = async (name: string): Promise<void> => {
      const { decoder } = graphPaths(out, "q4");
      const { tensors } = await openOnnx(decoder);
      const place = tensors.find((tensor) => tensor.name === name)!.place;
      if (place.kind !== "external") throw new Error(`${name} lies in the graph.`);
      const file = await open(join(out, "onnx", place.location), "r+");
      await file.write(Buffer.alloc(16, 0xa5), 0, 16, place.offset + 64);
      await file.close();
    };
    await damage("layers.1.mlp.down_proj.weight.codes");
    const damaged = filesOf(out);
    expect(damaged).not.toEqual(before);
    await exportPackage({ out, ...request, redo: "layers\\.2\\.mlp\\.down" });
    expect(filesOf(out)).toEqual(damaged);
    await exportPackage({ out, ...request, redo: "layers\\.1\\.mlp\\.down" });
    expect(filesOf(out)).toEqual(before);
  });

  it("has nothing to do where there is no output, or one of another plan", async () => {
    const out = scratchFolder();
    const redo = "layers\\.2\\.mlp\\.down";
    await refusal(exportPackage({ out, ...request, redo }));
    await exportPackage({ out, ...request });
    const before = filesOf(out);
    await refusal(exportPackage({ out, ...request, redo, block: 64 }));
    expect(filesOf(out)).toEqual(before);
  });
});

describe("a broken checkpoint", () => {
  it("is refused in words that name the file", async () => {
    const source = join(scratchFolder(), "cut");
    await cp(nanoCheckpoint, source, { recursive: true });
    const file = await open(join(source, "model.safetensors"), "r+");
    await file.truncate(5_000_000);
    await file.close();
    const refused = await refusal(exportPackage({ source }));
    expect(refused.message).toContain(join(source, "model.safetensors"));
    await rm(join(source, "model.safetensors"));
    expect((await refusal(exportPackage({ source }))).message).toContain(source);
  });

  it("of values that no half holds is refused, and leaves no graph", async () => {
    const source = join(scratchFolder(), "large");
    await makeCheckpoint(source, {
      dtype: "F32",
      spread: (name) => (name === "layers.1.mlp.up_proj.weight" ? { mean: 0, deviation: 1e5 } : undefined),
    });
    for (const dtypes of [["fp16"], ["q4"]]) {
      const out = scratchFolder();
      const refused = await refusal(exportPackage({ source, out, dtypes }));
      expect(refused.message).toContain("layers.1.mlp.up_proj.weight");
      expect(readdirSync(out, { recursive: true }).filter((name) => String(name).endsWith(".onnx"))).toEqual(
        [],
      );
    }
  });
});

describe("the range of values", () => {
  it("is looked at before halves are written, and told", async () => {
    const report = await exportPackage({ dtypes: ["embed_tokens=fp16"], checkRange: true });
    expect(report.range).toMatchObject({ tokens: 8 * 512, largest: "per_layer.projection" });
    expect(report.range?.product).toBeGreaterThan(report.range?.residual ?? Infinity);
    expect((await exportPackage({ dtypes: ["embed_tokens=q8"], checkRange: true })).range).toBeNull();
  });

  it("is refused where halves are at their end", async () => {
    const source = join(scratchFolder(), "large");
    await makeCheckpoint(source, {
      spread: (name) => (name === "layers.1.mlp.up_proj.weight" ? { mean: 0, deviation: 1e3 } : undefined),
    });
    const out = join(scratchFolder(), "out");
    const refused = await refusal(exportPackage({ source, out, dtypes: ["q4f16"], checkRange: true }));
    expect(refused).toMatchObject({ code: "fp16-overflow" });
    expect(refused.message).toContain("layers.1.mlp.up reaches");
    expect(existsSync(out)).toBe(false);
    // In single precision there is room.
    expect((await exportPackage({ source, out, dtypes: ["q4"], checkRange: true })).outcome).toBe("written");
  });
});
