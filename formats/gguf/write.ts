import { rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { type AtomicFile, createAtomicFile, outputFailure } from "../../src/base/atomic-file.js";
import type { GgufLayout } from "./plan.js";
import { partNames } from "./split.js";
import type { GgufTensor } from "./types.js";

export { planGguf } from "./plan.js";
export { partNames } from "./split.js";

/** One file in the making. */
export interface GgufOutputPart {
  /** Where the file will appear. */
  readonly path: string;
  /** Where it lies until then; workers open it themselves and write tensor data at the layout's offsets. */
  readonly temporaryPath: string;
  readonly handle: FileHandle;
}

async function writeAll(file: AtomicFile, bytes: Uint8Array, position: number): Promise<void> {
  try {
    for (let done = 0; done < bytes.length;) {
      done += (await file.handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
    }
  } catch (error) {
    throw outputFailure(file.path, error);
  }
}

/** The files of one GGUF model in the making; `commit` or `abort` has to be called. */
export class GgufOutput {
  readonly parts: readonly GgufOutputPart[];
  readonly #files: readonly AtomicFile[];

  /** Use `createGguf`. */
  constructor(files: readonly AtomicFile[]) {
    this.parts = files;
    this.#files = files;
  }

  /**
   * Writes a piece of a tensor's data; pieces may come in any order.
   *
   * @param tensor one of the layout's
   * @param start offset in the tensor's data in bytes
   * @throws OutputError when the disk does not take it
   */
  async writeTensorRange(tensor: GgufTensor, start: number, bytes: Uint8Array): Promise<void> {
    if (!Number.isSafeInteger(start) || start < 0 || start + bytes.length > tensor.byteLength) {
      throw new RangeError(
        `Bytes ${start} to ${start + bytes.length} lie outside tensor ${tensor.name} of ${tensor.byteLength} bytes`,
      );
    }
    await writeAll(this.#files[tensor.part]!, bytes, tensor.offset + start);
  }

  /**
   * Makes all files appear under their names. What can fail for lack of space is done for all of them
   * before the first appears; the first part, which programs are pointed at, comes last. When one fails
   * nevertheless, those that have appeared are removed again.
   *
   * @throws OutputError when the disk or the folder does not play along
   */
  async commit(): Promise<void> {
    const committed: string[] = [];
    try {
      for (const { path, handle } of this.#files) {
        await handle.sync().catch((error: unknown) => {
          throw outputFailure(path, error);
        });
      }
      for (const file of this.#files.toReversed()) {
        await file.commit();
        committed.push(file.path);
      }
    } catch (error) {
      await this.abort();
      await Promise.all(committed.map((path) => rm(path, { force: true })));
      throw error;
    }
  }

  /** Removes the temporary files. Does nothing after a commit or when called again. */
  async abort(): Promise<void> {
    await Promise.all(this.#files.map((file) => file.abort()));
  }
}

/**
 * Makes the files of a layout under temporary names, at their full size and with their headers; the
 * tensor data is a hole that reads as zeros, and so is the padding for good.
 *
 * @param outputPath path of the model; several parts get llama.cpp's names (see partNames)
 * @throws OutputError when a file cannot be made, or is there and `overwrite` is not set
 */
export async function createGguf(
  outputPath: string,
  layout: GgufLayout,
  options: { readonly overwrite?: boolean } = {},
): Promise<GgufOutput> {
  const files: AtomicFile[] = [];
  const paths = partNames(outputPath, layout.parts.length);
  try {
    for (const [index, { header, size }] of layout.parts.entries()) {
      const file = await createAtomicFile(paths[index]!, { ...options, size });
      files.push(file);
      await writeAll(file, header, 0);
    }
    return new GgufOutput(files);
  } catch (error) {
    await Promise.all(files.map((file) => file.abort()));
    throw error;
  }
}
