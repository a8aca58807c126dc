import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import { readTokenizer } from "../../src/gemma4/tokenizer/tokenizer.js";
import { type CheckpointKind, type CheckpointOptions, makeCheckpoint, NANO } from "../support/checkpoints.js";

async function make(options: CheckpointOptions) {
  const made = await makeCheckpoint(await mkdtemp(join(tmpdir(), "lapidary-")), options);
  return { ...made, checkpoint: await openCheckpoint(made.folder) };
}

async function bind(options: CheckpointOptions) {
  const { folder, checkpoint } = await make(options);
  return bindCheckpoint(await readConfig(folder), checkpoint);
}

async function randomFile(seed: number): Promise<Buffer> {
  const { folder } = await make({ hidden: 64, seed, dtype: "F32" });
  return readFile(join(folder, "model.safetensors"));
}

describe("read from their files", () => {
  it("nano-e's weights and towers", async () => {
    const bound = bindCheckpoint(await readConfig(NANO), await openCheckpoint(NANO));
    // The golden files have these and rope_freqs.weight.
    expect(bound.weights).toHaveLength(73);
    expect(bound.towers).toHaveLength(290 - 73);
  });

  it.each<[CheckpointKind, number]>([
    ["e", 73],
    ["dense", 56],
    ["unified", 56],
    ["moe", 45],
  ])("made checkpoints of kind %s", async (kind, tensors) => {
    const { folder, config, checkpoint } = await make({ kind, hidden: 64 });
    expect(await readConfig(folder)).toEqual(config);
    const bound = bindCheckpoint(config, checkpoint);
    expect(bound.weights.map(({ entry }) => entry.name)).toEqual([...checkpoint.tensors.keys()]);
    expect((await readTokenizer(folder, config)).tokens).toHaveLength(1024);
    expect(checkpoint.tensors.size).toBe(tensors);
  });

  it("text-only re-saves in several shards, with more tokens than nano-e", async () => {
    const { folder, config, checkpoint } = await make({
      hidden: 64,
      form: "text",
      shards: 3,
      vocabulary: 1100,
    });
    expect(checkpoint.shards).toHaveLength(3);
    const bound = bindCheckpoint(config, checkpoint);
    expect(bound.prefix).toBe("model.");
    expect((await readTokenizer(folder, config)).tokens.at(1099)).toBe("<unused1099>");
  });

  it("checkpoints without unused keys and values, and with an output matrix", async () => {
    const bound = await bind({ hidden: 64, dropUnused: true, head: true });
    expect(bound.weights.some(({ weight }) => weight.unused)).toBe(false);
    expect(bound.weights[0]?.weight.role).toBe("head");
  });

  it.each(["F16", "F32"] as const)("checkpoints in %s", async (dtype) => {
    const { weights } = await bind({ hidden: 64, dtype });
    expect(new Set(weights.map(({ entry }) => entry.dtype))).toEqual(new Set([dtype]));
  });

  it("faulty ones, with the fault named", async () => {
    const reshape = { "layers.1.self_attn.q_norm.weight": [256] };
    await expect(bind({ hidden: 64, drop: ["norm.weight"] })).rejects.toThrow(
      "language_model.norm.weight is missing",
    );
    await expect(bind({ hidden: 64, add: { "model.extra.weight": [4] } })).rejects.toThrow(
      "model.extra.weight is unknown",
    );
    await expect(bind({ hidden: 64, reshape })).rejects.toThrow(
      "q_norm.weight has shape [256], expected [512]",
    );
  });
});

describe("made checkpoints", () => {
  it("are the same for the same seed, and random around 0 with deviation 0.02", async () => {
    const first = await randomFile(1);
    expect(first.equals(await randomFile(1))).toBe(true);
    expect(first.equals(await randomFile(2))).toBe(false);
    const start = 8 + Number(first.readBigUInt64LE(0));
    // The embedding comes first.
    const values = Array.from({ length: 1024 * 64 }, (_, index) => first.readFloatLE(start + index * 4));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.001);
    expect(Math.sqrt(variance)).toBeCloseTo(0.02, 3);
  });
});
