/** Members of the family that the text part is known for. */
export type Member = "E2B" | "E4B" | "12B" | "26B-A4B" | "31B" | "other";

export type LayerKind = "sliding" | "full";

/** What one layer looks like, resolved from the config. */
export interface LayerConfig {
  readonly index: number;
  readonly kind: LayerKind;
  readonly headDim: number;
  readonly kvHeads: number;
  readonly feedForward: number;
  /** The layer has no v_proj: values are the keys before norm and rotation. */
  readonly kEqualsV: boolean;
  /** The layer reuses keys and values of an earlier one; its own K/V tensors, if present, are dead weight. */
  readonly sharesKv: boolean;
}

/** Special tokens that llama.cpp's converter looks for, in the order it writes them. */
export const SPECIAL_TOKENS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot", "eom"] as const;

export type SpecialToken = (typeof SPECIAL_TOKENS)[number];

/** `config.json` of any member, checked and with every gap refused rather than filled in. */
export interface Gemma4Config {
  /** Path of the file, for messages. */
  readonly file: string;
  readonly member: Member;
  /** `model_type` of the file. */
  readonly modelType: string;
  readonly vocabulary: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Null when the config does not set it. */
  readonly globalKvHeads: number | null;
  readonly intermediate: number;
  readonly doubleWideMlp: boolean;
  readonly contextLength: number;
  readonly slidingWindow: number;
  readonly headDim: number;
  readonly globalHeadDim: number;
  readonly sharedKvLayers: number;
  /** Width of the per-layer embeddings; 0 when the model has none. */
  readonly perLayerWidth: number;
  readonly perLayerVocabulary: number;
  readonly experts: { readonly count: number; readonly used: number; readonly intermediate: number } | null;
  readonly rmsEpsilon: number;
  readonly softcap: number | null;
  readonly ropeTheta: { readonly sliding: number; readonly full: number };
  readonly partialRotaryFactor: number;
  /** The output matrix is the embedding; otherwise the checkpoint has to hold `lm_head.weight`. */
  readonly tiedEmbeddings: boolean;
  readonly layers: readonly LayerConfig[];
  /** Single token ids that the file names; a list (`eos_token_id` of instruction-tuned models) is not one. */
  readonly specialTokenIds: Readonly<Partial<Record<SpecialToken, number>>>;
  /** `_name_or_path`, from which a model name may be derived. */
  readonly nameOrPath: string | null;
}

export type Role =
  | "embedding"
  | "ple_table"
  | "ple_projection"
  | "ple_norm"
  | "final_norm"
  | "head"
  | "input_norm"
  | "post_attention_norm"
  | "pre_ffn_norm"
  | "post_ffn_norm"
  | "pre_ffn_norm_2"
  | "post_ffn_norm_1"
  | "post_ffn_norm_2"
  | "q_proj"
  | "k_proj"
  | "v_proj"
  | "o_proj"
  | "q_norm"
  | "k_norm"
  | "ffn_gate"
  | "ffn_up"
  | "ffn_down"
  | "ple_gate"
  | "ple_layer_projection"
  | "ple_layer_norm"
  | "layer_scale"
  | "router"
  | "router_scale"
  | "expert_scale"
  | "experts_gate_up"
  | "experts_down";

/** One weight of the text model as the config demands it. */
export interface Weight {
  readonly role: Role;
  /** Layer number; null for weights outside the layers. */
  readonly layer: number | null;
  /** Name in the checkpoint without its prefix, such as `layers.3.self_attn.q_proj.weight`. */
  readonly name: string;
  /** Name in GGUF, such as `blk.3.attn_q.weight`. */
  readonly gguf: string;
  /** PyTorch order. */
  readonly shape: readonly number[];
  /** K/V of a layer that shares them: may be absent, and is never used. */
  readonly unused: boolean;
}
