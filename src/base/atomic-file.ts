import { randomBytes } from "node:crypto";
import { rmSync, type Stats } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
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
  EEXIST: [
    "output-folder",
    "what should be a folder is a file",
    "Choose a folder, or a path ending in .gguf.",
  ],
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

/** Writes all of `bytes`; the system may take less at a time. Its errors are passed on (see `outputFailure`). */
export async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** A file under a temporary name; `commit` or `abort` has to be called. */
export class AtomicFile {
  /** Where the file will appear. */
  readonly path: string;
  readonly #temporaryPath: string;
  readonly #handle: FileHandle;
  #open = true;

  /** Use `createAtomicFile`. */
  constructor(path: string, temporaryPath: string, handle: FileHandle) {
    this.path = path;
    this.#temporaryPath = temporaryPath;
    this.#handle = handle;
  }

  /** @throws OutputError when the disk does not take it */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    await writeFully(this.#handle, bytes, position).catch((error: unknown) => {
      throw outputFailure(this.path, error);
    });
  }

  /**
   * Makes the file appear under its name, safely on disk. When that fails the temporary file is removed.
   *
   * @throws OutputError when the disk or the folder does not play along
   */
  async commit(): Promise<void> {
    try {
      if (!temporaries.has(this.#temporaryPath)) {
        throw new OutputError(
          "output-gone",
          `${this.path}: cannot be written, its temporary file was removed.`,
        );
      }
      await this.#handle.sync();
      await this.#close();
      await rename(this.#temporaryPath, this.path);
      temporaries.delete(this.#temporaryPath);
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
    if (temporaries.delete(this.#temporaryPath)) await rm(this.#temporaryPath, { force: true });
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
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
 * Checks that a file may be written under a name.
 *
 * @param overwrite whether a file that is already there may be replaced
 * @throws OutputError `output-exists`, `output-kind` (exit code 2)
 */
export async function checkOutput(path: string, overwrite: boolean): Promise<void> {
  const present = await whatIsThere(path);
  if (present !== undefined && !present.isFile()) {
    const kind = present.isDirectory() ? "a folder" : "not a regular file";
    throw new OutputError("output-kind", `${path}: cannot be written, is ${kind}.`, {
      exitCode: 2,
      advice: "Give the path of a file.",
    });
  }
  if (present !== undefined && !overwrite) {
    throw new OutputError("output-exists", `${path}: is there already.`, {
      exitCode: 2,
      advice: "Choose another name, or pass --force to replace it.",
    });
  }
}

/**
 * Starts a file that appears under its name whole or not at all: it is written under a temporary name in
 * the same folder, flushed, renamed, and the folder is flushed. What was there is replaced.
 *
 * @param size final size in bytes: the file gets it at once, as a hole; it grows by writing when left out
 * @throws OutputError when the file cannot be made
 */
export async function createAtomicFile(path: string, size = 0): Promise<AtomicFile> {
  await checkOutput(path, true);
  const token = randomBytes(4).toString("hex");
  const name = `.${basename(path).slice(0, KEPT_NAME_LENGTH)}.partial-${process.pid}-${token}`;
  const temporaryPath = join(dirname(path), name);
  let file: AtomicFile | undefined;
  try {
    const handle = await open(temporaryPath, "wx");
    file = new AtomicFile(path, temporaryPath, handle);
    register(temporaryPath);
    await handle.truncate(size);
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
  const file = await createAtomicFile(path);
  try {
    await file.write(typeof data === "string" ? new TextEncoder().encode(data) : data, 0);
  } catch (error) {
    await file.abort();
    throw error;
  }
  await file.commit();
}

/**
 * Makes a folder and those above it, if they are not there.
 *
 * @throws OutputError when that cannot be
 */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch(async (error: unknown) => {
    // On a read-only file system Node reports that a folder is missing; making just the first missing one tells why.
    let missing = resolve(path);
    while ((await whatIsThere(dirname(missing))) === undefined) missing = dirname(missing);
    const cause = await mkdir(missing).then(
      () => error,
      (reason: unknown) => reason,
    );
    throw outputFailure(path, (error as NodeJS.ErrnoException).code === "ENOENT" ? cause : error);
  });
}
