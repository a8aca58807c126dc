import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { randomFrom } from "./weights.js";

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

const LAYER = "model.language_model.layers.";
const FILE = "model.safetensors";

/** The tensors of a BF16 checkpoint in one file, to be changed in place by exact powers of two. */
class Weights {
  readonly #bytes: Buffer;
  readonly #header: Readonly<Record<string, Entry>>;
  readonly #body: number;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    const length = Number(bytes.readBigUInt64LE(0));
    this.#header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, Entry>;
    this.#body = 8 + length;
  }

  shape(name: string): readonly number[] | undefined {
    return this.#header[name]?.shape;
  }

  /** Adds exponents to all values of a tensor, which stays as it was where it is zero. */
  scale(name: string, exponent: (index: number) => number): void {
    const entry = this.#header[name];
    if (entry === undefined) return;
    if (entry.dtype !== "BF16") throw new Error(`${name} is ${entry.dtype}, not BF16.`);
    const [start, end] = entry.data_offsets;
    for (let index = 0; index < (end - start) / 2; index++) {
      const at = this.#body + start + 2 * index;
      const bits = this.#bytes.readUInt16LE(at);
      if ((bits & 0x7fff) === 0) continue;
      const exponentNow = (bits >> 7) & 0xff;
      const next = exponentNow + exponent(index);
      if (exponentNow === 0 || next < 1 || next > 254) throw new Error(`${name} does not scale exactly.`);
      this.#bytes.writeUInt16LE((bits & 0x807f) | (next << 7), at);
    }
  }
}

/**
 * Rewrites a checkpoint so that it computes the same and is harder to round: powers of two whose exponents are
 * normally distributed move from norms into the columns that read them, and from rows of up into columns of down.
 *
 * @param source folder with one safetensors file in BF16
 * @param out folder to make
 * @param spread standard deviation of the exponents
 */
export async function spikyCheckpoint(source: string, out: string, spread: number, seed = 3): Promise<void> {
  mkdirSync(out, { recursive: true });
  for (const file of await readdir(source)) {
    if (/\.(?:json|jinja)$/.test(file)) await cp(join(source, file), join(out, file));
  }
  const bytes = await readFile(join(source, FILE));
  const weights = new Weights(bytes);
  const random = randomFrom(seed);
  const exponents = (count: number): number[] =>
    Array.from({ length: count }, () => {
      const normal = Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
      return Math.round(spread * normal);
    });
  const fromNorm = (norm: string, readers: readonly string[]): void => {
    const [width] = weights.shape(norm) ?? [];
    if (width === undefined) return;
    const shift = exponents(width);
    weights.scale(norm, (index) => -shift[index]!);
    for (const reader of readers) weights.scale(reader, (index) => shift[index % width]!);
  };
  for (let layer = 0; weights.shape(`${LAYER}${layer}.input_layernorm.weight`) !== undefined; layer++) {
    const name = (of: string): string => `${LAYER}${layer}.${of}`;
    fromNorm(
      name("input_layernorm.weight"),
      ["q", "k", "v"].map((of) => name(`self_attn.${of}_proj.weight`)),
    );
    fromNorm(name("pre_feedforward_layernorm.weight"), [
      name("mlp.gate_proj.weight"),
      name("mlp.up_proj.weight"),
    ]);
    fromNorm(name("pre_feedforward_layernorm_2.weight"), [name("experts.gate_up_proj")]);
    const [rows = 0, columns = 1] = weights.shape(name("mlp.up_proj.weight")) ?? [];
    const shift = exponents(rows);
    weights.scale(name("mlp.up_proj.weight"), (index) => -shift[Math.floor(index / columns)]!);
    weights.scale(name("mlp.down_proj.weight"), (index) => shift[index % rows]!);
    const [experts = 0, hidden = 1, width = 1] = weights.shape(name("experts.down_proj")) ?? [];
    const own = exponents(experts * width);
    weights.scale(name("experts.gate_up_proj"), (index) => {
      const row = Math.floor(index / hidden);
      const inExpert = row % (2 * width);
      return inExpert < width ? 0 : -own[Math.floor(row / (2 * width)) * width + inExpert - width]!;
    });
    weights.scale(
      name("experts.down_proj"),
      (index) => own[Math.floor(index / (hidden * width)) * width + (index % width)]!,
    );
  }
  await writeFile(join(out, FILE), bytes);
}
