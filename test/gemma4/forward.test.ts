import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import type { Engine } from "../../src/engines/types.js";
import { convert } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../support/checkpoints.js";
import { convertRequest, scratchFolder } from "../support/convert.js";
import { forward } from "../support/forward/forward.js";
import { readTextModel, type TextModel, weightOf, withWeights } from "../support/forward/model.js";
import { randomTokens, relativeError, trainedSpread } from "../support/text-models.js";

const REFERENCE = join(packageRoot, "fixtures", "reference");
const VOCABULARY = 1024;
/**
 * Twice what half precision costs. Router weights that do not sum to one cost 3.4e-3, because a norm behind
 * them hides all but epsilon's share; a window off by one costs 0.05.
 */
const LLAMA_TOLERANCE = 3e-3;

const nano = await readTextModel(NANO);
const { ids } = JSON.parse(readFileSync(join(REFERENCE, "logits.json"), "utf8")) as { ids: number[] };
const text = Int32Array.from(ids);

describe("the forward pass", () => {
  it("gives the logits of an independent implementation", () => {
    const expected = new Float32Array(new Uint8Array(readFileSync(join(REFERENCE, "logits.f32"))).buffer);
    // 2.7e-7: that one computes in single precision.
    expect(relativeError(forward(nano, text), expected)).toBeLessThan(1e-6);
  });

  // Longer than the sliding window of 64, so that it has to keep clear of the padding as well.
  const tokens = text.subarray(0, 70);
  const plain = forward(nano, tokens);

  it.each([
    ["on the left", 5, 0],
    ["on the right", 0, 5],
  ])("does not see padding %s", (_side, left, right) => {
    const padding = (count: number): number[] => Array.from({ length: count }, () => 0);
    const padded = Int32Array.from([...padding(left), ...tokens, ...padding(right)]);
    const mask = [...padding(left), ...Array.from(tokens, () => 1), ...padding(right)];
    const logits = forward(nano, padded, { mask });
    const [start, end] = [left * VOCABULARY, (left + tokens.length) * VOCABULARY];
    expect(relativeError(logits.subarray(start, end), plain)).toBe(0);
    expect(logits.subarray(0, start).every(Number.isNaN)).toBe(true);
    expect(logits.subarray(end).every(Number.isNaN)).toBe(true);
  });

  it("rotates by the positions given, of which only the distances count", () => {
    const short = tokens.subarray(0, 8);
    const counted = forward(nano, short);
    const at = (positions: number[]): Float64Array => forward(nano, short, { positions });
    expect(relativeError(at([0, 1, 2, 3, 4, 5, 6, 7]), counted)).toBe(0);
    expect(relativeError(at([9, 10, 11, 12, 13, 14, 15, 16]), counted)).toBeLessThan(1e-9);
    expect(relativeError(at([0, 1, 2, 3, 5, 6, 7, 8]), counted)).toBeGreaterThan(0.01);
  });

  it("takes other values for weights, and an output matrix apart from the embedding", () => {
    const short = tokens.subarray(0, 8);
    const embedding = weightOf(nano, "embed_tokens.weight");
    const backwards = Float64Array.from(embedding, (_, index) => {
      const row = VOCABULARY - 1 - Math.floor(index / nano.config.hidden);
      return embedding[row * nano.config.hidden + (index % nano.config.hidden)]!;
    });
    const other = withWeights(nano, new Map([["lm_head.weight", backwards]]));
    const expected = forward(nano, short);
    const logits = forward(other, short);
    for (let row = 0; row < short.length; row++) {
      const [start, end] = [row * VOCABULARY, (row + 1) * VOCABULARY];
      expect(logits.subarray(start, end)).toEqual(expected.subarray(start, end).toReversed());
    }
    const doubled = withWeights(nano, new Map([["layers.1.layer_scalar", Float32Array.of(2)]]));
    expect(relativeError(forward(doubled, short), expected)).toBeGreaterThan(0.01);
  });

  it("refuses weights and sequences that do not fit", () => {
    const weight = (name: string): TextModel => withWeights(nano, new Map([[name, new Float32Array(3)]]));
    expect(() => weight("norm.weight")).toThrow("norm.weight has 256 values, not 3.");
    // The last two layers share keys and values.
    expect(() => weight("layers.2.self_attn.k_proj.weight")).toThrow("is not a weight that the model uses");
    expect(() => forward(nano, Int32Array.of(2, 1024))).toThrow("Token 1024 at 1");
    expect(() => forward(nano, Int32Array.of(2, 3), { mask: [1] })).toThrow(
      "mask has 1 entries for 2 tokens",
    );
  });
});

describe("the forward pass and llama.cpp agree on", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await startLlamaEngine();
  });
  afterAll(() => engine.close());

  const kinds: readonly (readonly [string, CheckpointOptions])[] = [
    // Two layers of each kind before the ones that share, so that it matters which of them is taken.
    ["E-like checkpoints", { kind: "e", dtype: "F16", layers: 6 }],
    ["dense ones with k = v and an output matrix of their own", { kind: "dense", dtype: "F32", head: true }],
    ["mixtures of experts with rows of 704 and 2112", { kind: "moe" }],
  ];
  it.each(kinds)("%s", async (_name, options) => {
    const folder = join(scratchFolder(), "random-it");
    await makeCheckpoint(folder, { ...options, spread: trainedSpread });
    const model = await readTextModel(folder);
    const [artifact] = await convert(
      convertRequest({ source: folder, threads: 1 }),
      silent,
      new AbortController().signal,
    );
    const { handle } = await engine.load(artifact?.files[0] ?? "", { threads: 1, context: 128 });
    // Shorter and longer than the sliding window of 64.
    for (const count of [12, 70]) {
      const tokens = randomTokens(count, count);
      const [scores] = await engine.score([handle], [{ tokens, first: 0 }], {
        visitor: new URL("../engines/llama/visitors/logits.mjs", import.meta.url),
      });
      const { columns, values } = scores!;
      const expected = values.filter((_, index) => index % columns < VOCABULARY);
      const logits = forward(model, tokens).subarray(0, -VOCABULARY);
      // 0.7e-3 to 1.5e-3: llama.cpp keeps keys, values and GELU in half precision.
      expect(relativeError(logits, expected)).toBeLessThan(LLAMA_TOLERANCE);
    }
    await engine.unload(handle);
  });
});
