import type { Stats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { FormatError } from "./errors.js";
import type { ByteSource } from "./source.js";

/** One read call; Linux itself stops at 2 GiB less a page, and some file systems are slower above this. */
const MAX_READ_BYTES = 2 ** 30;

const MISSING: ReadonlySet<string | undefined> = new Set(["ENOENT", "ENOTDIR"]);

function openFailure(path: string, cause: unknown): FormatError {
  const { code } = cause as NodeJS.ErrnoException;
  if (MISSING.has(code)) {
    return new FormatError("file-missing", `${path}: there is no such file or folder.`, {
      cause,
      exitCode: 2,
    });
  }
  return new FormatError(
    "file-unreadable",
    `${path}: the file cannot be opened (${code ?? String(cause)}).`,
    {
      cause,
      advice: "Check the permissions of the file and of the folders above it.",
    },
  );
}

class FileSource implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;

  constructor(name: string, size: number, handle: FileHandle) {
    this.name = name;
    this.size = size;
    this.#handle = handle;
  }

  async read(target: Uint8Array, position: number): Promise<void> {
    const wanted = target.byteLength;
    if (!Number.isSafeInteger(position) || position < 0 || position + wanted > this.size) {
      throw new FormatError(
        "file-range",
        `${this.name}: ${wanted} bytes at ${position} were asked for, the file has ${this.size}.`,
      );
    }
    let done = 0;
    while (done < wanted) {
      const length = Math.min(wanted - done, MAX_READ_BYTES);
      const bytesRead = await this.#readSome(target, done, length, position + done);
      if (bytesRead === 0) {
        throw new FormatError(
          "file-truncated",
          `${this.name}: the file ends at byte ${position + done}, expected ${this.size} bytes as when it was opened.`,
          {
            advice:
              "Something shortened the file while it was read; wait for a running download, then try again.",
          },
        );
      }
      done += bytesRead;
    }
  }

  async #readSome(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    try {
      return (await this.#handle.read(target, offset, length, position)).bytesRead;
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      throw new FormatError(
        "file-unreadable",
        `${this.name}: reading at byte ${position} failed (${code ?? String(cause)}).`,
        { cause },
      );
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

async function regularFile(path: string): Promise<Stats> {
  const found = await stat(path).catch((cause: unknown) => {
    throw openFailure(path, cause);
  });
  if (found.isFile()) return found;
  const kind = found.isDirectory() ? "a folder" : "not a regular file";
  throw new FormatError("file-kind", `${path}: is ${kind}, expected a file.`, { exitCode: 2 });
}

/**
 * Opens a local file for reading by range. Only regular files: a pipe has no ranges, and opening one would
 * wait for its writer.
 *
 * @throws FormatError when the file is missing (exit code 2), is no file (2) or cannot be opened (1)
 */
export async function openFile(path: string): Promise<ByteSource> {
  await regularFile(path);
  const handle = await open(path, "r").catch((cause: unknown) => {
    throw openFailure(path, cause);
  });
  try {
    return new FileSource(path, (await handle.stat()).size, handle);
  } catch (error) {
    await handle.close();
    throw error;
  }
}
