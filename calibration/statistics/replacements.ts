import { open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { outputFailure, writeFully } from "../../src/base/atomic-file.js";
import type { Weight } from "../../src/gemma4/types.js";
import { parameterCount } from "../../src/gemma4/weights.js";
import { StatisticsError } from "./errors.js";

/**
 * Values that take the place of a tensor's: in its own shape, row by row, or a file of nothing but them as
 * little-endian floats.
 */
export type Replacement = Float32Array | { readonly path: string };

/** Weights with other values, in files: the runtime reads them from there as it reads the checkpoint's own. */
export class Replacements {
  readonly #folder: string;
  readonly #weights: ReadonlyMap<string, Weight>;
  readonly #paths = new Map<string, string>();
  /** Files of ours, by name of the weight. */
  readonly #own = new Map<string, string>();
  #count = 0;

  /**
   * @param folder for values that do not come in files
   * @param weights all of the model
   */
  constructor(folder: string, weights: readonly Weight[]) {
    this.#folder = folder;
    this.#weights = new Map(weights.map((weight) => [weight.name, weight]));
  }

  /** By names of weights. */
  get paths(): ReadonlyMap<string, string> {
    return this.#paths;
  }

  /**
   * @param layer the only layer whose weights may be among them, null for weights outside the layers; any when left
   *   out
   * @throws StatisticsError for a name that is no weight, or of another layer, and values that are not as many as
   *   its own
   */
  async add(replaced: ReadonlyMap<string, Replacement>, layer?: number | null): Promise<void> {
    for (const [name, replacement] of replaced) {
      const own = this.#weights.get(name)?.layer;
      if (layer !== undefined && own !== undefined && own !== layer) {
        const [is, expected] = [own, layer].map((each) => (each === null ? "no layer" : `layer ${each}`));
        throw new StatisticsError(
          "other-step",
          `${name} is replaced as a weight of ${expected}, but is one of ${is}`,
        );
      }
      const bytes = 4 * this.#sizeOf(name);
      const isFile = "path" in replacement;
      const found = isFile ? (await stat(replacement.path)).size : replacement.byteLength;
      if (found !== bytes) {
        const what = isFile ? `${replacement.path}, values of ${name},` : `the replacement of ${name}`;
        throw new StatisticsError("replacement-size", `${what} has ${found} bytes, expected ${bytes}`);
      }
      if (isFile) this.#paths.set(name, replacement.path);
      else await this.#write(name, replacement);
    }
  }

  #sizeOf(name: string): number {
    const weight = this.#weights.get(name);
    if (weight !== undefined) return parameterCount(weight);
    throw new StatisticsError("unknown-weight", `${name} is to be replaced, but is no weight of the model`);
  }

  async #write(name: string, values: Float32Array): Promise<void> {
    const path = join(this.#folder, `replaced-${this.#count++}.f32`);
    this.#own.set(name, path);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    try {
      const handle = await open(path, "wx");
      try {
        await writeFully(handle, bytes, 0);
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw outputFailure(path, error);
    }
    this.#paths.set(name, path);
  }

  /** Removes files of ours, of all weights or of those of a layer, which no later step reads. */
  async forget(layer?: number): Promise<void> {
    for (const name of [...this.#paths.keys(), ...this.#own.keys()]) {
      if (layer !== undefined && this.#weights.get(name)?.layer !== layer) continue;
      const own = this.#own.get(name);
      this.#paths.delete(name);
      this.#own.delete(name);
      if (own !== undefined) await rm(own, { force: true });
    }
  }
}
