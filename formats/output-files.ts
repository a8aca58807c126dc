import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { checkOutput, outputFailure, syncFolder, writeFully } from "../src/base/atomic-file.js";

/** Name of a file until it is complete. */
export function partialPath(path: string): string {
  return `${path}.partial`;
}

/** One file in the making. */
export interface OutputPart {
  /** Where the file will appear. */
  readonly path: string;
  /** Where it lies until then; workers open it themselves and write tensor data at the layout's offsets. */
  readonly temporaryPath: string;
}

/** A file as its layout plans it. */
export interface PlannedFile {
  readonly path: string;
  /** Size of the whole file in bytes. */
  readonly size: number;
  /** Its first bytes, such as a header; what follows is written by range. */
  readonly head: Uint8Array;
}

/** The place of a tensor in a planned output. */
export interface OutputTensor {
  readonly name: string;
  /** Index of the file that holds the data. */
  readonly part: number;
  /** Byte offset of the data from the start of its file. */
  readonly offset: number;
  readonly byteLength: number;
}

interface OpenPart extends OutputPart {
  readonly handle: FileHandle;
}

/** Runs a step on one file; what the system objects to is told with the file's name. */
async function attempt<T>(path: string, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (error) {
    throw outputFailure(path, error);
  }
}

/**
 * The files of one model in the making; `commit`, `abort` or `suspend` has to be called. They are
 * named `<path>.partial` and outlive the process, so that a later one can go on.
 */
export class OutputFiles {
  readonly parts: readonly OutputPart[];
  readonly #files: readonly OpenPart[];
  #open = true;
  /** Whether the temporary files are still this object's to rename or remove. */
  #owned = true;

  /** Use `createOutput` or `reopenOutput`. */
  constructor(files: readonly OpenPart[]) {
    this.parts = files.map(({ path, temporaryPath }) => ({ path, temporaryPath }));
    this.#files = files;
  }

  /**
   * Writes a piece of a tensor's data; pieces may come in any order.
   *
   * @param tensor one of the layout's
   * @param start offset in the tensor's data in bytes
   * @throws OutputError when the disk does not take it
   */
  async writeTensorRange(tensor: OutputTensor, start: number, bytes: Uint8Array): Promise<void> {
    if (!Number.isSafeInteger(start) || start < 0 || start + bytes.length > tensor.byteLength) {
      throw new RangeError(
        `Bytes ${start} to ${start + bytes.length} lie outside tensor ${tensor.name} of ${tensor.byteLength} bytes`,
      );
    }
    const { path, handle } = this.#files[tensor.part]!;
    await attempt(path, writeFully(handle, bytes, tensor.offset + start));
  }

  /**
   * Brings everything that was written, by workers too, to the disk.
   *
   * @throws OutputError when the disk does not take it
   */
  async sync(): Promise<void> {
    for (const { path, handle } of this.#files) await attempt(path, handle.datasync());
  }

  /**
   * Makes all files appear under their names. What can fail for lack of space is done for all of them
   * before the first appears; the first part, which programs are pointed at, comes last. When one fails
   * nevertheless, those that have appeared get their temporary names back, and nothing that was written
   * is lost: `abort` or `suspend` is still to be called.
   *
   * @throws OutputError when the disk or the folder does not play along
   */
  async commit(): Promise<void> {
    for (const { path, handle } of this.#files) await attempt(path, handle.sync());
    await this.#close();
    const renamed: OutputPart[] = [];
    try {
      for (const part of this.parts.toReversed()) {
        await attempt(part.path, rename(part.temporaryPath, part.path));
        renamed.push(part);
      }
      const folders = new Map(this.parts.map(({ path }) => [dirname(path), path]));
      for (const [folder, path] of folders) await attempt(path, syncFolder(folder));
    } catch (error) {
      // Also where a file was replaced, which is gone in any case: new parts among old ones would look whole.
      await Promise.allSettled(renamed.map(({ path, temporaryPath }) => rename(path, temporaryPath)));
      throw error;
    }
    this.#owned = false;
  }

  /** Closes and removes the temporary files. Does nothing once the output is settled. */
  async abort(): Promise<void> {
    await this.#close().catch(() => {
      // Late write errors surface on close; the files are thrown away.
    });
    if (!this.#owned) return;
    this.#owned = false;
    await Promise.all(this.parts.map(({ temporaryPath }) => rm(temporaryPath, { force: true })));
  }

  /**
   * Closes the temporary files and leaves them to `reopenOutput`. Does nothing once the output is settled.
   *
   * @throws OutputError when a late write error comes to light
   */
  async suspend(): Promise<void> {
    this.#owned = false;
    await this.#close();
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await Promise.all(this.#files.map(({ path, handle }) => attempt(path, handle.close())));
  }
}

export interface OutputOptions {
  /** Whether files that are there already may be replaced; false when left out. Looked at once, on opening. */
  readonly overwrite?: boolean;
}

async function checkOutputs(
  files: readonly PlannedFile[],
  { overwrite = false }: OutputOptions,
): Promise<void> {
  for (const { path } of files) await checkOutput(path, overwrite);
}

/**
 * Makes planned files under temporary names, at their full size and with their heads; the rest is a hole that
 * reads as zeros, and so is any padding for good. What an earlier run left under these names is thrown away.
 *
 * @throws OutputError when a file cannot be made, or is there and `overwrite` is not set
 */
export async function createOutput(
  files: readonly PlannedFile[],
  options: OutputOptions = {},
): Promise<OutputFiles> {
  await checkOutputs(files, options);
  const opened: OpenPart[] = [];
  try {
    for (const { path, size, head } of files) {
      const temporaryPath = partialPath(path);
      const handle = await attempt(path, open(temporaryPath, "w"));
      opened.push({ path, temporaryPath, handle });
      await attempt(path, handle.truncate(size));
      await attempt(path, writeFully(handle, head, 0));
    }
    return new OutputFiles(opened);
  } catch (error) {
    await new OutputFiles(opened).abort();
    throw error;
  }
}

/**
 * Opens the temporary files that a suspended or killed run left, with what it wrote. That they are of the
 * same layout is the caller's to know; only their sizes are checked. The heads are written anew, so that of
 * what a crash can have spoilt only the tensors are left to look at.
 *
 * @param files as given to `createOutput`
 * @returns undefined when a file is missing or has another size: there is nothing to go on from
 * @throws OutputError when a file cannot be opened, or its final name is taken and `overwrite` is not set
 */
export async function reopenOutput(
  files: readonly PlannedFile[],
  options: OutputOptions = {},
): Promise<OutputFiles | undefined> {
  await checkOutputs(files, options);
  const opened: OpenPart[] = [];
  let fits = true;
  try {
    for (const { path, size } of files) {
      const temporaryPath = partialPath(path);
      const handle = await attempt(path, openIfThere(temporaryPath));
      if (handle !== undefined) opened.push({ path, temporaryPath, handle });
      fits &&= (await handle?.stat())?.size === size;
    }
    if (fits) {
      for (const [index, { path, handle }] of opened.entries())
        await attempt(path, writeFully(handle, files[index]!.head, 0));
    }
  } catch (error) {
    await new OutputFiles(opened).suspend();
    throw error;
  }
  const output = new OutputFiles(opened);
  if (fits) return output;
  await output.suspend();
  return undefined;
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
