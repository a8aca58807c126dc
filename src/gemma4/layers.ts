import { type Fields, show } from "./json.js";
import type { LayerConfig, LayerKind } from "./types.js";

/** llama.cpp's own bound. Real: 60 (31B). */
const MAX_LAYERS = 512;
/** Keeps every product of two dimensions inside a safe integer. Real: 262,144 (vocabulary), 21,504 (31B). */
export const MAX_DIMENSION = 2 ** 24;
/** Real: 32 (31B). */
const MAX_HEADS = 1024;

/** What the attention fields of the config say, per kind of layer. */
export interface Attention {
  readonly heads: number;
  readonly kvHeads: number;
  readonly globalKvHeads: number | null;
  readonly headDim: number;
  readonly globalHeadDim: number;
  readonly kEqualsV: boolean;
}

/** `layer_types`, checked against `num_hidden_layers`. */
export function readLayerKinds(text: Fields): LayerKind[] {
  const count = text.count("num_hidden_layers", MAX_LAYERS);
  const names = text.raw("layer_types");
  if (!Array.isArray(names) || names.length !== count) {
    throw text.fail("layer_types", `a list of ${count} layer types, one a layer`);
  }
  const kinds = names.map((name: unknown, index): LayerKind => {
    if (name === "sliding_attention") return "sliding";
    if (name === "full_attention") return "full";
    throw text.fail(
      "layer_types",
      `"sliding_attention" or "full_attention" for layer ${index}, not ${show(name)}`,
    );
  });
  if (kinds.at(-1) !== "full") throw text.fail("layer_types", `"full_attention" for the last layer`);
  return kinds;
}

/** What `per_layer_config` says about the full layers; null where it is silent. */
interface Overrides {
  readonly headDim: number | null;
  readonly kvHeads: number | null;
}

/**
 * `per_layer_config`: what transformers 5.15 and later write in place of the `global_` fields. Keys are
 * layer numbers (padded with zeros), values the fields in which the layer differs from the others.
 */
function readOverrides(
  text: Fields,
  kinds: readonly LayerKind[],
  kvHeads: number,
  headDim: number,
): Overrides {
  if (!text.has("per_layer_config")) return { headDim: null, kvHeads: null };
  const table = text.object("per_layer_config");
  const found = new Map<number, { headDim: number | null; kvHeads: number | null }>();
  for (const key of table.keys()) {
    const index = Number(key);
    if (!/^\d{1,4}$/.test(key) || index >= kinds.length || found.has(index)) {
      throw text.fail(
        "per_layer_config",
        `each key to be one of the layers 0 to ${kinds.length - 1}, once, not "${key}"`,
      );
    }
    const layer = table.object(key);
    const unknown = layer.keys().find((name) => name !== "head_dim" && name !== "num_key_value_heads");
    if (unknown !== undefined) throw layer.fail(unknown, "no field besides head_dim and num_key_value_heads");
    found.set(index, {
      headDim: layer.countOrNull("head_dim", MAX_DIMENSION),
      kvHeads: layer.countOrNull("num_key_value_heads", MAX_HEADS),
    });
  }
  const [first, ...others] = kinds.flatMap((kind, index) => {
    const layer = found.get(index) ?? { headDim: null, kvHeads: null };
    if (kind === "full") return [layer];
    if ((layer.headDim ?? headDim) === headDim && (layer.kvHeads ?? kvHeads) === kvHeads) return [];
    throw text.fail("per_layer_config", `no deviation on the sliding layer ${index}`);
  });
  if (
    first === undefined ||
    others.some((layer) => layer.headDim !== first.headDim || layer.kvHeads !== first.kvHeads)
  ) {
    throw text.fail("per_layer_config", "the same values for every full layer");
  }
  return first;
}

/** The value of a `global_` field and of its counterpart in `per_layer_config`, which may not disagree. */
function agree(text: Fields, name: string, global: number | null, override: number | null): number | null {
  if (global !== null && override !== null && global !== override) {
    throw text.fail(name, `${override}, as in per_layer_config`);
  }
  return override ?? global;
}

/** Head counts and widths, from the `global_` fields or from `per_layer_config`. */
export function readAttention(text: Fields, kinds: readonly LayerKind[]): Attention {
  const heads = text.count("num_attention_heads", MAX_HEADS);
  const kvHeads = text.count("num_key_value_heads", heads);
  const headDim = text.count("head_dim", MAX_DIMENSION);
  const kEqualsV = text.boolean("attention_k_eq_v");
  const overrides = readOverrides(text, kinds, kvHeads, headDim);
  const globalHeadDim = agree(
    text,
    "global_head_dim",
    text.countOrNull("global_head_dim", MAX_DIMENSION),
    overrides.headDim,
  );
  if (globalHeadDim === null) {
    throw text.fail(
      "global_head_dim",
      "a whole number, here or as head_dim of the full layers in per_layer_config",
    );
  }
  const globalKvHeads = agree(
    text,
    "num_global_key_value_heads",
    text.countOrNull("num_global_key_value_heads", heads),
    overrides.kvHeads,
  );
  if (kEqualsV && globalKvHeads === null) {
    throw text.fail("num_global_key_value_heads", "a whole number, because attention_k_eq_v is true");
  }
  if (!kEqualsV && globalKvHeads !== null && globalKvHeads !== kvHeads) {
    throw text.fail("num_global_key_value_heads", `null or ${kvHeads}, because attention_k_eq_v is false`);
  }
  for (const [name, value] of [
    ["head_dim", headDim],
    ["global_head_dim", globalHeadDim],
  ] as const) {
    // The rotation pairs value i with value i + headDim / 2.
    if (value % 2 !== 0) throw text.fail(name, "an even number");
  }
  for (const [name, value] of [
    ["num_key_value_heads", kvHeads],
    ["num_global_key_value_heads", globalKvHeads],
  ] as const) {
    if (value !== null && heads % value !== 0)
      throw text.fail(name, `a divisor of num_attention_heads (${heads})`);
  }
  return { heads, kvHeads, globalKvHeads, headDim, globalHeadDim, kEqualsV };
}

/** The part of the layers that reuse keys and values of earlier ones. */
export interface Sharing {
  readonly sharedKvLayers: number;
  readonly intermediate: number;
  readonly doubleWideMlp: boolean;
}

/**
 * Checks that sharing works as llama.cpp has it: sliding layers reuse the last but one layer before the
 * shared ones, full layers the last.
 */
export function checkSharing(text: Fields, kinds: readonly LayerKind[], shared: number): void {
  if (shared === 0) return;
  const first = kinds.length - shared;
  const later = new Set(kinds.slice(first));
  const wrong =
    (later.has("full") && kinds[first - 1] !== "full") ||
    (later.has("sliding") && kinds[first - 2] !== "sliding");
  if (wrong) {
    throw text.fail(
      "num_kv_shared_layers",
      `a sliding layer and then a full layer right before the shared ones (layers ${first - 2} and ${first - 1})`,
    );
  }
}

/** One entry a layer, in order. */
export function resolveLayers(
  kinds: readonly LayerKind[],
  attention: Attention,
  sharing: Sharing,
): LayerConfig[] {
  const firstShared = kinds.length - sharing.sharedKvLayers;
  return kinds.map((kind, index) => {
    const full = kind === "full";
    const sharesKv = index >= firstShared;
    return {
      index,
      kind,
      headDim: full ? attention.globalHeadDim : attention.headDim,
      kvHeads:
        full && attention.kEqualsV ? (attention.globalKvHeads ?? attention.kvHeads) : attention.kvHeads,
      feedForward: sharesKv && sharing.doubleWideMlp ? sharing.intermediate * 2 : sharing.intermediate,
      kEqualsV: full && attention.kEqualsV,
      sharesKv,
    };
  });
}

/** Rotation: one base for sliding layers, one for full layers, of which only a part of the head turns. */
export function readRope(text: Fields): {
  theta: { sliding: number; full: number };
  partialRotaryFactor: number;
} {
  const parameters = text.object("rope_parameters");
  const sliding = parameters.object("sliding_attention");
  sliding.oneOf("rope_type", ["default"]);
  sliding.optionally("partial_rotary_factor", [1]);
  const full = parameters.object("full_attention");
  full.oneOf("rope_type", ["proportional"]);
  for (const layers of [sliding, full]) layers.optionally("factor", [1]);
  return {
    theta: { sliding: sliding.positive("rope_theta"), full: full.positive("rope_theta") },
    partialRotaryFactor: full.positive("partial_rotary_factor", 1),
  };
}
