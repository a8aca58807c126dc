import { isObject, type JsonObject } from "./json.js";

/** Small files that a package for transformers.js takes over from the checkpoint, where they are there. */
export const COPIED_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
  "processor_config.json",
  "preprocessor_config.json",
] as const;

/** Ids that stand in a text for something else. */
const PLACEHOLDERS = ["image_token_id", "audio_token_id", "video_token_id"] as const;

/** Key of config.json under which transformers.js has its own settings. */
const OWN = "transformers.js_config";
const EXTERNAL = "use_external_data_format";

/** Tokens that stand for images, sounds and videos in a checkpoint's config.json. */
export function placeholderTokens(config: JsonObject): number[] {
  const ids = PLACEHOLDERS.map((name) => config[name]);
  return [...new Set(ids.filter((id): id is number => typeof id === "number"))];
}

/** The token that per-layer embeddings take in place of those. */
export function paddingToken(config: JsonObject): number {
  const text = isObject(config["text_config"]) ? config["text_config"] : config;
  const id = text["pad_token_id"] ?? config["pad_token_id"];
  return typeof id === "number" ? id : 0;
}

export interface PackageGraphs {
  /** Number of data files by graph file, of those that are written now. */
  readonly chunks: Readonly<Record<string, number>>;
  /** What `from_pretrained` loads when it is not told; left to the runtime where it is not given. */
  readonly dtype?: Readonly<Record<string, string>> | undefined;
}

/**
 * `config.json` as transformers.js wants it: it knows all of the family by one model type and one architecture, reads
 * the text model's fields under `text_config`, and asks how many data files belong to each graph.
 *
 * @param config of the checkpoint, in either form
 * @param earlier of the package, if there is one: what it says of other graphs is kept
 */
export function transformersJsConfig(
  config: JsonObject,
  { chunks, dtype }: PackageGraphs,
  earlier: JsonObject | undefined,
): JsonObject {
  const own = isObject(config[OWN]) ? config[OWN] : {};
  const before = earlier !== undefined && isObject(earlier[OWN]) ? earlier[OWN] : {};
  const known = isObject(before[EXTERNAL]) ? before[EXTERNAL] : {};
  const settings = {
    ...own,
    ...before,
    [EXTERNAL]: { ...known, ...chunks },
    ...(dtype === undefined ? {} : { dtype }),
  };
  return {
    ...nested(config),
    architectures: ["Gemma4ForConditionalGeneration"],
    model_type: "gemma4",
    [OWN]: settings,
  };
}

/** Text-only re-saves have the fields of the text model at the root. */
function nested(config: JsonObject): JsonObject {
  const text = config["text_config"];
  if (isObject(text)) return { ...config, text_config: { ...text, model_type: "gemma4_text" } };
  const { eos_token_id, bos_token_id, pad_token_id, ...rest } = config;
  const ids = { eos_token_id, bos_token_id, pad_token_id };
  return {
    ...ids,
    text_config: { ...config, architectures: undefined, model_type: "gemma4_text" },
    ...pick(rest),
  };
}

/** What stays at the root of a text-only config. */
function pick(config: JsonObject): JsonObject {
  const names = ["tie_word_embeddings", "dtype", "torch_dtype", "transformers_version"];
  return Object.fromEntries(names.filter((name) => name in config).map((name) => [name, config[name]]));
}
