/** Keys that tie the files of a split model together, with llama.cpp's value types. */
export const SPLIT_NO = "split.no";
export const SPLIT_COUNT = "split.count";
export const SPLIT_TENSORS = "split.tensors.count";

/** `split.count` is a u16. */
export const MAX_PARTS = 65_535;

/** What the name of one file of a split model says. */
export interface PartName {
  readonly prefix: string;
  /** 0-based; names count from 1. */
  readonly index: number;
  readonly count: number;
}

function padded(n: number): string {
  return String(n).padStart(5, "0");
}

/** Name of part `index` (0-based) of `count`: `<prefix>-00001-of-00003.gguf`. */
export function partName(prefix: string, index: number, count: number): string {
  return `${prefix}-${padded(index + 1)}-of-${padded(count)}.gguf`;
}

/**
 * Paths of the files that a model is written to: the path itself for one part, llama.cpp's names for
 * more (`model.gguf` becomes `model-00001-of-00003.gguf` and so on).
 */
export function partNames(outputPath: string, count: number): string[] {
  if (count === 1) return [outputPath];
  const prefix = outputPath.replace(/\.gguf$/, "");
  return Array.from({ length: count }, (_, index) => partName(prefix, index, count));
}

/** Takes a path apart if it is named like a part, else undefined. */
export function parsePartName(path: string): PartName | undefined {
  const match = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/s.exec(path);
  if (!match) return undefined;
  const [, prefix, no, count] = match;
  const name = { prefix: prefix!, index: Number(no) - 1, count: Number(count) };
  return name.index >= 0 && name.index < name.count ? name : undefined;
}
