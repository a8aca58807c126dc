import { shown } from "../../errors.js";
import { MAX_CHUNKS, MAX_DATA_FILE_BYTES } from "../limits.js";
import type { Findings } from "./findings.js";

/** A data file, as far as its size goes. */
export interface SizedFile {
  readonly location: string;
  /** In bytes. */
  readonly size: number;
}

/** Data files that browsers can hold, and no more than transformers.js fetches. */
export function lintFiles(files: readonly SizedFile[], findings: Findings): void {
  for (const { location, size } of files) {
    if (size <= MAX_DATA_FILE_BYTES) continue;
    const message = `${shown(location)} has ${size} bytes, browsers hold at most ${MAX_DATA_FILE_BYTES}.`;
    findings.add("data-file-size", null, message);
  }
  if (files.length > MAX_CHUNKS) {
    const message = `The graph has ${files.length} data files, transformers.js fetches at most ${MAX_CHUNKS}.`;
    findings.add("data-file-count", null, message);
  }
}
