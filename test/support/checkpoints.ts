import { cp, mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseConfig } from "../../src/gemma4/config.js";
import type { Gemma4Config, Weight } from "../../src/gemma4/types.js";
import { headWeight, listWeights } from "../../src/gemma4/weights.js";
import { packageRoot } from "../../src/base/paths.js";
import { type ConfigJson, layerTypes, memberConfig, type MemberName } from "./members.js";

export const NANO = join(packageRoot, "fixtures", "nano-e");
/** Tokens of nano-e's tokenizer. */
const NANO_VOCABULARY = 1024;

/** A kind of checkpoint: real head dims, row widths and structure, few layers, a narrow stream. */
const KINDS = {
  /** E2B-like: per-layer embeddings of width 256, the second half shares K/V and is double wide. */
  e: {
    member: "E2B",
    text: { num_hidden_layers: 4, num_kv_shared_layers: 2, num_attention_heads: 2, intermediate_size: 512 },
  },
  /** 31B-like: dense, k = v on full layers. */
  dense: {
    member: "31B",
    text: {
      num_hidden_layers: 4,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      num_global_key_value_heads: 1,
      intermediate_size: 1024,
    },
  },
  /** 12B-like: the same in the unified form, with suppressed tokens. */
  unified: {
    member: "12B",
    text: {
      num_hidden_layers: 4,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      num_global_key_value_heads: 1,
      intermediate_size: 1024,
    },
  },
  /** 26B-A4B-like: its widths of 2112 and 704 are no multiples of 256. */
  moe: {
    member: "26B-A4B",
    text: {
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      num_global_key_value_heads: 1,
      num_experts: 8,
      top_k_experts: 2,
    },
  },
} as const satisfies Record<string, { member: MemberName; text: Record<string, unknown> }>;

export type CheckpointKind = keyof typeof KINDS;

export interface CheckpointOptions {
  readonly kind?: CheckpointKind;
  readonly seed?: number;
  /** Even: layers alternate between sliding and full. */
  readonly layers?: number;
  readonly hidden?: number;
  /** At least 1024; more than nano-e's tokens are named `<unusedN>`. */
  readonly vocabulary?: number;
  /** Further fields of `text_config`. */
  readonly text?: Readonly<Record<string, unknown>>;
  /** Further fields of the root of config.json. */
  readonly root?: Readonly<Record<string, unknown>>;
  /** `text` is the form of text-only re-saves: no `text_config`, prefix `model.`. */
  readonly form?: "multimodal" | "text";
  readonly dtype?: "BF16" | "F16" | "F32";
  /** Files to spread the tensors over. */
  readonly shards?: number;
  /**
   * Only the first values of each tensor are random, and zeros that take no room on the disk follow: for
   * sizes that keep a conversion busy. One shard, BF16.
   */
  readonly sparse?: boolean;
  /** Leave out keys and values of the layers that share them. */
  readonly dropUnused?: boolean;
  /** Write a random `lm_head.weight`. */
  readonly head?: boolean;
  /** Tensors to leave out, by their names without the prefix. */
  readonly drop?: readonly string[];
  /** Tensors to add, by their full names. */
  readonly add?: Readonly<Record<string, readonly number[]>>;
  /** Shapes to give to tensors, by their names without the prefix. */
  readonly reshape?: Readonly<Record<string, readonly number[]>>;
  /** How the values of a tensor lie, by its name without the prefix; undefined for the usual way. */
  readonly spread?: (name: string) => Spread | undefined;
}

/** Mean and standard deviation of random values. */
export interface Spread {
  readonly mean: number;
  readonly deviation: number;
}

export interface MadeCheckpoint {
  readonly folder: string;
  readonly config: Gemma4Config;
  /** Names of the tensors, in file order. */
  readonly tensors: readonly string[];
}

interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly spread: Spread;
}

/** Norms and scales lie around 1, matrices around 0. */
function usualSpread(shape: readonly number[]): Spread {
  return { mean: shape.length === 1 ? 1 : 0, deviation: 0.02 };
}

/** Normal-looking values from the four bytes of one step of a linear generator. */
function fill(count: number, { mean, deviation }: Spread, seed: number): Float32Array {
  const values = new Float32Array(count);
  let state = Math.imul(seed, 0x9e3779b1) | 1;
  for (let index = 0; index < count; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const sum = (state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24);
    // A sum of four uniform bytes has mean 510 and standard deviation 147.8.
    values[index] = mean + (deviation * (sum - 510)) / 147.8;
  }
  return values;
}

/** F16 for values that are normal numbers in it, by cutting off the digits it lacks. */
function toHalf(bits: number): number {
  const exponent = ((bits >>> 23) & 255) - 112;
  if (exponent <= 0) return (bits >>> 16) & 0x8000;
  return ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 0x3ff);
}

function encode(values: Float32Array, dtype: "BF16" | "F16" | "F32"): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer);
  const bits = new Uint32Array(values.buffer);
  const halves = new Uint16Array(values.length);
  for (let index = 0; index < halves.length; index++) {
    const value = bits[index] ?? 0;
    halves[index] = dtype === "BF16" ? value >>> 16 : toHalf(value);
  }
  return new Uint8Array(halves.buffer);
}

function valuesOf({ shape }: Tensor): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Header of a safetensors file; written here by hand, so that readers are tested against something else. */
function safetensorsHeader(tensors: readonly Tensor[], dtype: "BF16" | "F16" | "F32"): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let offset = 0;
  for (const tensor of tensors) {
    const end = offset + valuesOf(tensor) * (dtype === "F32" ? 4 : 2);
    header[tensor.name] = { dtype, shape: tensor.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = JSON.stringify(header);
  const padded = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded]);
}

/** One safetensors file. */
function safetensors(tensors: readonly Tensor[], dtype: "BF16" | "F16" | "F32", seed: number): Buffer {
  const data = tensors.map((tensor, index) =>
    encode(fill(valuesOf(tensor), tensor.spread, seed + index), dtype),
  );
  return Buffer.concat([safetensorsHeader(tensors, dtype), ...data]);
}

/** Values at the start of each tensor of a sparse file. */
const SPARSE_VALUES = 2 ** 16;

/** The same in BF16, with a hole in each tensor. */
async function writeSparse(path: string, tensors: readonly Tensor[], seed: number): Promise<void> {
  const file = await open(path, "w");
  try {
    const header = safetensorsHeader(tensors, "BF16");
    await file.write(header, 0, header.length, 0);
    let offset = header.length;
    for (const [index, tensor] of tensors.entries()) {
      const count = valuesOf(tensor);
      const bytes = encode(fill(Math.min(count, SPARSE_VALUES), tensor.spread, seed + index), "BF16");
      await file.write(bytes, 0, bytes.length, offset);
      offset += count * 2;
    }
    await file.truncate(offset);
  } finally {
    await file.close();
  }
}

function configJson(options: CheckpointOptions, vocabulary: number): ConfigJson | Record<string, unknown> {
  const { kind = "e", layers, hidden = 256, form = "multimodal" } = options;
  const { member, text } = KINDS[kind];
  const count = layers ?? text.num_hidden_layers;
  const config = memberConfig(member, {
    ...text,
    hidden_size: hidden,
    num_hidden_layers: count,
    layer_types: layerTypes(count, 2),
    sliding_window: 64,
    vocab_size: vocabulary,
    vocab_size_per_layer_input: vocabulary,
    ...options.text,
  });
  // nano-e's special tokens in place of the real ones.
  const tokens = {
    eos_token_id: [1, 6],
    image_token_id: 8,
    audio_token_id: 11,
    video_token_id: 13,
    boi_token_id: 7,
    eoi_token_id: 9,
    boa_token_id: 10,
    eoa_token_index: 12,
  };
  if (form === "multimodal") return { ...config, ...tokens, ...options.root };
  return { ...config.text_config, architectures: ["Gemma4ForCausalLM"], ...options.root };
}

async function writeTokenizer(folder: string, vocabulary: number): Promise<void> {
  const json = JSON.parse(await readFile(join(NANO, "tokenizer.json"), "utf8")) as {
    model: { vocab: Record<string, number> };
  };
  for (let id = NANO_VOCABULARY; id < vocabulary; id++) json.model.vocab[`<unused${id}>`] = id;
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
  for (const file of ["tokenizer_config.json", "chat_template.jinja"])
    await cp(join(NANO, file), join(folder, file));
}

/**
 * Writes a small random checkpoint of any kind, complete with tokenizer: what conversion takes and, once
 * converted, llama.cpp loads. The options can make it faulty in one place.
 *
 * @param folder made when it does not exist
 */
export async function makeCheckpoint(
  folder: string,
  options: CheckpointOptions = {},
): Promise<MadeCheckpoint> {
  const { kind = "e", seed = 1, vocabulary = NANO_VOCABULARY, form = "multimodal", dtype = "BF16" } = options;
  await mkdir(folder, { recursive: true });
  const json = configJson(options, vocabulary);
  const file = join(folder, "config.json");
  const config = parseConfig(json, file);
  await writeFile(file, JSON.stringify(json, null, 2));
  const generation = { do_sample: true, temperature: 1.0, top_k: 64, top_p: 0.95, eos_token_id: [1, 6] };
  const suppressed = kind === "unified" ? { suppress_tokens: [12, 9] } : {};
  await writeFile(join(folder, "generation_config.json"), JSON.stringify({ ...generation, ...suppressed }));
  await writeTokenizer(folder, vocabulary);

  const prefix = form === "multimodal" ? "model.language_model." : "model.";
  const { drop = [], reshape = {}, add = {}, head = false, dropUnused = false } = options;
  const weights = listWeights(config);
  if (head && config.tiedEmbeddings) weights.push(headWeight(config));
  const kept = weights.filter((weight) => !drop.includes(weight.name) && !(dropUnused && weight.unused));
  const tensors: Tensor[] = [
    ...kept.map((weight: Weight) => ({
      name: weight.role === "head" ? weight.name : prefix + weight.name,
      shape: reshape[weight.name] ?? weight.shape,
      spread: options.spread?.(weight.name) ?? usualSpread(weight.shape),
    })),
    ...Object.entries(add).map(([name, shape]) => ({
      name,
      shape,
      spread: { mean: 0, deviation: 0.02 },
    })),
  ].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  if (options.sparse === true)
    await writeSparse(join(folder, "model.safetensors"), tensors, seed * 1_000_003);
  else {
    await writeShards(folder, tensors, options.shards ?? 1, (part) =>
      safetensors(part, dtype, seed * 1_000_003),
    );
  }
  return { folder, config, tensors: tensors.map(({ name }) => name) };
}

function fiveDigits(part: number): string {
  return String(part).padStart(5, "0");
}

async function writeShards(
  folder: string,
  tensors: readonly Tensor[],
  count: number,
  encodePart: (tensors: readonly Tensor[]) => Buffer,
): Promise<void> {
  if (count === 1) {
    await writeFile(join(folder, "model.safetensors"), encodePart(tensors));
    return;
  }
  const weightMap: Record<string, string> = {};
  let total = 0;
  for (let part = 0; part < count; part++) {
    const file = `model-${fiveDigits(part + 1)}-of-${fiveDigits(count)}.safetensors`;
    const own = tensors.slice(
      Math.floor((part * tensors.length) / count),
      Math.floor(((part + 1) * tensors.length) / count),
    );
    const bytes = encodePart(own);
    total += bytes.length - 8 - Number(bytes.readBigUInt64LE(0));
    for (const { name } of own) weightMap[name] = file;
    await writeFile(join(folder, file), bytes);
  }
  const index = { metadata: { total_size: total }, weight_map: weightMap };
  await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
}
