import { readFileSync, writeFileSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { nanoCheckpoint } from "./convert.js";
import { randomFrom } from "./weights.js";

const PREFIX = "model.language_model.";

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/**
 * A copy of nano-e with the same function that is harder to round: powers of two move from the rows of one layer's up
 * projection into the columns of its down projection, so that the values of a block lie far apart.
 *
 * @param spread standard deviation of the exponents
 */
export async function spikyLayer(folder: string, layer: number, spread: number): Promise<string> {
  await mkdir(folder, { recursive: true });
  await cp(nanoCheckpoint, folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const file = readFileSync(path);
  const header = Number(file.readBigUInt64LE(0));
  const entries = JSON.parse(file.toString("utf8", 8, 8 + header)) as Record<string, Entry>;
  const random = randomFrom(3);
  // A sum of twelve uniform numbers less six is nearly normal.
  const normal = (): number => Array.from({ length: 12 }, () => random()).reduce((sum, x) => sum + x, -6);
  const scale = (name: string, factor: (row: number, column: number) => number): void => {
    const { dtype, shape, data_offsets: offsets } = entries[`${PREFIX}layers.${layer}.mlp.${name}.weight`]!;
    if (dtype !== "BF16") throw new Error(`${name} is ${dtype}.`);
    const at = 8 + header + offsets[0];
    const columns = shape[1]!;
    for (let index = 0; index < shape[0]! * columns; index++) {
      const bits = file.readUInt16LE(at + 2 * index);
      const exponent = (bits >>> 7) & 255;
      const moved = exponent + factor(Math.floor(index / columns), index % columns);
      if (exponent === 0) continue;
      if (moved < 1 || moved > 254) throw new Error(`${name} has a value that cannot be moved so far.`);
      file.writeUInt16LE((bits & 0x807f) | (moved << 7), at + 2 * index);
    }
  };
  const inner = entries[`${PREFIX}layers.${layer}.mlp.up_proj.weight`]!.shape[0]!;
  const steps = Int32Array.from({ length: inner }, () => Math.round(spread * normal()));
  scale("up_proj", (row) => -steps[row]!);
  scale("down_proj", (_, column) => steps[column]!);
  writeFileSync(path, file);
  return folder;
}
