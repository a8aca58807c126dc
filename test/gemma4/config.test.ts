import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseConfig, readConfig } from "../../src/gemma4/config.js";
import { Gemma4Error } from "../../src/gemma4/errors.js";
import { NANO } from "../support/checkpoints.js";
import { type ConfigJson, layerTypes, memberConfig, type MemberName, MEMBERS } from "../support/members.js";

const FILE = "somewhere/config.json";

function parse(json: unknown) {
  return parseConfig(json, FILE);
}

function thrown(json: unknown): Gemma4Error {
  try {
    parse(json);
  } catch (error) {
    if (error instanceof Gemma4Error) return error;
    throw error;
  }
  throw new Error("expected a Gemma4Error");
}

/** E2B's config with one field of `text_config` set, or left out. */
function withText(field: string, value?: unknown, member: MemberName = "E2B"): ConfigJson {
  const json = memberConfig(member);
  if (value === undefined) delete json.text_config[field];
  else json.text_config[field] = value;
  return json;
}

/** What transformers 5.15 and later write: the fields of full layers by padded layer number. */
function withPerLayerConfig(member: MemberName): ConfigJson {
  const json = memberConfig(member);
  const kinds = layerTypes(Number(json.text_config["num_hidden_layers"]), MEMBERS[member].period);
  const kvHeads = json.text_config["num_global_key_value_heads"];
  const entry = kvHeads === null ? { head_dim: 512 } : { head_dim: 512, num_key_value_heads: kvHeads };
  json.text_config["per_layer_config"] = Object.fromEntries(
    kinds.flatMap((kind, layer) =>
      kind === "full_attention" ? [[String(layer).padStart(2, "0"), entry]] : [],
    ),
  );
  delete json.text_config["global_head_dim"];
  delete json.text_config["num_global_key_value_heads"];
  return json;
}

describe("members", () => {
  it.each([
    ["E2B", 35, [4, 9, 14, 19, 24, 29, 34], 1536, 8, 1, null, 20, 512],
    ["E4B", 42, [5, 11, 17, 23, 29, 35, 41], 2560, 8, 2, null, 18, 512],
    ["12B", 48, [5, 11, 17, 23, 29, 35, 41, 47], 3840, 16, 8, 1, 0, 1024],
    ["26B-A4B", 30, [5, 11, 17, 23, 29], 2816, 16, 8, 2, 0, 1024],
    ["31B", 60, [5, 11, 17, 23, 29, 35, 41, 47, 53, 59], 5376, 32, 16, 4, 0, 1024],
  ] as const)("%s", (member, layers, full, hidden, heads, kvHeads, globalKvHeads, shared, window) => {
    const config = parse(memberConfig(member));
    expect(config).toMatchObject({
      member,
      hidden,
      heads,
      kvHeads,
      globalKvHeads,
      sharedKvLayers: shared,
      slidingWindow: window,
      vocabulary: 262144,
      headDim: 256,
      globalHeadDim: 512,
      softcap: 30,
      rmsEpsilon: 1e-6,
      ropeTheta: { sliding: 10000, full: 1000000 },
      partialRotaryFactor: 0.25,
      tiedEmbeddings: true,
      specialTokenIds: { bos: 2, pad: 0 },
    });
    expect(config.layers).toHaveLength(layers);
    expect(config.layers.filter(({ kind }) => kind === "full").map(({ index }) => index)).toEqual(full);
    // The root's list of end tokens hides the single one of text_config.
    expect(config.specialTokenIds.eos).toBeUndefined();
  });

  it("resolves the layers of E2B: shared keys and values, double width", () => {
    const { layers } = parse(memberConfig("E2B"));
    expect(layers[14]).toEqual({
      index: 14,
      kind: "full",
      headDim: 512,
      kvHeads: 1,
      feedForward: 6144,
      kEqualsV: false,
      sharesKv: false,
    });
    expect(layers[15]).toMatchObject({ kind: "sliding", headDim: 256, feedForward: 12288, sharesKv: true });
    expect(layers.filter(({ sharesKv }) => sharesKv)).toHaveLength(20);
  });

  it("resolves the layers of 26B-A4B: k = v and fewer heads on full layers, experts", () => {
    const config = parse(memberConfig("26B-A4B"));
    expect(config.experts).toEqual({ count: 128, used: 8, intermediate: 704 });
    expect(config.perLayerWidth).toBe(0);
    expect(config.layers[4]).toMatchObject({ kind: "sliding", headDim: 256, kvHeads: 8, kEqualsV: false });
    expect(config.layers[5]).toMatchObject({ kind: "full", headDim: 512, kvHeads: 2, kEqualsV: true });
  });

  it("reads nano-e from its folder, as a member of no known size", async () => {
    const config = await readConfig(NANO);
    expect(config).toMatchObject({ member: "other", hidden: 256, vocabulary: 1024, perLayerWidth: 64 });
    expect(config.layers.map(({ feedForward }) => feedForward)).toEqual([512, 512, 1024, 1024]);
  });
});

describe("forms", () => {
  it.each(["E2B", "E4B", "12B", "26B-A4B", "31B"] as const)("reads per_layer_config of %s", (member) => {
    expect(parse(withPerLayerConfig(member))).toEqual(parse(memberConfig(member)));
  });

  it("reads text-only re-saves", () => {
    const { text_config: text } = memberConfig("31B");
    const config = parse({ architectures: ["Gemma4ForCausalLM"], ...text });
    const { modelType, specialTokenIds, ...rest } = config;
    expect(modelType).toBe("gemma4_text");
    expect(specialTokenIds.eos).toBe(1);
    expect(parse(memberConfig("31B"))).toMatchObject(rest);
  });

  it("finds the experts' width behind a null of the older spelling", () => {
    const json = memberConfig("26B-A4B");
    const text = { expert_intermediate_size: null, ...json.text_config };
    expect(parse({ ...json, text_config: text }).experts?.intermediate).toBe(704);
  });

  it("accepts the older spelling alone", () => {
    const json = withText("moe_intermediate_size", undefined, "26B-A4B");
    json.text_config["expert_intermediate_size"] = 704;
    expect(parse(json).experts?.intermediate).toBe(704);
  });

  it("takes an absent tie_word_embeddings for true and the root's value before the text's", () => {
    const json = withText("tie_word_embeddings");
    delete json["tie_word_embeddings"];
    expect(parse(json).tiedEmbeddings).toBe(true);
    expect(parse({ ...json, tie_word_embeddings: false }).tiedEmbeddings).toBe(false);
  });

  it("keeps a null softcap", () => {
    expect(parse(withText("final_logit_softcapping", null)).softcap).toBeNull();
  });
});

describe("other models", () => {
  it.each(["gemma3", "llama", "gemma4_assistant", "gemma4_unified_assistant", 7, undefined])(
    "refuses model_type %s as misuse",
    (type) => {
      const error = thrown({ ...memberConfig("E2B"), model_type: type });
      expect(error).toMatchObject({ code: "other-model", exitCode: 2 });
      expect(error.message).toContain(type === undefined ? "missing" : JSON.stringify(type));
    },
  );

  it("names the target of a drafter in its advice", () => {
    expect(thrown({ ...memberConfig("E2B"), model_type: "gemma4_assistant" }).advice).toContain("drafter");
    expect(thrown({ ...memberConfig("E2B"), model_type: "gemma3" }).advice).toContain("gemma4_unified");
  });

  it("refuses another architecture of the same model type", () => {
    const error = thrown({ ...memberConfig("E2B"), architectures: ["Gemma4DSparkModel"] });
    expect(error).toMatchObject({ code: "other-model", exitCode: 2 });
    expect(error.message).toContain("Gemma4DSparkModel");
  });

  it("refuses a checkpoint that is already quantized", () => {
    const error = thrown({
      ...memberConfig("E2B"),
      quantization_config: { quant_method: "compressed-tensors" },
    });
    expect(error).toMatchObject({ code: "already-quantized", exitCode: 2 });
    expect(error.message).toContain("compressed-tensors");
  });

  it("refuses a root that is no object", () => {
    expect(thrown([1, 2]).message).toContain("[1,2]");
  });
});

describe("fields", () => {
  const required = [
    "num_hidden_layers",
    "layer_types",
    "hidden_size",
    "vocab_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "global_head_dim",
    "attention_k_eq_v",
    "use_double_wide_mlp",
    "num_kv_shared_layers",
    "hidden_size_per_layer_input",
    "vocab_size_per_layer_input",
    "enable_moe_block",
    "rms_norm_eps",
    "final_logit_softcapping",
    "max_position_embeddings",
    "sliding_window",
    "rope_parameters",
    "hidden_activation",
    "model_type",
  ];
  it.each(required)("fills no gap: %s missing", (field) => {
    const error = thrown(withText(field));
    expect(error).toMatchObject({ code: "bad-config", exitCode: 1 });
    expect(error.message).toMatch(new RegExp(`^${FILE}: text_config\\.${field} is missing; expected `));
  });

  it.each([
    ["hidden_size", "1536"],
    ["hidden_size", 0],
    ["hidden_size", 1536.5],
    ["hidden_size", 2 ** 40],
    ["num_hidden_layers", 513],
    ["layer_types", layerTypes(34, 5)],
    ["layer_types", [...layerTypes(34, 5), "sliding_attention"]],
    ["layer_types", [...layerTypes(34, 5), "chunked_attention"]],
    ["num_key_value_heads", 3],
    ["head_dim", 255],
    ["num_kv_shared_layers", 35],
    ["num_kv_shared_layers", 21],
    ["num_global_key_value_heads", 4],
    ["rms_norm_eps", -1],
    ["final_logit_softcapping", 0],
    ["attention_bias", true],
    ["attn_logit_softcapping", 50],
    ["use_bidirectional_attention", "all"],
    ["hidden_activation", "silu"],
    ["vocab_size_per_layer_input", 1000],
    ["attention_k_eq_v", "yes"],
    ["bos_token_id", -2],
    ["per_layer_config", { "99": {} }],
    ["per_layer_config", { four: {} }],
    ["per_layer_config", { "4": { head_dim: 512 }, "04": { head_dim: 512 } }],
    ["per_layer_config", { "4": { head_dim: 512, intermediate_size: 1 } }],
    ["per_layer_config", { "4": { head_dim: 512 } }],
    ["per_layer_config", { "0": { head_dim: 128 } }],
  ])("refuses %s %j", (field, value) => {
    const error = thrown(withText(field, value));
    expect(error).toMatchObject({ code: "bad-config", exitCode: 1 });
    expect(error.message).toContain(field);
  });

  it("refuses fields and per_layer_config that disagree", () => {
    const json = withPerLayerConfig("31B");
    json.text_config["global_head_dim"] = 256;
    expect(thrown(json).message).toContain("global_head_dim is 256; expected 512");
  });

  it.each([
    [{ rope_type: "linear", partial_rotary_factor: 0.25, rope_theta: 1e6 }, "rope_type"],
    [{ rope_type: "proportional", partial_rotary_factor: 1.5, rope_theta: 1e6 }, "partial_rotary_factor"],
    [{ rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 0 }, "rope_theta"],
    [{ rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1e6, factor: 8 }, "factor"],
  ])("refuses the rotation %j", (full, field) => {
    const sliding = { rope_type: "default", rope_theta: 10000 };
    const error = thrown(withText("rope_parameters", { sliding_attention: sliding, full_attention: full }));
    expect(error.message).toContain(`text_config.rope_parameters.full_attention.${field}`);
  });

  it.each([["num_experts"], ["top_k_experts"], ["moe_intermediate_size"]])(
    "demands %s of a mixture of experts",
    (field) => {
      expect(thrown(withText(field, null, "26B-A4B")).message).toContain(field);
    },
  );

  it("demands the global heads of a model with k = v", () => {
    expect(thrown(withText("num_global_key_value_heads", null, "31B")).message).toContain(
      "num_global_key_value_heads",
    );
  });

  it("checks the multimodal token ids, in both spellings", () => {
    expect(thrown({ ...memberConfig("E2B"), image_token_id: 262144 }).message).toContain("image_token_id");
    expect(thrown({ ...memberConfig("E2B"), eoa_token_id: 5 }).message).toContain(
      "eoa_token_id is 5; expected 258883",
    );
    expect(parse({ ...memberConfig("E2B"), eoa_token_id: 258883 }).member).toBe("E2B");
  });
});

describe("files", () => {
  it("calls a folder without config.json misuse", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lapidary-"));
    await expect(readConfig(folder)).rejects.toMatchObject({ code: "no-config", exitCode: 2 });
    await expect(readConfig(join(folder, "nowhere"))).rejects.toMatchObject({
      code: "no-config",
      exitCode: 2,
    });
  });

  it("calls broken JSON damage", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lapidary-"));
    await writeFile(join(folder, "config.json"), '{"model_type": "gem');
    await expect(readConfig(folder)).rejects.toMatchObject({ code: "bad-json", exitCode: 1 });
    await writeFile(join(folder, "config.json"), Buffer.from([0x7b, 0xff, 0x7d]));
    await expect(readConfig(folder)).rejects.toMatchObject({ code: "bad-text", exitCode: 1 });
  });
});
