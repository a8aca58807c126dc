import type { JsonObject } from "./json.js";
import type { Gemma4Config } from "./types.js";

/** Tokens that end a text, as `generation_config.json` or `config.json` names them. */
function endTokens(generation: JsonObject | undefined, config: JsonObject): unknown {
  const text = config["text_config"] as JsonObject | undefined;
  return generation?.["eos_token_id"] ?? config["eos_token_id"] ?? text?.["eos_token_id"] ?? 1;
}

/** Names of the graph's inputs and outputs, of which `%d` stands for a layer. */
const NAMES = {
  inputs: {
    input_ids: "input_ids",
    attention_mask: "attention_mask",
    position_ids: "position_ids",
    past_key_names: "past_key_values.%d.key",
    past_value_names: "past_key_values.%d.value",
  },
  outputs: {
    logits: "logits",
    present_key_names: "present.%d.key",
    present_value_names: "present.%d.value",
  },
} as const;

/**
 * `genai_config.json` of onnxruntime-genai for a text model in one graph. The runtime reads head count and head size of
 * each layer from the graph's inputs, so the figures here are those of sliding layers.
 *
 * @param json config.json of the checkpoint
 * @param generation generation_config.json, if there is one
 * @param filename of the graph
 */
export function genaiConfig(
  config: Gemma4Config,
  json: JsonObject,
  generation: JsonObject | undefined,
  filename: string,
): JsonObject {
  const { specialTokenIds, vocabulary, contextLength, layers } = config;
  const number = (name: string, otherwise: number): unknown => generation?.[name] ?? otherwise;
  return {
    model: {
      type: "gemma4_text",
      vocab_size: vocabulary,
      context_length: contextLength,
      bos_token_id: specialTokenIds.bos ?? 2,
      eos_token_id: endTokens(generation, json),
      pad_token_id: specialTokenIds.pad ?? 0,
      decoder: {
        session_options: { log_id: "onnxruntime-genai", provider_options: [] },
        filename,
        hidden_size: config.hidden,
        head_size: config.headDim,
        num_attention_heads: config.heads,
        num_key_value_heads: config.kvHeads,
        num_hidden_layers: layers.length,
        ...NAMES,
      },
    },
    search: {
      max_length: contextLength,
      do_sample: generation?.["do_sample"] === true,
      temperature: number("temperature", 1),
      top_k: number("top_k", 64),
      top_p: number("top_p", 0.95),
      past_present_share_buffer: false,
    },
  };
}
