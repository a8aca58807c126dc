import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engines/types.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import { builtUrl } from "../../src/base/paths.js";
import { convert } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";
import { type CheckpointOptions, makeCheckpoint } from "../support/checkpoints.js";
import { convertFixture, convertRequest, scratchFolder } from "../support/convert.js";

const KINDS: readonly (readonly [string, CheckpointOptions])[] = [
  ["E-like, with unused keys and values", { kind: "e" }],
  ["E-like, without them, saved as text only", { kind: "e", dropUnused: true, form: "text" }],
  ["dense with k = v, in shards", { kind: "dense", shards: 3 }],
  ["unified with an output matrix of its own", { kind: "unified", head: true }],
  ["mixture of 8 experts with rows of 704 and 2112", { kind: "moe" }],
];

let engine: Engine;
beforeAll(async () => {
  engine = await startLlamaEngine();
});
afterAll(async () => {
  await engine.close();
});

/** Perplexity of random weights over random tokens: finite is what can be asked of it. */
async function scores(path: string): Promise<Float64Array> {
  const { handle, model } = await engine.load(path, { threads: 1, context: 64 });
  try {
    const tokens = Int32Array.from({ length: 64 }, (_, index) =>
      index === 0 ? model.bos : 20 + ((index * 37) % 900),
    );
    const [result] = await engine.score([handle], [{ tokens, first: 32 }], {
      visitor: builtUrl(import.meta.url, "../../src/verify/visitor.js"),
    });
    return result?.values ?? new Float64Array();
  } finally {
    await engine.unload(handle);
  }
}

describe("llama.cpp loads and runs", () => {
  it.each(KINDS)("%s", async (_name, options) => {
    const folder = join(scratchFolder(), "random-it");
    await makeCheckpoint(folder, options);
    const types = ["F32", "F16", "BF16", "Q8_0", "Q4_0"];
    const artifacts = await convert(
      convertRequest({ source: folder, types }),
      silent,
      new AbortController().signal,
    );
    expect(artifacts.map(({ type }) => type)).toEqual(types);
    for (const artifact of artifacts) {
      const values = await scores(artifact.files[0] ?? "");
      expect(values).toHaveLength(31);
      expect(values.every((value) => Number.isFinite(value) && value > 0)).toBe(true);
    }
  });

  it("experts whose rows divide for Q2_0 and IQ4_NL only, in the nearest of both", async () => {
    const folder = join(scratchFolder(), "experts");
    await makeCheckpoint(folder, { kind: "moe" });
    for (const [mix, expected] of [
      ["Q2_K", "Q2_0"],
      ["Q3_K_S", "IQ4_NL"],
    ] as const) {
      const [artifact] = await convert(
        convertRequest({
          source: folder,
          types: [mix],
          typeNames: { fallback: "near", tensorTypes: [{ pattern: "ffn_down", type: mix.slice(0, 4) }] },
          method: "search",
        }),
        silent,
        new AbortController().signal,
      );
      const down = artifact?.tensors.filter(({ name }) => /ffn_down.*weight$/.test(name)) ?? [];
      expect(new Set(down.map(({ type }) => type))).toEqual(new Set([expected]));
      const values = await scores(artifact?.files[0] ?? "");
      expect(values.every((value) => Number.isFinite(value) && value > 0)).toBe(true);
    }
  });

  it("a split set, from its first part", async () => {
    const whole = await convertFixture("Q8_0");
    const split = await convertFixture("Q8_0", { splitMaxBytes: 1024 ** 2 });
    expect(split).toMatch(/-Q8_0-00001-of-0000\d\.gguf$/);
    expect(await scores(split)).toEqual(await scores(whole));
  });
});

describe("BOS", () => {
  it("is put in front once, whatever the file says of it", async () => {
    const folder = join(scratchFolder(), "no-bos");
    // Google's instruction-tuned checkpoints have no post-processor that adds it; nano-e has one.
    await makeCheckpoint(folder, { kind: "dense" });
    const { readFile, writeFile } = await import("node:fs/promises");
    const file = join(folder, "tokenizer.json");
    const json = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
    expect(json["post_processor"]).not.toBeNull();
    await writeFile(file, JSON.stringify({ ...json, post_processor: null }));
    const [without] = await convert(convertRequest({ source: folder }), silent, new AbortController().signal);
    for (const path of [await convertFixture("F32"), without?.files[0] ?? ""]) {
      const { handle, model } = await engine.load(path, { threads: 1, context: 64 });
      const tokens = await engine.tokenize(handle, "The Senate and House", { special: false, bos: true });
      expect(model.addsBos).toBe(true);
      expect([...tokens].filter((token) => token === model.bos)).toHaveLength(1);
      expect(tokens[0]).toBe(model.bos);
      await engine.unload(handle);
    }
  });
});
