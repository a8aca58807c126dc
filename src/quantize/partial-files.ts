import { type FileHandle, open, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { outputFailure, syncFolder } from "../base/atomic-file.js";
import { formatSize } from "../base/sizes.js";
import { QuantizeError } from "./errors.js";
import { partialPath } from "./journal.js";

interface PartialFile {
  readonly path: string;
  readonly partial: string;
  readonly handle: FileHandle;
}

/** Writes all of `bytes`; `write` may take less at a time. */
export async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Whether all partial files of an earlier run are there with the size that the layout gives them. */
export async function partialsFit(paths: readonly string[], layout: GgufLayout): Promise<boolean> {
  const sizes = await Promise.all(
    paths.map(async (path) => (await stat(partialPath(path)).catch(() => undefined))?.size),
  );
  return sizes.every((size, part) => size === layout.parts[part]?.size);
}

/**
 * Checks that the disk takes what is still to be written.
 *
 * @throws QuantizeError `disk-too-small`
 */
export async function checkSpace(paths: readonly string[], layout: GgufLayout): Promise<void> {
  const [first] = paths;
  if (first === undefined) return;
  // Blocks that an earlier run has filled are counted in 512 bytes, whatever the file system's own block.
  const filled = await Promise.all(
    paths.map(async (path) => ((await stat(partialPath(path)).catch(() => undefined))?.blocks ?? 0) * 512),
  );
  const needed = layout.size - filled.reduce((sum, bytes) => sum + bytes, 0);
  const folder = dirname(first);
  const { blocks, bavail, bsize } = await statfs(folder).catch((error: unknown) => {
    throw outputFailure(first, error);
  });
  const free = bavail * bsize;
  // Some network file systems know no sizes and report zero blocks in all.
  if (blocks === 0 || needed <= free) return;
  throw new QuantizeError(
    "disk-too-small",
    `${first} takes ${needed} bytes (${formatSize(needed)}) that are still to be written, and the disk of ${folder} has ${free} (${formatSize(free)}) free`,
    { advice: "Free some space, or write to another disk." },
  );
}

/**
 * The files of one GGUF model until they are complete: named `<path>.partial`, full size from the start,
 * header written, tensor data a hole. They outlive the process, so that a later one can go on.
 */
export class PartialFiles {
  readonly #files: readonly PartialFile[];

  private constructor(files: readonly PartialFile[]) {
    this.#files = files;
  }

  /**
   * Opens the partial files, new or as an earlier run left them, and writes the headers.
   *
   * @throws OutputError when a file cannot be made
   */
  static async open(paths: readonly string[], layout: GgufLayout, keep: boolean): Promise<PartialFiles> {
    const files: PartialFile[] = [];
    const result = new PartialFiles(files);
    try {
      for (const [part, path] of paths.entries()) {
        const partial = partialPath(path);
        const { header, size } = layout.parts[part] ?? { header: new Uint8Array(), size: 0 };
        const handle = await open(partial, keep ? "r+" : "w+");
        files.push({ path, partial, handle });
        await handle.truncate(size);
        await writeFully(handle, header, 0);
      }
      return result;
    } catch (error) {
      await (keep ? result.close() : result.remove());
      throw outputFailure(paths[files.length - 1] ?? "", error);
    }
  }

  /** Where the bytes of a part are written; workers open it themselves. */
  path(part: number): string {
    return this.#files[part]?.partial ?? "";
  }

  async write(part: number, bytes: Uint8Array, position: number): Promise<void> {
    const file = this.#files[part];
    if (file === undefined) throw new RangeError(`there is no part ${part}`);
    await writeFully(file.handle, bytes, position).catch((error: unknown) => {
      throw outputFailure(file.path, error);
    });
  }

  /** Brings everything that was written to the disk. */
  async sync(): Promise<void> {
    for (const { path, handle } of this.#files) {
      await handle.datasync().catch((error: unknown) => {
        throw outputFailure(path, error);
      });
    }
  }

  /** Gives all files their names; the first part, which programs are pointed at, comes last. */
  async commit(): Promise<void> {
    await this.sync();
    await this.close();
    for (const { path, partial } of this.#files.toReversed()) {
      await rename(partial, path).catch((error: unknown) => {
        throw outputFailure(path, error);
      });
    }
    const [first] = this.#files;
    if (first !== undefined) await syncFolder(dirname(first.path));
  }

  async close(): Promise<void> {
    await Promise.all(this.#files.map(({ handle }) => handle.close()));
  }

  async remove(): Promise<void> {
    await this.close();
    await Promise.all(this.#files.map(({ partial }) => rm(partial, { force: true })));
  }
}
