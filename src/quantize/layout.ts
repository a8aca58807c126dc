import type { ImportanceMatrix } from "../../formats/imatrix/types.js";
import type { GgufValue } from "../../formats/gguf/types.js";
import { type GgufLayout, planGguf } from "../../formats/gguf/plan.js";
import { partNames } from "../../formats/gguf/split.js";
import type { Plan } from "../plan/plan.js";

/** Keys and values in file order; a `GgufMetadata` will do. */
export type Metadata = Iterable<readonly [key: string, value: GgufValue]>;

/** Where every byte of the output goes. */
export interface OutputLayout {
  readonly layout: GgufLayout;
  /** Path of each file: the output itself, or llama.cpp's names for the parts of a split model. */
  readonly paths: readonly string[];
  /** Bytes of all files, headers included. */
  readonly size: number;
}

/** How a model is cut into files; one file when nothing is said. */
export interface Splitting {
  /** Most tensor bytes in a file. */
  readonly splitMaxBytes?: number | undefined;
  /** A file for each file of the source. */
  readonly keepSplit?: boolean | undefined;
}

/** Tensors that come from one file, run by run. */
function runsOf({ tensors }: Plan): number[] {
  const runs: number[] = [];
  let last: string | undefined;
  for (const { origin } of tensors) {
    const path = origin.kind === "file" ? origin.path : last;
    if (runs.length > 0 && path === last) runs[runs.length - 1] = (runs.at(-1) ?? 0) + 1;
    else runs.push(1);
    last = path;
  }
  return runs;
}

function splitOf(plan: Plan, { splitMaxBytes, keepSplit }: Splitting) {
  if (keepSplit === true) return { split: { counts: runsOf(plan) } };
  return splitMaxBytes === undefined ? {} : { split: { maxBytes: splitMaxBytes } };
}

/**
 * Lays out a plan's files to the byte, without writing anything.
 *
 * @throws GgufError for metadata or a bound that the format cannot take
 */
export function layoutPlan(
  plan: Plan,
  output: string,
  metadata: Metadata,
  splitting: Splitting = {},
): OutputLayout {
  const layout = planGguf({
    metadata,
    tensors: plan.tensors.map(({ name, type, ne }) => ({ name, type, ne })),
    ...splitOf(plan, splitting),
  });
  return { layout, paths: partNames(output, layout.parts.length), size: layout.size };
}

/**
 * Metadata of a GGUF that was made from another one, as llama-quantize writes it: all keys of the source,
 * then version and file type at the end, without the keys of a split model or of another importance matrix.
 */
export function requantizedMetadata(source: Metadata, plan: Plan): Map<string, GgufValue> {
  const version = "general.quantization_version";
  const fileType = "general.file_type";
  const entries = [...source].filter(
    ([key]) =>
      key !== version &&
      key !== fileType &&
      !/^(?:split\.(?:no|count|tensors\.count)|quantize\.imatrix\..*)$/.test(key),
  );
  return new Map<string, GgufValue>([
    ...entries,
    [version, { type: "u32", value: QUANTIZATION_VERSION }],
    [fileType, { type: "u32", value: plan.fileType }],
  ]);
}

/** What llama-quantize says of the importance matrix; of its paths only the names, which every machine shares. */
export function importanceMetadata(matrix: ImportanceMatrix): [key: string, value: GgufValue][] {
  const [dataset] = matrix.datasets;
  const entries: [string, GgufValue][] = [
    ["quantize.imatrix.file", { type: "string", value: nameOf(matrix.path) }],
  ];
  if (dataset !== undefined) {
    entries.push(["quantize.imatrix.dataset", { type: "string", value: nameOf(dataset) }]);
  }
  entries.push(["quantize.imatrix.entries_count", { type: "u32", value: matrix.entries.size }]);
  if (matrix.chunks > 0)
    entries.push(["quantize.imatrix.chunks_count", { type: "u32", value: matrix.chunks }]);
  return entries;
}

/** Last part of a path of any system. */
function nameOf(path: string): string {
  return path.split(/[/\\]/).at(-1) ?? path;
}

/** Version of ggml's block layouts. */
const QUANTIZATION_VERSION = 2;
