import { gguf } from "../../../formats/gguf/values.js";
import type { ChatTemplates } from "../chat-template.js";
import type { Generation } from "../generation.js";
import type { ModelCard } from "../model-card.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { Gemma4Config, SpecialToken, Weight } from "../types.js";
import { GgufEntries, type GgufEntry } from "./entries.js";
import { writeIdentity } from "./identity.js";
import { countParameters, sizeLabel } from "./size-label.js";
import { ropeFrequencies } from "./tensors.js";

/** Everything that the metadata of a text model's file is made of. */
export interface MetadataSource {
  readonly config: Gemma4Config;
  readonly generation: Generation | null;
  readonly tokenizer: Tokenizer;
  readonly chatTemplates: ChatTemplates;
  readonly card: ModelCard;
  /** Weights that the file will hold, from which its size label follows. */
  readonly weights: readonly Weight[];
  /** Name of the checkpoint's folder, or of the repository it came from. */
  readonly folderName: string;
  /** `general.name` in place of the one derived from model card, config and folder name. */
  readonly name?: string | undefined;
  /** `general.file_type`. */
  readonly fileType: number;
}

/** Version of ggml's block layouts. */
const QUANTIZATION_VERSION = 2;
/** Score of every token: a BPE vocabulary has none, but the format wants one. */
const TOKEN_SCORE = -1000;

/** Key of each special token's id; `seperator` is how the format spells it. There is none for cls. */
const ID_KEYS: Readonly<Partial<Record<SpecialToken, string>>> = {
  bos: "bos_token_id",
  eos: "eos_token_id",
  unk: "unknown_token_id",
  sep: "seperator_token_id",
  pad: "padding_token_id",
  mask: "mask_token_id",
  eot: "eot_token_id",
  eom: "eom_token_id",
};
/** Special tokens for which the format can say whether a tokenizer adds them. */
const ADDABLE: ReadonlySet<SpecialToken> = new Set(["bos", "eos", "sep"]);

function modelKey(name: string): string {
  return `gemma4.${name}`;
}

function tokenizerKey(name: string): string {
  return `tokenizer.ggml.${name}`;
}

function writeModel(entries: GgufEntries, config: Gemma4Config, fileType: number): void {
  const { layers, experts, globalKvHeads } = config;
  entries.u32(modelKey("block_count"), layers.length);
  entries.u32(modelKey("context_length"), config.contextLength);
  entries.u32(modelKey("embedding_length"), config.hidden);
  if (config.doubleWideMlp)
    entries.i32s(
      modelKey("feed_forward_length"),
      layers.map((layer) => layer.feedForward),
    );
  else entries.u32(modelKey("feed_forward_length"), config.intermediate);
  entries.u32(modelKey("attention.head_count"), config.heads);
  if (globalKvHeads === null) entries.u32(modelKey("attention.head_count_kv"), config.kvHeads);
  else
    entries.i32s(
      modelKey("attention.head_count_kv"),
      layers.map((layer) => layer.kvHeads),
    );
  entries.f32(modelKey("rope.freq_base"), config.ropeTheta.full);
  entries.f32(modelKey("rope.freq_base_swa"), config.ropeTheta.sliding);
  entries.f32(modelKey("attention.layer_norm_rms_epsilon"), config.rmsEpsilon);
  if (experts !== null) {
    entries.u32(modelKey("expert_count"), experts.count);
    entries.u32(modelKey("expert_used_count"), experts.used);
  }
  entries.u32(modelKey("attention.key_length"), config.globalHeadDim);
  entries.u32(modelKey("attention.value_length"), config.globalHeadDim);
  entries.u32("general.file_type", fileType);
  if (config.softcap !== null) entries.f32(modelKey("final_logit_softcapping"), config.softcap);
  entries.u32(modelKey("attention.sliding_window"), config.slidingWindow);
  entries.u32(modelKey("attention.shared_kv_layers"), config.sharedKvLayers);
  entries.u32(modelKey("embedding_length_per_layer_input"), config.perLayerWidth);
  entries.bools(
    modelKey("attention.sliding_window_pattern"),
    layers.map((layer) => layer.kind === "sliding"),
  );
  entries.u32(modelKey("attention.key_length_swa"), config.headDim);
  entries.u32(modelKey("attention.value_length_swa"), config.headDim);
  if (experts !== null) entries.u32(modelKey("expert_feed_forward_length"), experts.intermediate);
  entries.u32(modelKey("rope.dimension_count"), config.globalHeadDim);
  entries.u32(modelKey("rope.dimension_count_swa"), config.headDim);
}

function writeChatTemplates(entries: GgufEntries, { main, named }: ChatTemplates): void {
  for (const [name, template] of named) entries.text(`tokenizer.chat_template.${name}`, template);
  entries.texts("tokenizer.chat_templates", [...named.keys()]);
  entries.text("tokenizer.chat_template", main);
}

/** Metadata of the tokenizer, in the order in which llama.cpp's converter writes it. */
export function tokenizerMetadata(tokenizer: Tokenizer, chatTemplates: ChatTemplates): GgufEntry[] {
  const entries = new GgufEntries();
  const { tokens, types, merges, special } = tokenizer;
  const scores = new Float32Array(tokens.length).fill(TOKEN_SCORE);
  entries.text(tokenizerKey("model"), "gemma4");
  entries.add(tokenizerKey("tokens"), gguf.array("string", tokens));
  entries.add(tokenizerKey("scores"), gguf.array("f32", scores));
  entries.add(tokenizerKey("token_type"), gguf.array("i32", types));
  if (merges.length > 0) entries.add(tokenizerKey("merges"), gguf.array("string", merges));
  for (const [token, id] of special.ids) {
    const name = ID_KEYS[token];
    if (name !== undefined) entries.u32(tokenizerKey(name), id);
  }
  // The models need a leading BOS whatever the tokenizer's file says, so this one is always true.
  for (const [token, added] of special.added) {
    if (ADDABLE.has(token)) entries.bool(tokenizerKey(`add_${token}_token`), token === "bos" || added);
  }
  writeChatTemplates(entries, chatTemplates);
  entries.bool(tokenizerKey("add_space_prefix"), false);
  if (!special.added.has("bos")) entries.bool(tokenizerKey("add_bos_token"), true);
  return entries.list;
}

/**
 * Metadata of a text model's GGUF file: the keys, types, values and order of llama.cpp v0.5.0's converter.
 * Keys of our own go behind.
 */
export function ggufMetadata(source: MetadataSource): GgufEntry[] {
  const { config, generation } = source;
  const entries = new GgufEntries();
  entries.text("general.architecture", "gemma4");
  entries.text("general.type", "model");
  for (const [key, value] of generation?.sampling ?? []) entries.add(key, value);
  const totals = countParameters(source.weights, ropeFrequencies(config).ne[0] ?? 0);
  writeIdentity(
    entries,
    {
      folderName: source.folderName,
      nameOrPath: config.nameOrPath,
      card: source.card,
      totalParameters: totals.total,
      name: source.name,
    },
    sizeLabel(totals),
  );
  writeModel(entries, config, source.fileType);
  // The converter knows suppressed tokens of the unified models only; the others' files name none.
  if (config.modelType.startsWith("gemma4_unified")) {
    entries.i32s("tokenizer.ggml.suppress_tokens", generation?.suppressTokens ?? []);
  }
  entries.u32("general.quantization_version", QUANTIZATION_VERSION);
  return [...entries.list, ...tokenizerMetadata(source.tokenizer, source.chatTemplates)];
}
