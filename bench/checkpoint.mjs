// Makes large checkpoints for the benches: an E2B-like model with real row widths, and the miniature
// fixture's tokenizer, grown to the vocabulary asked for.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeSafetensors } from "../dist/formats/safetensors/write.js";
import { parseConfig } from "../dist/src/gemma4/config.js";
import { listWeights, parameterCount } from "../dist/src/gemma4/weights.js";

const FIXTURE = fileURLToPath(new URL("../fixtures/nano-e/", import.meta.url));
const FIXTURE_TOKENS = 1024;
const HIDDEN = 1536;
const FEED_FORWARD = 12288;

/** Layers of the real model with keys and values of their own, and all. */
const OWN_LAYERS = 15 / 35;

/** How many layers have keys and values of their own: whole periods of four sliding and a full one. */
function ownLayers(layers) {
  return Math.min(layers, 5 * Math.max(1, Math.round((layers * OWN_LAYERS) / 5)));
}

function configJson(fixture, { layers, vocabulary, sharing }) {
  const text = {
    ...fixture.text_config,
    hidden_size: HIDDEN,
    intermediate_size: sharing ? FEED_FORWARD / 2 : FEED_FORWARD,
    use_double_wide_mlp: sharing,
    num_attention_heads: 8,
    head_dim: 256,
    global_head_dim: 512,
    hidden_size_per_layer_input: 256,
    num_hidden_layers: layers,
    num_kv_shared_layers: sharing ? layers - ownLayers(layers) : 0,
    layer_types: Array.from({ length: layers }, (_, layer) =>
      layer % 5 === 4 || layer === layers - 1 ? "full_attention" : "sliding_attention",
    ),
    vocab_size: vocabulary,
    vocab_size_per_layer_input: vocabulary,
  };
  return { ...fixture, text_config: text };
}

/** 8 Mi normally distributed numbers (standard deviation 0.02) as bfloat16. */
function normals() {
  const count = 2 ** 23;
  const floats = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = 0.02 * Math.sqrt(-2 * Math.log(1 - Math.random()));
    const angle = 2 * Math.PI * Math.random();
    floats[i] = radius * Math.cos(angle);
    floats[i + 1] = radius * Math.sin(angle);
  }
  const words = new Uint16Array(floats.buffer);
  const halves = new Uint16Array(count);
  for (let i = 0; i < count; i++) halves[i] = words[2 * i + 1];
  return new Uint8Array(halves.buffer);
}

/** What every published Gemma 4 has for its 262,144 tokens. */
const MERGES_PER_TOKEN = 514_906 / 262_144;

/**
 * Fills the fixture's tokenizer up to a vocabulary: made-up words in place of the unused tokens, and as
 * many merges as a real tokenizer of that size has, each of which makes one of these words.
 */
function growTokenizer({ model }, vocabulary) {
  const wanted = Math.round(vocabulary * MERGES_PER_TOKEN);
  const words = [];
  for (let id = FIXTURE_TOKENS; id < vocabulary; id++) {
    // 5 to 6 letters from a multiplicative walk: no word twice, no order that a parser could profit from.
    const word = `▁${((id * 2_654_435_761) % 2 ** 31).toString(36)}`;
    model.vocab[word] = id;
    words.push(word);
  }
  for (let cut = 1; model.merges.length < wanted && words.length > 0; cut++) {
    for (const word of words) {
      if (model.merges.length < wanted && cut < word.length)
        model.merges.push([word.slice(0, cut), word.slice(cut)]);
    }
  }
}

/**
 * @param {string} folder made when it does not exist
 * @param {{ bytes?: number, layers?: number, vocabulary?: number, sparse?: boolean, sharing?: boolean }} options
 *   as many layers, or weights of about so many bytes; sparse: all zeros, which take no space on the disk;
 *   sharing: the later layers share keys and values and have an MLP twice as wide, as in E2B, which else all have
 */
export async function makeCheckpoint(
  folder,
  { bytes = 0, layers, vocabulary = FIXTURE_TOKENS, sparse = false, sharing = false },
) {
  await mkdir(folder, { recursive: true });
  const fixture = JSON.parse(await readFile(join(FIXTURE, "config.json"), "utf8"));
  const configOf = (count) => configJson(fixture, { layers: count, vocabulary, sharing });
  const sizeOf = (count) =>
    listWeights(parseConfig(configOf(count), "config.json")).reduce(
      (sum, weight) => sum + 2 * parameterCount(weight),
      0,
    );
  let count = layers ?? 1;
  // Without a size nothing is smaller than it.
  while (sizeOf(count + 1) <= bytes) count++;
  const json = configOf(count);
  await writeFile(join(folder, "config.json"), JSON.stringify(json, null, 2));
  for (const file of ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"]) {
    await copyFile(join(FIXTURE, file), join(folder, file));
  }
  const tokenizer = JSON.parse(await readFile(join(FIXTURE, "tokenizer.json"), "utf8"));
  if (vocabulary > FIXTURE_TOKENS) growTokenizer(tokenizer, vocabulary);
  // Indented as published ones are, which makes 32 MB of the real vocabulary.
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(tokenizer, null, 2));

  const tensors = listWeights(parseConfig(json, "config.json")).map((weight) => ({
    name: `model.language_model.${weight.name}`,
    dtype: "BF16",
    shape: weight.shape,
  }));
  const block = sparse ? new Uint8Array() : normals();
  // Norms and scales of 0.02 would let the stream die out over the layers, and small numbers are slow.
  const ones = new Uint8Array(new Uint16Array(block.length / 2).fill(0x3f80).buffer);
  const vectors = new Set(tensors.filter(({ shape }) => shape.length === 1).map(({ name }) => name));
  const sizes = new Map(tensors.map(({ name, shape }) => [name, 2 * shape.reduce((a, b) => a * b, 1)]));
  await writeSafetensors(
    join(folder, "model.safetensors"),
    { tensors, metadata: { format: "pt" } },
    async (name, write) => {
      if (sparse) return;
      for (let left = sizes.get(name); left > 0; left -= block.length) {
        await write((vectors.has(name) ? ones : block).subarray(0, Math.min(left, block.length)));
      }
    },
    { sparse },
  );
}
