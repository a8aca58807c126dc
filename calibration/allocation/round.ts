import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { outputFailure, writeFully } from "../../src/base/atomic-file.js";
import { decode } from "../../src/blocks/decode/decode.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { decodeNBits } from "../../src/blocks/nbits/decode.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { entriesOf } from "../../src/gemma4/graph/checkpoint-source.js";
import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import type { Weight } from "../../src/gemma4/types.js";
import { parameterCount } from "../../src/gemma4/weights.js";
import { AllocationError } from "./errors.js";
import type { RoundedType } from "./types.js";

/** Values that are read and rounded at a time; longer rows than this are not known. */
const CHUNK_VALUES = 2 ** 20;

/** Reads rows of a checkpoint's weights and rounds them by the search that files are written with. */
export class RowRounder {
  readonly #parts: CheckpointParts;
  readonly #kernels: Kernels;
  readonly #handles = new Map<number, FileHandle>();

  private constructor(parts: CheckpointParts, kernels: Kernels) {
    this.#parts = parts;
    this.#kernels = kernels;
  }

  /** @throws BlockError where the package was not built */
  static async start(parts: CheckpointParts): Promise<RowRounder> {
    return new RowRounder(parts, new Kernels(await compileKernels(), CHUNK_VALUES));
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
    this.#handles.clear();
  }

  /** Rows that are read and rounded at a time. */
  static chunkRows(row: number): number {
    return Math.max(1, Math.floor(CHUNK_VALUES / row));
  }

  /**
   * Rows one after the other.
   *
   * @param first of all rows of the weight, whatever its shape
   * @throws AllocationError `not-finite` and `file-short`
   */
  async read(weight: Weight, first: number, count: number): Promise<Float32Array> {
    const row = weight.shape.at(-1)!;
    const entry = entriesOf(this.#parts.weights)(weight);
    // Bound weights are BF16, F16 or F32, whose names are those of block types.
    const type = entry.dtype as BlockTypeName;
    const size = type === "F32" ? 4 : 2;
    const bytes = new Uint8Array(count * row * size);
    const handle = await this.#open(entry.shard);
    for (let done = 0; done < bytes.length;) {
      const at = entry.offset + first * row * size + done;
      const { bytesRead } = await handle.read(bytes, done, bytes.length - done, at);
      if (bytesRead === 0) {
        const path = this.#parts.shards[entry.shard]!.path;
        throw new AllocationError("file-short", `${path}: ends at ${at} bytes, inside ${weight.name}.`);
      }
      done += bytesRead;
    }
    const values = new Float32Array(count * row);
    decode(type, bytes, values);
    return values;
  }

  async #open(shard: number): Promise<FileHandle> {
    const found = this.#handles.get(shard) ?? (await open(this.#parts.shards[shard]!.path, "r"));
    this.#handles.set(shard, found);
    return found;
  }

  /**
   * Rounds values as a file would hold them.
   *
   * @param values whole rows, no more than `chunkRows`
   * @param importance of each column of a row; all alike where undefined
   * @throws AllocationError `not-rounded` for values that the type does not hold
   */
  round(
    values: Float32Array,
    type: RoundedType,
    {
      row,
      importance,
      name,
    }: { readonly row: number; readonly importance: Float32Array | undefined; readonly name: string },
  ): Float32Array {
    const kernels = this.#kernels;
    kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    const rounded = new Float32Array(values.length);
    const bad =
      type.format === "gguf"
        ? kernels.convert("F32", type.block, values.length, importance, "search")
        : kernels.convertNBits("F32", type.codes, row, values.length / row, importance, "search");
    if (bad >= 0) {
      throw new AllocationError(
        "not-rounded",
        `${name} has the value ${values[bad]}, which ${type.name} does not hold.`,
      );
    }
    if (type.format === "gguf") decode(type.block, kernels.output, rounded);
    else {
      const [codes, scales, zeroPoints = new Uint8Array(0)] = kernels.outputs;
      decodeNBits(type.codes, row, { codes: codes!, scales: scales!, zeroPoints }, rounded);
    }
    return rounded;
  }

  /**
   * Writes a weight as a type holds it: little-endian floats in its own shape.
   *
   * @param rows only these rows of a table, the others being zeros that take no room on the disk; all where undefined
   * @throws OutputError; AllocationError for values that the type does not hold
   */
  async write(
    path: string,
    weight: Weight,
    type: RoundedType,
    {
      importance,
      rows,
    }: {
      readonly importance?: ((firstRow: number) => Float32Array | undefined) | undefined;
      readonly rows?: readonly number[] | undefined;
    } = {},
  ): Promise<void> {
    const row = weight.shape.at(-1)!;
    const file = await open(path, "w").catch((error: unknown) => {
      throw outputFailure(path, error);
    });
    const { name } = weight;
    try {
      for (const { first, count } of rows?.map((first) => ({ first, count: 1 })) ?? chunksOf(weight)) {
        const values = await this.read(weight, first, count);
        const rounded = this.round(values, type, { row, importance: importance?.(first), name });
        await writeFully(file, new Uint8Array(rounded.buffer), first * row * 4);
      }
      await file.truncate(parameterCount(weight) * 4);
    } catch (error) {
      throw error instanceof AllocationError ? error : outputFailure(path, error);
    } finally {
      await file.close();
    }
  }
}

/** Runs of rows, none across two matrices of a stack. */
export function chunksOf({ shape }: Weight): { readonly first: number; readonly count: number }[] {
  const most = RowRounder.chunkRows(shape.at(-1)!);
  const [each, total] = [shape.at(-2)!, shape.slice(0, -1).reduce((product, size) => product * size, 1)];
  const chunks: { first: number; count: number }[] = [];
  for (let first = 0; first < total;) {
    const count = Math.min(most, each - (first % each));
    chunks.push({ first, count });
    first += count;
  }
  return chunks;
}
