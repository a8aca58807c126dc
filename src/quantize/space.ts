import { stat, statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { partialPath } from "../../formats/output-files.js";
import { outputFailure } from "../base/atomic-file.js";
import { formatSize } from "../base/sizes.js";
import { QuantizeError } from "./errors.js";
import type { OutputLayout } from "./layout.js";

/** A file that is going to be there, with all its bytes. */
export interface PlannedFile {
  readonly path: string;
  readonly bytes: number;
}

/** The files of a layout under their final names. */
export function plannedFiles({ layout, paths }: Pick<OutputLayout, "layout" | "paths">): PlannedFile[] {
  return layout.parts.map(({ size }, part) => ({ path: paths[part] ?? "", bytes: size }));
}

/** Bytes that an earlier run has put on the disk; file systems count in 512 bytes whatever their own block. */
async function filledBytes(path: string): Promise<number> {
  return ((await stat(path).catch(() => undefined))?.blocks ?? 0) * 512;
}

/** Free bytes on the disk that a folder is on, or will be; undefined where the file system does not know. */
async function freeBytes(folder: string): Promise<number | undefined> {
  try {
    const { blocks, bavail, bsize } = await statfs(folder);
    // Some network file systems know no sizes and report zero blocks in all.
    return blocks === 0 ? undefined : bavail * bsize;
  } catch (error) {
    const parent = dirname(folder);
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    if (missing && parent !== folder) return freeBytes(parent);
    throw outputFailure(folder, error);
  }
}

/**
 * Checks that the disk takes what is still to be written: all of the files, less what lies there under
 * their temporary names. They are taken to be on one disk, that of the first.
 *
 * @throws QuantizeError `disk-too-small`
 */
export async function checkSpace(files: readonly PlannedFile[]): Promise<void> {
  const [first] = files;
  if (first === undefined) return;
  let needed = 0;
  for (const { path, bytes } of files) needed += bytes - (await filledBytes(partialPath(path)));
  const folder = dirname(resolve(first.path));
  const free = await freeBytes(folder);
  if (free === undefined || needed <= free) return;
  const others = files.length === 1 ? "" : ` and ${files.length - 1} more, down to ${files.at(-1)?.path},`;
  throw new QuantizeError(
    "disk-too-small",
    `${first.path}${others} ${others === "" ? "takes" : "take"} ${needed} bytes (${formatSize(needed)}) that are still to be written, and the disk of ${folder} has ${free} (${formatSize(free)}) free`,
    { advice: "Free some space, or write to another disk." },
  );
}
