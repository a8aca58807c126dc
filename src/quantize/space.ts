import { stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { partialPath } from "../../formats/gguf/write.js";
import { outputFailure } from "../base/atomic-file.js";
import { formatSize } from "../base/sizes.js";
import { QuantizeError } from "./errors.js";

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
