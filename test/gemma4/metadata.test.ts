import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { GgufValue } from "../../formats/gguf/types.js";
import { packageRoot } from "../../src/base/paths.js";
import { readChatTemplates } from "../../src/gemma4/chat-template.js";
import { parseConfig, readConfig } from "../../src/gemma4/config.js";
import { readGeneration } from "../../src/gemma4/generation.js";
import type { GgufEntry } from "../../src/gemma4/gguf/entries.js";
import { ggufMetadata, type MetadataSource, tokenizerMetadata } from "../../src/gemma4/gguf/metadata.js";
import { countParameters, sizeLabel } from "../../src/gemma4/gguf/size-label.js";
import { CONVERTER_FILE_TYPES } from "../../src/gemma4/gguf/tensors.js";
import { readModelCard } from "../../src/gemma4/model-card.js";
import { parseTokenizer, readTokenizer, readTokenizerConfig } from "../../src/gemma4/tokenizer/tokenizer.js";
import { listWeights } from "../../src/gemma4/weights.js";
import { NANO } from "../support/checkpoints.js";
import { memberConfig, type MemberName } from "../support/members.js";

/** A value as the golden files have it. */
interface GoldenEntry {
  readonly key: string;
  readonly type: readonly string[];
  readonly value: unknown;
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  u32: "UINT32",
  i32: "INT32",
  f32: "FLOAT32",
  bool: "BOOL",
  string: "STRING",
  array: "ARRAY",
};

function goldenValue(value: GgufValue): unknown {
  if (value.type === "f32") return Math.fround(value.value);
  if (value.type !== "array") return value.value;
  const items = Array.from<unknown>(value.value as ArrayLike<unknown> & Iterable<unknown>);
  if (value.of !== "string" || items.length <= 64) return items;
  const sha256 = createHash("sha256").update(items.join("\n")).digest("hex");
  return { count: items.length, sha256, first: items.slice(0, 8) };
}

function goldenEntry([key, value]: GgufEntry): GoldenEntry {
  const type = value.type === "array" ? ["array", value.of] : [value.type];
  return { key, type: type.map((name) => TYPE_NAMES[name] ?? name), value: goldenValue(value) };
}

async function nanoSource(): Promise<MetadataSource> {
  const config = await readConfig(NANO);
  return {
    config,
    generation: await readGeneration(NANO),
    tokenizer: await readTokenizer(NANO, config),
    chatTemplates: await readChatTemplates(NANO),
    card: await readModelCard(NANO),
    weights: listWeights(config),
    folderName: "nano-e",
    fileType: CONVERTER_FILE_TYPES.BF16,
  };
}

function keysOf(entries: readonly GgufEntry[]): string[] {
  return entries.map(([key]) => key);
}

function valueOf(entries: readonly GgufEntry[], key: string): unknown {
  const value = entries.find(([name]) => name === key)?.[1];
  if (value === undefined) return undefined;
  return value.type === "array"
    ? Array.from<unknown>(value.value as ArrayLike<unknown> & Iterable<unknown>)
    : value.value;
}

/** Metadata of a member's config; the tokenizer, which does not matter here, is nano-e's. */
async function memberMetadata(member: MemberName, root: Record<string, unknown> = {}): Promise<GgufEntry[]> {
  const config = parseConfig({ ...memberConfig(member), ...root }, "config.json");
  return ggufMetadata({
    ...(await nanoSource()),
    config,
    weights: listWeights(config),
    folderName: `gemma-4-${member}-it`,
  });
}

async function nanoTokenizer(edit: (json: Record<string, unknown>) => void) {
  const json = JSON.parse(await readFile(join(NANO, "tokenizer.json"), "utf8")) as Record<string, unknown>;
  edit(json);
  const config = await readConfig(NANO);
  return parseTokenizer(
    Buffer.from(JSON.stringify(json)),
    "tokenizer.json",
    config,
    await readTokenizerConfig(NANO),
  );
}

async function nameWith(path: string): Promise<unknown> {
  return valueOf(await memberMetadata("31B", { _name_or_path: path }), "general.name");
}

describe("against llama.cpp's converter", () => {
  it.each(["bf16", "f16", "q8_0"] as const)("order, types and values of nano-e at %s", async (name) => {
    const golden = JSON.parse(
      await readFile(join(packageRoot, `fixtures/reference/convert-${name}.json`), "utf8"),
    ) as { metadata: GoldenEntry[] };
    const fileType = CONVERTER_FILE_TYPES[name.toUpperCase() as keyof typeof CONVERTER_FILE_TYPES];
    const entries = ggufMetadata({ ...(await nanoSource()), fileType }).map((entry) => goldenEntry(entry));
    expect(entries).toEqual(golden.metadata);
  });
});

describe("members", () => {
  it.each([
    ["E2B", "4.6B"],
    ["E4B", "7.5B"],
    ["12B", "12B"],
    ["26B-A4B", "128x2.6B"],
    ["31B", "31B"],
  ] as const)("%s is labelled %s", (member, label) => {
    const weights = listWeights(parseConfig(memberConfig(member), "config.json"));
    expect(sizeLabel(countParameters(weights, 256))).toBe(label);
  });

  it.each([
    [12_500_000_000, "12B"],
    [13_500_000_000, "14B"],
    [1_250_000_000, "1.2B"],
    [1_350_000_000, "1.4B"],
    [999_999_999, "1000M"],
    [4_071_488, "4.1M"],
    [155, "0.15K"],
  ])("labels %i parameters %s, as Python rounds", (total, label) => {
    expect(sizeLabel({ total, shared: 0, expert: 0, expertCount: 0 })).toBe(label);
  });

  it("writes E2B's widths as a list and its heads as a number", async () => {
    const entries = await memberMetadata("E2B");
    expect(valueOf(entries, "gemma4.feed_forward_length")).toEqual([
      ...Array.from({ length: 15 }, () => 6144),
      ...Array.from({ length: 20 }, () => 12288),
    ]);
    expect(valueOf(entries, "gemma4.attention.head_count_kv")).toBe(1);
    expect(valueOf(entries, "gemma4.attention.shared_kv_layers")).toBe(20);
    expect(valueOf(entries, "gemma4.embedding_length_per_layer_input")).toBe(256);
    expect(keysOf(entries).filter((key) => key.includes("expert"))).toEqual([]);
  });

  it("writes 26B-A4B's heads as a list, and its experts in their places", async () => {
    const entries = await memberMetadata("26B-A4B");
    const heads = Array.from({ length: 30 }, (_, layer) => (layer % 6 === 5 ? 2 : 8));
    expect(valueOf(entries, "gemma4.attention.head_count_kv")).toEqual(heads);
    expect(valueOf(entries, "gemma4.feed_forward_length")).toBe(2112);
    expect(keysOf(entries).filter((key) => key.startsWith("gemma4."))).toEqual(
      [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.freq_base",
        "rope.freq_base_swa",
        "attention.layer_norm_rms_epsilon",
        "expert_count",
        "expert_used_count",
        "attention.key_length",
        "attention.value_length",
        "final_logit_softcapping",
        "attention.sliding_window",
        "attention.shared_kv_layers",
        "embedding_length_per_layer_input",
        "attention.sliding_window_pattern",
        "attention.key_length_swa",
        "attention.value_length_swa",
        "expert_feed_forward_length",
        "rope.dimension_count",
        "rope.dimension_count_swa",
      ].map((key) => `gemma4.${key}`),
    );
    expect(valueOf(entries, "gemma4.expert_feed_forward_length")).toBe(704);
    expect(valueOf(entries, "gemma4.attention.shared_kv_layers")).toBe(0);
  });

  it("writes suppressed tokens of unified models only", async () => {
    const source = await nanoSource();
    const generation = { sampling: [], suppressTokens: [258883, 258882] };
    const write = (member: MemberName): GgufEntry[] =>
      ggufMetadata({ ...source, config: parseConfig(memberConfig(member), "config.json"), generation });
    const unified = write("12B");
    expect(valueOf(unified, "tokenizer.ggml.suppress_tokens")).toEqual([258883, 258882]);
    const keys = keysOf(unified);
    expect(keys.indexOf("tokenizer.ggml.suppress_tokens") + 1).toBe(
      keys.indexOf("general.quantization_version"),
    );
    expect(keysOf(write("31B"))).not.toContain("tokenizer.ggml.suppress_tokens");
  });

  it("leaves out sampling and softcap when the checkpoint has none", async () => {
    const config = parseConfig(memberConfig("31B", { final_logit_softcapping: null }), "config.json");
    const keys = keysOf(ggufMetadata({ ...(await nanoSource()), config, generation: null }));
    expect(keys.filter((key) => key.startsWith("general.sampling"))).toEqual([]);
    expect(keys).not.toContain("gemma4.final_logit_softcapping");
  });

  it("derives the names from the folder", async () => {
    const entries = await memberMetadata("31B");
    expect(valueOf(entries, "general.name")).toBe("Gemma 4 31B It");
    expect(valueOf(entries, "general.finetune")).toBe("it");
    expect(valueOf(entries, "general.basename")).toBe("gemma-4");
    expect(valueOf(entries, "general.size_label")).toBe("31B");
  });

  it("prefers _name_or_path to the folder, unless it is a path", async () => {
    expect(await nameWith("google/gemma-4-31B")).toBe("Gemma 4 31B");
    expect(await nameWith("/home/me/gemma-4-31B")).toBe("Gemma 4 31B It");
  });
});

describe("tokenizer keys", () => {
  it("come in the order of Google's files when there is no post-processor", async () => {
    const tokenizer = await nanoTokenizer((json) => (json["post_processor"] = null));
    const entries = tokenizerMetadata(tokenizer, await readChatTemplates(NANO));
    expect(keysOf(entries)).toEqual([
      "tokenizer.ggml.model",
      "tokenizer.ggml.tokens",
      "tokenizer.ggml.scores",
      "tokenizer.ggml.token_type",
      "tokenizer.ggml.merges",
      "tokenizer.ggml.bos_token_id",
      "tokenizer.ggml.eos_token_id",
      "tokenizer.ggml.unknown_token_id",
      "tokenizer.ggml.padding_token_id",
      "tokenizer.ggml.mask_token_id",
      "tokenizer.chat_template",
      "tokenizer.ggml.add_space_prefix",
      "tokenizer.ggml.add_bos_token",
    ]);
    expect(valueOf(entries, "tokenizer.ggml.add_bos_token")).toBe(true);
  });

  it("hold several chat templates by name", async () => {
    const tokenizer = await nanoTokenizer(() => undefined);
    const entries = tokenizerMetadata(tokenizer, { main: "main", named: new Map([["tool_use", "other"]]) });
    const templates = entries.filter(([key]) => key.startsWith("tokenizer.chat"));
    expect(keysOf(templates)).toEqual([
      "tokenizer.chat_template.tool_use",
      "tokenizer.chat_templates",
      "tokenizer.chat_template",
    ]);
    expect(valueOf(templates, "tokenizer.chat_templates")).toEqual(["tool_use"]);
  });
});
