import { join } from "node:path";
import { Gemma4Error } from "./errors.js";
import { Fields, isObject, readJsonObject, show } from "./json.js";
import {
  checkSharing,
  MAX_DIMENSION,
  readAttention,
  readLayerKinds,
  readRope,
  resolveLayers,
} from "./layers.js";
import { type Gemma4Config, type Member, SPECIAL_TOKENS, type SpecialToken } from "./types.js";

const MODEL_TYPES: ReadonlySet<unknown> = new Set([
  "gemma4",
  "gemma4_unified",
  "gemma4_text",
  "gemma4_unified_text",
]);
const TEXT_TYPES: readonly unknown[] = ["gemma4_text", "gemma4_unified_text"];
const ARCHITECTURES: readonly unknown[] = [
  "Gemma4ForConditionalGeneration",
  "Gemma4UnifiedForConditionalGeneration",
  "Gemma4ForCausalLM",
];

/** llama.cpp's own bound. Real: 128 (26B-A4B). */
const MAX_EXPERTS = 1024;
/** GGUF keeps it in 32 bits. Real: 262,144. */
const MAX_CONTEXT = 2 ** 31 - 1;
const MAX_TOKEN_ID = 2 ** 31 - 1;

/** Placeholder and bracket tokens of images, audio and video; the fifth is spelt in two ways. */
const MULTIMODAL_TOKENS = [
  "image_token_id",
  "audio_token_id",
  "video_token_id",
  "boi_token_id",
  "eoi_token_id",
  "boa_token_id",
  "eoa_token_id",
  "eoa_token_index",
];

/** Members by number of layers and hidden size. */
const MEMBERS: Readonly<Record<string, Member>> = {
  "35x1536": "E2B",
  "42x2560": "E4B",
  "48x3840": "12B",
  "30x2816": "26B-A4B",
  "60x5376": "31B",
};

const SUPPORTED = "lapidary reads Gemma 4 checkpoints: model types gemma4, gemma4_unified and gemma4_text.";

/** @throws Gemma4Error (exit code 2) when the config belongs to something that is not a Gemma 4 target model */
function checkModel(root: Fields, file: string): string {
  const type = root.raw("model_type");
  if (typeof type !== "string" || !MODEL_TYPES.has(type)) {
    const drafter = typeof type === "string" && /^gemma4_.*assistant/.test(type);
    throw new Gemma4Error("other-model", `${file}: model_type is ${show(type)}; expected a Gemma 4 model.`, {
      exitCode: 2,
      advice: drafter ? "This is a drafter; give the model that it drafts for." : SUPPORTED,
    });
  }
  const architectures = root.raw("architectures") ?? null;
  if (architectures !== null) {
    const first: unknown = Array.isArray(architectures) ? architectures[0] : architectures;
    if (!ARCHITECTURES.includes(first)) {
      throw new Gemma4Error(
        "other-model",
        `${file}: architecture ${show(first)} is not one of ${ARCHITECTURES.join(", ")}.`,
        {
          exitCode: 2,
          advice: SUPPORTED,
        },
      );
    }
  }
  return type;
}

/** @throws Gemma4Error (exit code 2) when the weights are already quantized */
function checkUnquantized(fields: Fields, file: string): void {
  if (!fields.has("quantization_config")) return;
  const settings = fields.raw("quantization_config");
  const method = isObject(settings) ? settings["quant_method"] : settings;
  throw new Gemma4Error(
    "already-quantized",
    `${file}: the checkpoint is already quantized (${show(method)}); expected BF16, F16 or F32 weights.`,
    {
      exitCode: 2,
      advice: "Give the unquantized checkpoint, such as the one whose name ends in -qat-q4_0-unquantized.",
    },
  );
}

/** Fields that would change the model's math if they held anything else. */
function checkMath(text: Fields): void {
  text.oneOf("hidden_activation", ["gelu_pytorch_tanh"]);
  text.optionally("attention_bias", [false]);
  text.optionally("attn_logit_softcapping", []);
  text.optionally("use_bidirectional_attention", ["vision"]);
  text.optionally("is_causal", [true]);
}

function readExperts(text: Fields): Gemma4Config["experts"] {
  if (!text.boolean("enable_moe_block")) return null;
  const count = text.count("num_experts", MAX_EXPERTS);
  const used = text.count("top_k_experts", count);
  // An older spelling may stand beside it and be null: only a value counts.
  const name = text.has("moe_intermediate_size") ? "moe_intermediate_size" : "expert_intermediate_size";
  if (!text.has(name))
    throw text.fail("moe_intermediate_size", "a whole number, because enable_moe_block is true");
  return { count, used, intermediate: text.count(name, MAX_DIMENSION) };
}

function readSpecialTokens(root: Fields, text: Fields): Gemma4Config["specialTokenIds"] {
  const ids: Partial<Record<SpecialToken, number>> = {};
  for (const token of SPECIAL_TOKENS) {
    const name = `${token}_token_id`;
    const from = root.has(name) ? root : text;
    if (from.has(name) && !Array.isArray(from.raw(name))) ids[token] = from.count(name, MAX_TOKEN_ID, 0);
  }
  return ids;
}

function checkMultimodalTokens(root: Fields, vocabulary: number): void {
  for (const name of MULTIMODAL_TOKENS) root.countOrNull(name, vocabulary - 1, 0);
  if (root.has("eoa_token_id") && root.has("eoa_token_index")) {
    root.oneOf("eoa_token_id", [root.raw("eoa_token_index")]);
  }
}

function readTied(root: Fields, text: Fields): boolean {
  // transformers leaves the field out when it has the library's general default, which is true.
  const from = root.has("tie_word_embeddings") ? root : text;
  return from.has("tie_word_embeddings") ? from.boolean("tie_word_embeddings") : true;
}

/**
 * Checks the contents of a `config.json` and resolves what every layer looks like. Accepts the
 * multimodal form (text fields under `text_config`) and the form of text-only re-saves.
 *
 * @param json the parsed file
 * @param file its path, for messages
 * @throws Gemma4Error with exit code 2 when it describes another model, with 1 when a field is missing or wrong
 */
export function parseConfig(json: unknown, file: string): Gemma4Config {
  if (!isObject(json))
    throw new Gemma4Error("bad-config", `${file} holds ${show(json)}; expected a JSON object.`);
  const root = new Fields(json, file);
  const modelType = checkModel(root, file);
  const nested = root.has("text_config");
  if (!nested && !TEXT_TYPES.includes(modelType)) throw root.fail("text_config", "an object");
  const text = nested ? root.object("text_config") : root;
  text.oneOf("model_type", TEXT_TYPES);
  for (const fields of nested ? [root, text] : [root]) checkUnquantized(fields, file);
  checkMath(text);

  const kinds = readLayerKinds(text);
  const attention = readAttention(text, kinds);
  const hidden = text.count("hidden_size", MAX_DIMENSION);
  const vocabulary = text.count("vocab_size", MAX_DIMENSION);
  const intermediate = text.count("intermediate_size", MAX_DIMENSION / 2);
  const doubleWideMlp = text.boolean("use_double_wide_mlp");
  const sharedKvLayers = text.count("num_kv_shared_layers", kinds.length - 1, 0);
  checkSharing(text, kinds, sharedKvLayers);
  const perLayerWidth =
    text.raw("hidden_size_per_layer_input") === null
      ? 0
      : text.count("hidden_size_per_layer_input", MAX_DIMENSION, 0);
  if (perLayerWidth > 0) text.count("vocab_size_per_layer_input", vocabulary, vocabulary);
  checkMultimodalTokens(root, vocabulary);
  const rope = readRope(text);
  const name = root.raw("_name_or_path");

  return {
    file,
    member: MEMBERS[`${kinds.length}x${hidden}`] ?? "other",
    modelType,
    vocabulary,
    hidden,
    heads: attention.heads,
    kvHeads: attention.kvHeads,
    globalKvHeads: attention.globalKvHeads,
    intermediate,
    doubleWideMlp,
    contextLength: text.count("max_position_embeddings", MAX_CONTEXT),
    slidingWindow: text.count("sliding_window", MAX_CONTEXT),
    headDim: attention.headDim,
    globalHeadDim: attention.globalHeadDim,
    sharedKvLayers,
    perLayerWidth,
    perLayerVocabulary: perLayerWidth > 0 ? vocabulary : 0,
    experts: readExperts(text),
    rmsEpsilon: text.positive("rms_norm_eps", 1),
    softcap: text.raw("final_logit_softcapping") === null ? null : text.positive("final_logit_softcapping"),
    ropeTheta: rope.theta,
    partialRotaryFactor: rope.partialRotaryFactor,
    tiedEmbeddings: readTied(root, text),
    layers: resolveLayers(kinds, attention, { sharedKvLayers, intermediate, doubleWideMlp }),
    specialTokenIds: readSpecialTokens(root, text),
    nameOrPath: typeof name === "string" && name !== "" ? name : null,
  };
}

/**
 * Reads and checks `config.json` of a checkpoint folder.
 *
 * @throws Gemma4Error with exit code 2 when there is none or it describes another model, with 1 when it is damaged
 */
export async function readConfig(folder: string): Promise<Gemma4Config> {
  const file = join(folder, "config.json");
  const json = await readJsonObject(file);
  if (json === undefined) {
    throw new Gemma4Error(
      "no-config",
      `${folder} has no config.json; expected the folder of a Gemma 4 checkpoint.`,
      {
        exitCode: 2,
        advice: "Give the folder that holds config.json, tokenizer.json and the safetensors files.",
      },
    );
  }
  return parseConfig(json, file);
}
