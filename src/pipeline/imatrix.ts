import { ImatrixMerge, type PartialTensor } from "../../formats/imatrix/merge.js";
import { readSums } from "../../formats/imatrix/read.js";
import type { SummedEntry, SummedMatrix } from "../../formats/imatrix/types.js";
import { writeImatrix } from "../../formats/imatrix/write.js";
import { checkOutput } from "../base/atomic-file.js";
import { withLock } from "../base/lock.js";
import { PipelineError } from "./errors.js";
import {
  cosineToPrevious,
  type Distribution,
  distributionOf,
  type Likeness,
  likenessOf,
  type StarvedExpert,
  starvedExperts,
} from "./imatrix-statistics.js";

/** What a file is given as: far beyond any use, and such that no sum leaves float32. */
const MAX_WEIGHT = 1e6;

/** One importance matrix, without its tensors. */
export interface ImatrixFile {
  readonly path: string;
  /** `legacy` for the `.dat` of older versions. */
  readonly format: "gguf" | "legacy";
  readonly tensors: number;
  /** Files that the text came from. */
  readonly datasets: readonly string[];
  /** Windows of text. */
  readonly chunks: number;
  /** Tokens of a window; null where the file does not say. */
  readonly chunkTokens: number | null;
}

export interface InspectedImportance {
  readonly name: string;
  readonly columns: number;
  /** 1, or the number of experts. */
  readonly matrices: number;
  /** What went into a matrix: tokens, or windows of a `.dat` file. */
  readonly counts: { readonly least: number; readonly mean: number; readonly most: number };
  /** Null when nothing went into any matrix. */
  readonly distribution: Distribution | null;
  /** Cosine similarity to the same tensor one layer earlier, null where there is none of that width. */
  readonly cosine: number | null;
  readonly starved: readonly StarvedExpert[];
}

/** What `imatrix inspect --json` prints of one file. */
export interface InspectedImatrix extends Omit<ImatrixFile, "tensors"> {
  readonly kind: "imatrix";
  /** By name, numbers in their order. */
  readonly tensors: readonly InspectedImportance[];
}

export interface ComparedImportance {
  readonly name: string;
  readonly state: "compared" | "otherShape" | "onlyA" | "onlyB";
  /** Null unless compared. */
  readonly likeness: Likeness | null;
}

/** What `imatrix inspect --json` prints of two files. */
export interface ImatrixComparison {
  readonly kind: "comparison";
  readonly a: ImatrixFile;
  readonly b: ImatrixFile;
  /** By name, numbers in their order. */
  readonly tensors: readonly ComparedImportance[];
  /** The tensor with the lowest correlation; null when there is none. */
  readonly worst: { readonly name: string; readonly correlation: number } | null;
}

export interface MergeRequest {
  readonly files: readonly WeightedFile[];
  readonly out: string;
  /** Tokens of a window; what the files say when left out. */
  readonly chunkTokens: number | undefined;
  /** Whether a file that is there may be replaced. */
  readonly force: boolean;
}

export interface WeightedFile {
  readonly path: string;
  readonly weight: number;
}

/** What `imatrix merge --json` prints. */
export interface MergeReport {
  readonly path: string;
  readonly bytes: number;
  readonly tensors: number;
  readonly datasets: readonly string[];
  readonly chunks: number;
  readonly chunkTokens: number;
  readonly files: readonly (ImatrixFile & WeightedFile)[];
  /** Tensors that not all files have. */
  readonly partial: readonly PartialTensor[];
}

const byNumber = new Intl.Collator("en", { numeric: true });

/** Names in the order of people: layer 10 behind layer 9. */
function inOrder(names: Iterable<string>): string[] {
  return [...names].toSorted((a, b) => byNumber.compare(a, b) || (a < b ? -1 : 1));
}

function headOf({ entries, ...head }: SummedMatrix): ImatrixFile {
  return { ...head, tensors: entries.size };
}

function inspectEntry(entry: SummedEntry, { entries }: SummedMatrix): InspectedImportance {
  const { name, columns, counts } = entry;
  const numbers = [...counts];
  const matrices = numbers.length;
  return {
    name,
    columns,
    matrices,
    counts: {
      least: numbers.reduce((a, b) => Math.min(a, b)),
      mean: numbers.reduce((a, b) => a + b) / matrices,
      most: numbers.reduce((a, b) => Math.max(a, b)),
    },
    distribution: distributionOf(entry),
    cosine: cosineToPrevious(entry, entries),
    starved: starvedExperts(entry),
  };
}

/**
 * What an importance matrix holds: the figures of `llama-imatrix --show-statistics`, and experts with too few tokens.
 *
 * @throws ImatrixError, FormatError when the file is no importance matrix or cannot be read
 */
export async function inspectImatrix(path: string): Promise<InspectedImatrix> {
  const matrix = await readSums(path);
  const { entries, ...head } = matrix;
  const tensors = inOrder(entries.keys()).map((name) => inspectEntry(entries.get(name)!, matrix));
  return { kind: "imatrix", ...head, tensors };
}

function compareEntry(
  name: string,
  a: SummedEntry | undefined,
  b: SummedEntry | undefined,
): ComparedImportance {
  if (a === undefined || b === undefined) {
    return { name, state: a === undefined ? "onlyB" : "onlyA", likeness: null };
  }
  const [matricesA, matricesB] = [a.counts.length, b.counts.length];
  const sameStack = matricesA === matricesB || matricesA === 1 || matricesB === 1;
  if (a.sums.length !== b.sums.length || !sameStack) return { name, state: "otherShape", likeness: null };
  return { name, state: "compared", likeness: likenessOf(a, b) };
}

/**
 * Compares two importance matrices of one model, column by column.
 *
 * @throws PipelineError `imatrix-mismatch` (exit code 2) when they have no tensor in common
 * @throws ImatrixError, FormatError when a file is no importance matrix or cannot be read
 */
export async function compareImatrices(pathA: string, pathB: string): Promise<ImatrixComparison> {
  const a = await readSums(pathA);
  const b = await readSums(pathB);
  const names = inOrder(new Set([...a.entries.keys(), ...b.entries.keys()]));
  const tensors = names.map((name) => compareEntry(name, a.entries.get(name), b.entries.get(name)));
  if (tensors.every(({ state }) => state === "onlyA" || state === "onlyB")) {
    throw new PipelineError(
      "imatrix-mismatch",
      `${pathB}: none of its ${b.entries.size} tensors (${[...b.entries.keys()][0]}, …) is in ${pathA}.`,
      { exitCode: 2, advice: "Compare importance matrices of one model." },
    );
  }
  let worst: ImatrixComparison["worst"] = null;
  for (const { name, likeness } of tensors) {
    const correlation = likeness?.correlation ?? null;
    if (correlation !== null && correlation < (worst?.correlation ?? Infinity)) worst = { name, correlation };
  }
  return { kind: "comparison", a: headOf(a), b: headOf(b), tensors, worst };
}

/**
 * Reads `FILE` or `FILE=WEIGHT`. A number behind the last `=` is a weight: a file whose own name ends so is given
 * with one.
 *
 * @throws PipelineError `bad-weight` (exit code 2)
 */
export function parseWeighted(text: string): WeightedFile {
  const [, path, number] = /^(.+)=([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)$/i.exec(text) ?? [];
  if (path === undefined) return { path: text, weight: 1 };
  const weight = Number(number);
  if (weight > 0 && weight <= MAX_WEIGHT) return { path, weight };
  throw new PipelineError(
    "bad-weight",
    `${text}: the weight is ${number}, expected a number above 0, up to ${MAX_WEIGHT}.`,
    { exitCode: 2 },
  );
}

/**
 * Adds up importance matrices of one model, and writes the sum in llama.cpp's GGUF format.
 *
 * @throws ImatrixError, FormatError when a file is no importance matrix, or not one of the same model
 * @throws OutputError when the output is there and `force` is not set, or cannot be written
 * @throws LockError while another process writes it; the signal's reason after an abort
 */
export async function mergeImatrices(request: MergeRequest, signal: AbortSignal): Promise<MergeReport> {
  const { out, files, chunkTokens, force } = request;
  await checkOutput(out, force);
  const merge = new ImatrixMerge(chunkTokens);
  const read: (ImatrixFile & WeightedFile)[] = [];
  for (const { path, weight } of files) {
    signal.throwIfAborted();
    const matrix = await readSums(path);
    merge.add(matrix, weight);
    read.push({ ...headOf(matrix), weight });
  }
  const { contents, partial } = merge.finish();
  signal.throwIfAborted();
  const bytes = await withLock(`${out}.lock`, out, () => writeImatrix(out, contents, { overwrite: force }));
  return {
    path: out,
    bytes,
    tensors: contents.entries.length,
    datasets: contents.datasets,
    chunks: contents.chunks,
    chunkTokens: contents.chunkTokens,
    files: read,
    partial,
  };
}
