/** Config fields of a member, as in its published config.json. */
export interface MemberFacts {
  readonly architecture: string;
  readonly modelType: string;
  /** Every how many layers one is a full one. */
  readonly period: number;
  readonly text: Readonly<Record<string, unknown>>;
}

const CONDITIONAL = { architecture: "Gemma4ForConditionalGeneration", modelType: "gemma4" };
const UNIFIED = { architecture: "Gemma4UnifiedForConditionalGeneration", modelType: "gemma4_unified" };
const NO_EXPERTS = {
  enable_moe_block: false,
  num_experts: null,
  top_k_experts: null,
  moe_intermediate_size: null,
};
const E_SERIES = {
  ...NO_EXPERTS,
  num_attention_heads: 8,
  num_global_key_value_heads: null,
  attention_k_eq_v: false,
  sliding_window: 512,
  hidden_size_per_layer_input: 256,
  max_position_embeddings: 131072,
  use_bidirectional_attention: null,
};
const LARGE = {
  ...NO_EXPERTS,
  attention_k_eq_v: true,
  use_double_wide_mlp: false,
  num_kv_shared_layers: 0,
  sliding_window: 1024,
  hidden_size_per_layer_input: 0,
  max_position_embeddings: 262144,
  use_bidirectional_attention: "vision",
};

export const MEMBERS = {
  E2B: {
    ...CONDITIONAL,
    period: 5,
    text: {
      ...E_SERIES,
      hidden_size: 1536,
      num_hidden_layers: 35,
      num_key_value_heads: 1,
      intermediate_size: 6144,
      use_double_wide_mlp: true,
      num_kv_shared_layers: 20,
    },
  },
  E4B: {
    ...CONDITIONAL,
    period: 6,
    text: {
      ...E_SERIES,
      hidden_size: 2560,
      num_hidden_layers: 42,
      num_key_value_heads: 2,
      intermediate_size: 10240,
      use_double_wide_mlp: false,
      num_kv_shared_layers: 18,
    },
  },
  "12B": {
    ...UNIFIED,
    period: 6,
    text: {
      ...LARGE,
      hidden_size: 3840,
      num_hidden_layers: 48,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      num_global_key_value_heads: 1,
      intermediate_size: 15360,
    },
  },
  "26B-A4B": {
    ...CONDITIONAL,
    period: 6,
    text: {
      ...LARGE,
      hidden_size: 2816,
      num_hidden_layers: 30,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      num_global_key_value_heads: 2,
      intermediate_size: 2112,
      enable_moe_block: true,
      num_experts: 128,
      top_k_experts: 8,
      moe_intermediate_size: 704,
    },
  },
  "31B": {
    ...CONDITIONAL,
    period: 6,
    text: {
      ...LARGE,
      hidden_size: 5376,
      num_hidden_layers: 60,
      num_attention_heads: 32,
      num_key_value_heads: 16,
      num_global_key_value_heads: 4,
      intermediate_size: 21504,
    },
  },
} satisfies Record<string, MemberFacts>;

export type MemberName = keyof typeof MEMBERS;

/** Published multimodal token ids; the 12B and later files spell the last one differently. */
const TOKENS = {
  image_token_id: 258880,
  audio_token_id: 258881,
  video_token_id: 258884,
  boi_token_id: 255999,
  eoi_token_id: 258882,
  boa_token_id: 256000,
  eoa_token_index: 258883,
};

export interface ConfigJson {
  [field: string]: unknown;
  text_config: Record<string, unknown>;
}

/** `sliding_attention` with a `full_attention` at the end of each period. */
export function layerTypes(count: number, period: number): string[] {
  return Array.from({ length: count }, (_, layer) =>
    layer % period === period - 1 ? "full_attention" : "sliding_attention",
  );
}

/**
 * A config.json with the structure of a member's.
 * @param text fields of `text_config` in place of the member's
 */
export function memberConfig(member: MemberName, text: Readonly<Record<string, unknown>> = {}): ConfigJson {
  const facts: MemberFacts = MEMBERS[member];
  const layers = Number(text["num_hidden_layers"] ?? facts.text["num_hidden_layers"]);
  return {
    architectures: [facts.architecture],
    model_type: facts.modelType,
    dtype: "bfloat16",
    eos_token_id: [1, 106],
    initializer_range: 0.02,
    tie_word_embeddings: true,
    vision_soft_tokens_per_image: 280,
    ...TOKENS,
    text_config: {
      model_type: "gemma4_text",
      attention_bias: false,
      attention_dropout: 0.0,
      bos_token_id: 2,
      eos_token_id: 1,
      pad_token_id: 0,
      dtype: "bfloat16",
      final_logit_softcapping: 30.0,
      head_dim: 256,
      global_head_dim: 512,
      hidden_activation: "gelu_pytorch_tanh",
      initializer_range: 0.02,
      rms_norm_eps: 1e-6,
      rope_parameters: {
        sliding_attention: { rope_type: "default", rope_theta: 10000.0 },
        full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1000000.0 },
      },
      tie_word_embeddings: true,
      use_cache: true,
      vocab_size: 262144,
      vocab_size_per_layer_input: 262144,
      layer_types: layerTypes(layers, facts.period),
      ...facts.text,
      ...text,
    },
  };
}
