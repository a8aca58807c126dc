import { randomBytes } from "node:crypto";
import { rmSync, type Stats } from "node:fs";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { LapidaryError } from "./errors.js";

/** An output that cannot be written. */
export class OutputError extends LapidaryError {}

/** Characters of the final name that a temporary one keeps, so that it fits in 255 bytes whatever they are. */
const KEPT_NAME_LENGTH = 60;

/** What to say for the errors of the operating system that a user can do something about. */
const FAILURES: Readonly<Record<string, readonly [code: string, what: string, advice: string]>> = {
  ENOSPC: ["disk-full", "the disk is full", "Free some space, or write to another disk."],
  EDQUOT: ["disk-full", "the disk quota is used up", "Free some space, or write to another disk."],
  EFBIG: [
    "file-too-big",
    "the file system does not hold files of this size",
    "Write to another disk, or split the output.",
  ],
  EACCES: ["output-denied", "writing there is not permitted", "Choose a folder that you may write to."],
  EPERM: ["output-denied", "writing there is not permitted", "Choose a folder that you may write to."],
  EROFS: ["output-denied", "the file system is read-only", "Choose a folder that you may write to."],
  ENOENT: ["output-folder", "its folder does not exist", "Make the folder first."],
  ENOTDIR: ["output-folder", "what should be its folder is a file", "Choose a path inside a folder."],
  EISDIR: ["output-kind", "is a folder", "Give the path of a file."],
  ENAMETOOLONG: ["output-name", "the name is longer than the file system allows", "Choose a shorter name."],
  EIO: ["output-device", "the device reports an error", "Check the disk, or write to another one."],
};

/**
 * The error to raise when writing to `path` failed.
 *
 * @param cause what the operating system said
 * @returns an OutputError that says what to do, or `cause` itself when it is of another kind
 */
export function outputFailure(path: string, cause: unknown): unknown {
  const known = FAILURES[(cause as NodeJS.ErrnoException | undefined)?.code ?? ""];
  if (known === undefined || cause instanceof LapidaryError) return cause;
  const [code, what, advice] = known;
  return new OutputError(code, `${path}: cannot be written, ${what}.`, { cause, advice });
}

/** Temporary files of this process that are neither committed nor aborted. */
const temporaries = new Set<string>();
let removesOnExit = false;

/**
 * Removes every temporary file that is still open, without waiting for anything, so that it can be called
 * while a signal is handled. Runs by itself when the process exits, but a signal that kills gives no such
 * chance. What was removed can no longer be committed.
 */
export function removeAllTemporaries(): void {
  for (const path of temporaries) {
    try {
      rmSync(path, { force: true });
    } catch {
      // Nobody is left to hear of it, and the other files should still go.
    }
  }
  temporaries.clear();
}

function register(path: string): void {
  if (!removesOnExit) process.on("exit", removeAllTemporaries);
  removesOnExit = true;
  temporaries.add(path);
}

/** Brings a folder's list of names to the disk, where the system knows such a thing. */
export async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle;
  try {
    handle = await open(folder, "r");
  } catch {
    // Windows opens no folders, and some folders may be written to but not read; the rename is done anyway.
    return;
  }
  try {
    await handle.sync();
  } catch (error) {
    // Some network file systems do not know the call for folders.
    if (!["EINVAL", "ENOTSUP", "EPERM", "EBADF"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw error;
  } finally {
    await handle.close();
  }
}

export interface AtomicFileOptions {
  /** Final size in bytes: the file gets it at once, as a hole, so that it can be written in any order. */
  readonly size?: number;
  /** Whether a file that is already there may be replaced; false when left out. Looked at once, on creation. */
  readonly overwrite?: boolean;
}

/** A file under a temporary name; `commit` or `abort` has to be called. */
export class AtomicFile {
  /** Where the file will appear. */
  readonly path: string;
  /** Where it lies until then, in the same folder, for workers that open it themselves. */
  readonly temporaryPath: string;
  /** Open for reading and writing; its errors are those of the operating system (see `outputFailure`). */
  readonly handle: FileHandle;
  #open = true;

  /** Use `createAtomicFile`. */
  constructor(path: string, temporaryPath: string, handle: FileHandle) {
    this.path = path;
    this.temporaryPath = temporaryPath;
    this.handle = handle;
  }

  /**
   * Makes the file appear under its name, safely on disk. When that fails the temporary file is removed.
   *
   * @throws OutputError when the disk or the folder does not play along
   */
  async commit(): Promise<void> {
    try {
      if (!temporaries.has(this.temporaryPath)) {
        throw new OutputError(
          "output-gone",
          `${this.path}: cannot be written, its temporary file was removed.`,
        );
      }
      await this.handle.sync();
      await this.#close();
      await rename(this.temporaryPath, this.path);
      temporaries.delete(this.temporaryPath);
      await syncFolder(dirname(this.path));
    } catch (error) {
      await this.abort();
      throw outputFailure(this.path, error);
    }
  }

  /** Removes the temporary file. Does nothing after a commit or when called again. */
  async abort(): Promise<void> {
    await this.#close().catch(() => {
      // Late write errors surface on close; the file is thrown away.
    });
    if (temporaries.delete(this.temporaryPath)) await rm(this.temporaryPath, { force: true });
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.handle.close();
  }
}

async function whatIsThere(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw outputFailure(path, error);
  }
}

/**
 * Starts a file that appears under its name whole or not at all: it is written under a temporary name in
 * the same folder, flushed, renamed, and the folder is flushed.
 *
 * @throws OutputError when the file cannot be made, or exists and `overwrite` is not set (exit code 2)
 */
export async function createAtomicFile(path: string, options: AtomicFileOptions = {}): Promise<AtomicFile> {
  const { size, overwrite = false } = options;
  const present = await whatIsThere(path);
  if (present !== undefined && !present.isFile()) {
    const kind = present.isDirectory() ? "a folder" : "not a regular file";
    throw new OutputError("output-kind", `${path}: cannot be written, is ${kind}.`, {
      advice: "Give the path of a file.",
    });
  }
  if (present !== undefined && !overwrite) {
    throw new OutputError("output-exists", `${path}: is there already.`, {
      exitCode: 2,
      advice: "Choose another name, or pass --force to replace it.",
    });
  }
  const token = randomBytes(4).toString("hex");
  const name = `.${basename(path).slice(0, KEPT_NAME_LENGTH)}.partial-${process.pid}-${token}`;
  const temporaryPath = join(dirname(path), name);
  let file: AtomicFile | undefined;
  try {
    file = new AtomicFile(path, temporaryPath, await open(temporaryPath, "wx+"));
    register(temporaryPath);
    if (size !== undefined) await file.handle.truncate(size);
    return file;
  } catch (error) {
    await file?.abort();
    throw outputFailure(path, error);
  }
}

/**
 * Writes a small file that appears whole or not at all; what was there is replaced.
 *
 * @throws OutputError when it cannot be written
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  const file = await createAtomicFile(path, { overwrite: true });
  try {
    await file.handle.writeFile(data);
  } catch (error) {
    await file.abort();
    throw outputFailure(path, error);
  }
  await file.commit();
}
