/** Names of the multimodal part of a checkpoint, with the number of dimensions each has. */
const LAYER = String.raw`layers\.(?:0|[1-9]\d{0,2})`;
const CLIP = "(?:input|output)_(?:min|max)";
const VISION = String.raw`model\.vision_tower`;
const VISION_LAYER = String.raw`${VISION}\.encoder\.${LAYER}`;
const VISION_LINEAR = String.raw`${VISION_LAYER}\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj`;
const AUDIO = String.raw`model\.audio_tower`;
const AUDIO_LAYER = String.raw`${AUDIO}\.${LAYER}`;
const AUDIO_LINEAR = String.raw`${AUDIO_LAYER}\.(?:feed_forward[12]\.ffw_layer_[12]|self_attn\.(?:[qkv]_proj|post)|lconv1d\.linear_(?:start|end))`;
const CONV = String.raw`${AUDIO}\.subsample_conv_projection`;
const UNIFIED = String.raw`model\.vision_embedder`;

const TABLE: readonly (readonly [pattern: string, rank: number])[] = [
  [String.raw`${VISION}\.patch_embedder\.input_proj\.weight`, 2],
  [String.raw`${VISION}\.patch_embedder\.position_embedding_table`, 3],
  [String.raw`${VISION_LINEAR}\.linear\.weight`, 2],
  [String.raw`${VISION_LINEAR}\.${CLIP}`, 0],
  [String.raw`${VISION_LAYER}\.self_attn\.[qk]_norm\.weight`, 1],
  [String.raw`${VISION_LAYER}\.(?:input|post_attention|(?:pre|post)_feedforward)_layernorm\.weight`, 1],
  [String.raw`${VISION}\.std_(?:bias|scale)`, 1],
  [String.raw`model\.embed_(?:vision|audio)\.embedding_projection\.weight`, 2],

  [String.raw`${CONV}\.layer[01]\.conv\.weight`, 4],
  [String.raw`${CONV}\.layer[01]\.norm\.weight`, 1],
  [String.raw`${CONV}\.input_proj_linear\.weight`, 2],
  [String.raw`${AUDIO_LINEAR}\.linear\.weight`, 2],
  [String.raw`${AUDIO_LINEAR}\.${CLIP}`, 0],
  [String.raw`${AUDIO_LAYER}\.feed_forward[12]\.(?:pre|post)_layer_norm\.weight`, 1],
  [String.raw`${AUDIO_LAYER}\.self_attn\.relative_k_proj\.weight`, 2],
  [String.raw`${AUDIO_LAYER}\.self_attn\.per_dim_scale`, 1],
  [String.raw`${AUDIO_LAYER}\.lconv1d\.depthwise_conv1d\.weight`, 3],
  [
    String.raw`${AUDIO_LAYER}\.(?:lconv1d\.(?:pre_layer_norm|conv_norm)|norm_(?:pre_attn|post_attn|out))\.weight`,
    1,
  ],
  [String.raw`${AUDIO}\.output_proj\.weight`, 2],
  [String.raw`${AUDIO}\.output_proj\.bias`, 1],

  [String.raw`${UNIFIED}\.(?:patch_ln[12]|pos_norm)\.(?:weight|bias)`, 1],
  [String.raw`${UNIFIED}\.patch_dense\.weight`, 2],
  [String.raw`${UNIFIED}\.patch_dense\.bias`, 1],
  [String.raw`${UNIFIED}\.pos_embedding`, 3],
];

const PATTERNS = TABLE.map(([pattern, rank]) => ({ pattern: new RegExp(`^${pattern}$`), rank }));

/** Number of dimensions of a tensor of the multimodal part; undefined when the name is not one of its names. */
export function towerRank(name: string): number | undefined {
  return PATTERNS.find(({ pattern }) => pattern.test(name))?.rank;
}
