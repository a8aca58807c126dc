import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Checkpoint, Dtype, TensorEntry } from "../../formats/safetensors/types.js";
import { packageRoot } from "../../src/base/paths.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { parseConfig, readConfig } from "../../src/gemma4/config.js";
import { convertedType, ggmlShape, ropeFrequencies } from "../../src/gemma4/gguf/tensors.js";
import { towerRank } from "../../src/gemma4/towers.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";
import { listWeights, parameterCount } from "../../src/gemma4/weights.js";
import { NANO } from "../support/checkpoints.js";
import { memberConfig, type MemberName } from "../support/members.js";

function member(name: MemberName, text: Record<string, unknown> = {}): Gemma4Config {
  return parseConfig(memberConfig(name, text), "config.json");
}

type Row = readonly [name: string, shape: readonly number[], dtype?: Dtype];

/** A checkpoint of these tensors; their data does not matter here. */
function checkpointOf(rows: readonly Row[]): Checkpoint {
  const entries = rows.map(([name, shape, dtype = "BF16"]): TensorEntry => ({
    name,
    dtype,
    shape,
    shard: 0,
    offset: 0,
    byteLength: 0,
  }));
  return {
    shards: [{ file: "model.safetensors", path: "/m/model.safetensors", size: 0 }],
    tensors: new Map(entries.map((entry) => [entry.name, entry])),
    metadata: {},
  };
}

function rowsOf(config: Gemma4Config, prefix = "model.language_model."): Row[] {
  return listWeights(config).map(({ name, shape }): Row => [prefix + name, shape]);
}

interface Golden {
  readonly tensors: readonly { name: string; type: string; ne: number[]; sha256: string }[];
}

async function nanoCheckpoint(): Promise<Checkpoint> {
  const file = await readFile(join(NANO, "model.safetensors"));
  const header = JSON.parse(file.toString("utf8", 8, 8 + Number(file.readBigUInt64LE(0)))) as Record<
    string,
    { dtype: Dtype; shape: number[] }
  >;
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  return checkpointOf(names.map((name) => [name, header[name]!.shape, header[name]!.dtype]));
}

describe("lists", () => {
  it.each([
    ["E2B", 600, 4_647_449_891, 402_653_184],
    ["E4B", 719, 7_518_069_034, 671_088_640],
    ["12B", 666, 11_907_350_320, 1_006_632_960],
    ["26B-A4B", 657, 25_233_141_790, 738_197_504],
    ["31B", 832, 30_697_345_340, 1_409_286_144],
  ] as const)("%s: %i tensors, %i parameters", (name, tensors, parameters, embedding) => {
    const weights = listWeights(member(name));
    expect(weights).toHaveLength(tensors);
    expect(weights.reduce((sum, weight) => sum + parameterCount(weight), 0)).toBe(parameters);
    expect(parameterCount(weights[0]!)).toBe(embedding);
    expect(new Set(weights.map(({ gguf }) => gguf)).size).toBe(tensors);
    expect(new Set(weights.map(({ name }) => name)).size).toBe(tensors);
  });

  it.each([
    ["E2B", 18_900_000],
    ["E4B", 55_100_000],
    ["31B", 0],
  ] as const)("%s has about %i unused parameters", (name, parameters) => {
    const unused = listWeights(member(name)).filter(({ unused }) => unused);
    const sum = unused.reduce((sum, weight) => sum + parameterCount(weight), 0);
    expect(Math.abs(sum - parameters)).toBeLessThanOrEqual(50_000);
  });

  it("counts E2B's tensors that stay F32 in a BF16 file", () => {
    const types = listWeights(member("E2B")).map((weight) => convertedType(weight, "BF16"));
    // The 283rd is rope_freqs.weight.
    expect(types.filter((type) => type === "F32")).toHaveLength(282);
    expect(types.filter((type) => type === "BF16")).toHaveLength(318);
  });

  it("counts the experts' parameters", () => {
    const experts = listWeights(member("26B-A4B")).filter(({ role }) => role.startsWith("experts_"));
    expect(experts.reduce((sum, weight) => sum + parameterCount(weight), 0)).toBe(22_837_985_280);
  });

  it("has the shapes of one layer of 26B-A4B", () => {
    const layer = listWeights(member("26B-A4B")).filter(({ layer }) => layer === 5);
    const shapes = Object.fromEntries(layer.map(({ gguf, shape }) => [gguf, ggmlShape(shape)]));
    expect(shapes).toMatchObject({
      "blk.5.attn_q.weight": [2816, 8192],
      "blk.5.attn_k.weight": [2816, 1024],
      "blk.5.ffn_gate_inp.weight": [2816, 128],
      "blk.5.ffn_gate_inp.scale": [2816],
      "blk.5.ffn_down_exps.scale": [128],
      "blk.5.ffn_gate_up_exps.weight": [2816, 1408, 128],
      "blk.5.ffn_down_exps.weight": [704, 2816, 128],
      "blk.5.pre_ffw_norm_2.weight": [2816],
    });
    expect(shapes).not.toHaveProperty(["blk.5.attn_v.weight"]);
  });

  it("makes the rotation divisors of the published models", () => {
    const { ne, data } = ropeFrequencies(member("31B"));
    const values = [...new Float32Array(data.buffer)];
    expect(ne).toEqual([256]);
    expect(values.filter((value) => value === 1)).toHaveLength(64);
    expect(values.lastIndexOf(1)).toBe(63);
    expect(new Set(values.slice(64))).toEqual(new Set([Math.fround(1e30)]));
  });
});

describe("against llama.cpp's converter", () => {
  it.each([
    ["bf16", "BF16"],
    ["f16", "F16"],
    ["q8_0", "Q8_0"],
  ] as const)("names, shapes, types and order of nano-e's tensors at %s", async (file, type) => {
    const golden = JSON.parse(
      await readFile(join(packageRoot, `fixtures/reference/convert-${file}.json`), "utf8"),
    ) as Golden;
    const config = await readConfig(NANO);
    const bound = bindCheckpoint(config, await nanoCheckpoint());
    const rope = ropeFrequencies(config);
    expect([
      { name: rope.name, type: rope.type, ne: rope.ne },
      ...bound.weights.map(({ weight }) => ({
        name: weight.gguf,
        type: convertedType(weight, type),
        ne: ggmlShape(weight.shape),
      })),
    ]).toEqual(golden.tensors.map(({ name, type, ne }) => ({ name, type, ne })));
    expect(createHash("sha256").update(rope.data).digest("hex")).toBe(golden.tensors[0]!.sha256);
    expect(bound.towers).toHaveLength(290 - bound.weights.length);
    expect(bound.prefix).toBe("model.language_model.");
  });
});

describe("binding", () => {
  const config = member("E2B");
  const last = "model.language_model.layers.34";

  it.each(["model.language_model.", "model."])("finds every weight below %s", (prefix) => {
    const bound = bindCheckpoint(config, checkpointOf(rowsOf(config, prefix)));
    expect(bound.prefix).toBe(prefix);
    expect(bound.weights).toHaveLength(600);
    expect(bound.weights.every(({ weight, entry }) => entry.name === prefix + weight.name)).toBe(true);
    expect(bound.weights.map(({ entry }) => entry.name)).toEqual(
      bound.weights.map(({ entry }) => entry.name).toSorted(),
    );
  });

  it("goes shard by shard", () => {
    const checkpoint = checkpointOf(rowsOf(config));
    const tensors = new Map(
      [...checkpoint.tensors].map(([name, entry]) => [
        name,
        { ...entry, shard: name.includes("embed_tokens.") ? 1 : 0 },
      ]),
    );
    const bound = bindCheckpoint(config, { ...checkpoint, tensors });
    expect(bound.weights.at(-1)?.weight.role).toBe("embedding");
  });

  it("takes any subset of the keys and values of layers that share them", () => {
    const dropped = new Set([`${last}.self_attn.k_proj.weight`, `${last}.self_attn.v_proj.weight`]);
    const some = rowsOf(config).filter(([name]) => !dropped.has(name));
    expect(bindCheckpoint(config, checkpointOf(some)).weights).toHaveLength(598);
    const needed = listWeights(config).filter(({ unused }) => !unused);
    const none = needed.map(({ name, shape }): Row => [`model.${name}`, shape]);
    expect(bindCheckpoint(config, checkpointOf(none)).weights).toHaveLength(540);
  });

  it("binds an output matrix, tied or not, and misses it only when it is not tied", () => {
    const head: Row = ["lm_head.weight", [262144, 1536]];
    const bound = bindCheckpoint(config, checkpointOf([...rowsOf(config), head]));
    expect(bound.weights[0]?.weight).toMatchObject({ role: "head", gguf: "output.weight" });
    const untied = { ...config, tiedEmbeddings: false };
    expect(bindCheckpoint(untied, checkpointOf([...rowsOf(config), head])).weights).toHaveLength(601);
    expect(() => bindCheckpoint(untied, checkpointOf(rowsOf(config)))).toThrow("lm_head.weight is missing");
  });

  it.each<[string, Row[], string]>([
    ["unknown", [["model.language_model.layers.0.extra.weight", [1]]], "layers.0.extra.weight is unknown"],
    [
      "a layer too many",
      [["model.language_model.layers.35.layer_scalar", [1]]],
      "layers.35.layer_scalar is unknown",
    ],
    ["a bias", [["model.language_model.layers.0.self_attn.q_proj.bias", [2048]]], "q_proj.bias is unknown"],
    [
      "unknown inside a tower",
      [["model.vision_tower.encoder.layers.0.spare.weight", [8]]],
      "spare.weight is unknown",
    ],
    [
      "a tower tensor of wrong rank",
      [["model.vision_tower.std_bias", [2, 2]]],
      "std_bias has 2 dimensions, expected 1",
    ],
    ["the other prefix", [["model.norm.weight", [1536]]], "model.norm.weight is unknown"],
  ])("names a tensor that is %s", (_, extra, message) => {
    expect(() => bindCheckpoint(config, checkpointOf([...rowsOf(config), ...extra]))).toThrow(message);
  });

  it("names tensors that are missing, misshapen or of another dtype, in one error", () => {
    const rows = rowsOf(config).flatMap(([name, shape]): Row[] => {
      if (name === `${last}.layer_scalar`) return [];
      if (name === `${last}.mlp.up_proj.weight`) return [[name, [6144, 1536]]];
      if (name === "model.language_model.norm.weight") return [[name, shape, "F8_E4M3"]];
      return [[name, shape]];
    });
    const bind = () => bindCheckpoint(config, checkpointOf(rows));
    expect(bind).toThrow(`${last}.layer_scalar is missing`);
    expect(bind).toThrow("up_proj.weight has shape [6144, 1536], expected [12288, 1536]");
    expect(bind).toThrow("norm.weight is F8_E4M3, expected BF16, F16 or F32");
    expect(bind).toThrow(/^3 tensors do not fit config\.json \(\/m\/model\.safetensors\)/);
  });

  it("shows five of many problems and counts the rest", () => {
    expect(() => bindCheckpoint(config, checkpointOf([]))).toThrow(
      /^540 tensors do not fit .*; and 535 more\.$/,
    );
  });
});

describe("towers", () => {
  it.each([
    ["model.vision_tower.patch_embedder.input_proj.weight", 2],
    ["model.vision_tower.encoder.layers.26.mlp.down_proj.linear.weight", 2],
    ["model.vision_tower.encoder.layers.0.mlp.gate_proj.input_min", 0],
    ["model.vision_tower.std_scale", 1],
    ["model.audio_tower.layers.11.lconv1d.depthwise_conv1d.weight", 3],
    ["model.audio_tower.output_proj.bias", 1],
    ["model.vision_embedder.patch_dense.weight", 2],
    ["model.vision_embedder.pos_embedding", 3],
    ["model.embed_audio.embedding_projection.weight", 2],
  ])("knows %s", (name, rank) => {
    expect(towerRank(name)).toBe(rank);
  });

  it.each([
    "model.vision_tower.encoder.layers.00.mlp.down_proj.linear.weight",
    "model.vision_tower.encoder.layers.0.mlp.down_proj.linear.bias",
    "model.vision_tower.std_scale.weight",
    "xmodel.vision_tower.std_scale",
    "model.audio_tower",
  ])("does not know %s", (name) => {
    expect(towerRank(name)).toBeUndefined();
  });
});
