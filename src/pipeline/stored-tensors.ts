import { openFile } from "../../formats/file-source.js";
import type { ByteSource } from "../../formats/source.js";
import type { TensorEntry } from "../../formats/safetensors/types.js";
import { ggmlShape } from "../gemma4/gguf/tensors.js";
import type { CheckpointSource, ModelSource } from "./source.js";

/**
 * Values that are decoded at a time. Every block type's values per block divide it, and 1 MiB of float32
 * stays in a core's cache.
 */
export const TILE_VALUES = 2 ** 18;

/** Where one tensor of a checkpoint or a GGUF lies. */
export interface StoredTensor {
  readonly name: string;
  /** ggml type of a GGUF's tensor, dtype of a checkpoint's. */
  readonly type: string;
  /** Fastest dimension first, whatever the file. */
  readonly ne: readonly number[];
  readonly values: number;
  readonly bytes: number;
  /** File that holds it, and the offset there. */
  readonly path: string;
  readonly offset: number;
}

function product(shape: readonly number[]): number {
  return shape.reduce((total, size) => total * size, 1);
}

function ofCheckpoint(source: CheckpointSource, name: string, entry: TensorEntry): StoredTensor {
  return {
    name,
    type: entry.dtype,
    ne: ggmlShape(entry.shape),
    values: product(entry.shape),
    bytes: entry.byteLength,
    path: source.checkpoint.shards[entry.shard]?.path ?? "",
    offset: entry.offset,
  };
}

/**
 * All tensors of a model in file order.
 *
 * @param naming `own`: a checkpoint's tensors under the checkpoint's names; `gguf`: weights of the text model
 *   under their names in GGUF, vision and audio under their own, for GGUF has none for them here
 */
export function storedTensors(source: ModelSource, naming: "own" | "gguf"): StoredTensor[] {
  if (source.kind === "gguf") {
    const { model } = source;
    return model.tensors.map(({ name, type, ne, byteLength, part, offset }) => ({
      name,
      type,
      ne,
      values: product(ne),
      bytes: byteLength,
      path: model.paths[part] ?? "",
      offset,
    }));
  }
  const names = new Map(
    naming === "own" ? [] : source.bound.weights.map(({ weight, entry }) => [entry.name, weight.gguf]),
  );
  return [...source.checkpoint.tensors.values()].map((entry) =>
    ofCheckpoint(source, names.get(entry.name) ?? entry.name, entry),
  );
}

/** Opens the files of tensors for the time of `use`. */
export async function withFiles<T>(
  tensors: Iterable<StoredTensor>,
  use: (files: ReadonlyMap<string, ByteSource>) => Promise<T>,
): Promise<T> {
  const files = new Map<string, ByteSource>();
  try {
    for (const { path } of tensors) if (!files.has(path)) files.set(path, await openFile(path));
    return await use(files);
  } finally {
    for (const file of files.values()) await file.close();
  }
}

/**
 * Reads tensors in pieces. Two buffers, so that the next piece is read while one is worked on; both are kept
 * for the next tensor.
 */
export class PieceReader {
  readonly #files: ReadonlyMap<string, ByteSource>;
  readonly #signal: AbortSignal;
  #buffers: readonly [Uint8Array, Uint8Array] = [new Uint8Array(0), new Uint8Array(0)];

  constructor(files: ReadonlyMap<string, ByteSource>, signal: AbortSignal) {
    this.#files = files;
    this.#signal = signal;
  }

  /**
   * All bytes of a tensor, in order. A piece is aligned for views of any number type, and valid until the
   * next one is asked for.
   *
   * @param size bytes of every piece but the last
   * @throws FormatError when the file cannot be read; the signal's reason after an abort
   */
  async *pieces(tensor: StoredTensor, size: number): AsyncGenerator<Uint8Array> {
    const file = this.#files.get(tensor.path);
    if (file === undefined) throw new RangeError(`${tensor.path} was not opened`);
    if (this.#buffers[0].length < size) this.#buffers = [new Uint8Array(size), new Uint8Array(size)];
    let [current, next] = this.#buffers;
    const begin = (buffer: Uint8Array, at: number): Promise<Uint8Array> => {
      const piece = buffer.subarray(0, Math.max(0, Math.min(size, tensor.bytes - at)));
      const reading = (piece.length === 0 ? Promise.resolve() : file.read(piece, tensor.offset + at)).then(
        () => piece,
      );
      // It may fail while the piece before it is still worked on; then nobody listens yet.
      reading.catch(() => {});
      return reading;
    };
    let reading = begin(current, 0);
    try {
      for (let at = 0; at < tensor.bytes; at += size) {
        const piece = await reading;
        this.#signal.throwIfAborted();
        reading = begin(next, at + size);
        yield piece;
        [current, next] = [next, current];
      }
    } finally {
      // Nobody waits for a read that was begun in advance when the caller has seen enough.
      await reading.catch(() => {});
    }
  }
}
