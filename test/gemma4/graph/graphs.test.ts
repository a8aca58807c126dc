import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../../src/base/paths.js";
import { type CheckpointOptions, makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";
import { forward } from "../../support/forward/forward.js";
import { readTextModel } from "../../support/forward/model.js";
import { openShards, step } from "../../support/onnx-model.js";
import { randomTokens, relativeError, trainedSpread } from "../../support/text-models.js";

const REFERENCE = join(packageRoot, "fixtures", "reference");
const VOCABULARY = 1024;
/** What computing in single precision costs, and a little more: 2.6e-7 on nano-e, up to 3.2e-6 on random weights. */
const TOLERANCE = 5e-6;

const nano = await openShards(NANO);
const { ids } = JSON.parse(readFileSync(join(REFERENCE, "logits.json"), "utf8")) as { ids: number[] };

describe("the graphs of nano-e", () => {
  it("give the logits of an independent implementation", async () => {
    const expected = new Float32Array(new Uint8Array(readFileSync(join(REFERENCE, "logits.f32"))).buffer);
    expect(relativeError((await step(nano, [ids])).logits, expected)).toBeLessThan(TOLERANCE);
  });

  it("give the same in one pass, in chunks, and token by token", async () => {
    const whole = await step(nano, [ids]);
    for (const size of [40, 1]) {
      const logits: number[] = [];
      let caches: Parameters<typeof step>[2] = {};
      for (let at = 0; at < ids.length; at += size) {
        const one = await step(nano, [ids.slice(at, at + size)], caches);
        logits.push(...one.logits);
        caches = { caches: one.caches };
      }
      expect(relativeError(logits, whole.logits)).toBeLessThan(TOLERANCE);
    }
  });

  it("give logits of as many last tokens as asked for", async () => {
    const all = (await step(nano, [ids])).logits;
    const two = (await step(nano, [ids], { keep: 2 })).logits;
    expect(two).toHaveLength(2 * VOCABULARY);
    expect(relativeError(two, all.slice(-2 * VOCABULARY))).toBeLessThan(TOLERANCE);
  });

  it.each([
    ["left", 7, 0],
    ["right", 0, 7],
  ])("do not see padding on the %s", async (_side, left, right) => {
    // Longer than the sliding window of 64, so that it has to keep clear of the padding as well.
    const long = ids.slice(0, 77);
    const short = ids.slice(10, 80);
    const pad = (value: number, row: readonly number[]): number[] => [
      ...Array.from({ length: left }, () => value),
      ...row,
      ...Array.from({ length: right }, () => value),
    ];
    const ones = short.map(() => 1);
    const { logits, caches } = await step(nano, [long, pad(0, short)], {
      mask: [long.map(() => 1), pad(0, ones)],
      positions: [
        long.map((_, i) => i),
        pad(
          0,
          short.map((_, i) => i),
        ),
      ],
    });
    const alone = await step(nano, [short]);
    const size = 77 * VOCABULARY;
    expect(relativeError(logits.slice(0, size), (await step(nano, [long])).logits)).toBeLessThan(TOLERANCE);
    const own = logits.slice(size + left * VOCABULARY, size + (left + 70) * VOCABULARY);
    expect(relativeError(own, alone.logits)).toBeLessThan(TOLERANCE);
    if (right > 0) return;
    // And the next token of both, with padding in the caches. (To the right of them padding takes places of the window.)
    const next = await step(nano, [[500], [600]], {
      caches,
      mask: [
        [...long.map(() => 1), 1],
        [...pad(0, ones), 1],
      ],
      positions: [[77], [70]],
    });
    const expected = await step(nano, [[600]], { caches: alone.caches });
    expect(relativeError(next.logits.slice(VOCABULARY), expected.logits)).toBeLessThan(TOLERANCE);
  });
});

describe("the graphs and a plain forward pass agree on", () => {
  const kinds: readonly (readonly [string, CheckpointOptions])[] = [
    // Two layers of each kind before the ones that share, so that it matters which of them is taken.
    ["E-like checkpoints", { kind: "e", dtype: "F16", layers: 6, shards: 2 }],
    ["dense ones with k = v and an output matrix of their own", { kind: "dense", dtype: "F32", head: true }],
    ["mixtures of experts with rows of 704 and 2112", { kind: "moe" }],
  ];
  it.each(kinds)("%s", async (_name, options) => {
    const folder = join(scratchFolder(), "random-it");
    await makeCheckpoint(folder, { ...options, spread: trainedSpread });
    const [plain, graphs] = [await readTextModel(folder), await openShards(folder)];
    const tokens = randomTokens(70, 1);
    const expected = forward(plain, tokens);
    const { logits, caches } = await step(graphs, [tokens.subarray(0, 66)]);
    expect(relativeError(logits, expected.subarray(0, logits.length))).toBeLessThan(TOLERANCE);
    const rest = await step(graphs, [tokens.subarray(66)], { caches });
    expect(relativeError(rest.logits, expected.subarray(logits.length))).toBeLessThan(TOLERANCE);
  });
});
