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

/**
 * Lays out a plan's files to the byte, without writing anything.
 *
 * @param splitMaxBytes most tensor bytes in a file; one file when left out
 * @throws GgufError for metadata or a bound that the format cannot take
 */
export function layoutPlan(
  plan: Plan,
  output: string,
  metadata: Metadata,
  splitMaxBytes?: number,
): OutputLayout {
  const layout = planGguf({
    metadata,
    tensors: plan.tensors.map(({ name, type, ne }) => ({ name, type, ne })),
    ...(splitMaxBytes === undefined ? {} : { split: { maxBytes: splitMaxBytes } }),
  });
  return { layout, paths: partNames(output, layout.parts.length), size: layout.size };
}

/**
 * Metadata of a GGUF that was made from another one, as llama-quantize writes it: all keys of the source,
 * then version and file type at the end, without the keys of a split model.
 */
export function requantizedMetadata(source: Metadata, plan: Plan): Map<string, GgufValue> {
  const version = "general.quantization_version";
  const fileType = "general.file_type";
  const entries = [...source].filter(
    ([key]) => key !== version && key !== fileType && !/^split\.(?:no|count|tensors\.count)$/.test(key),
  );
  return new Map<string, GgufValue>([
    ...entries,
    [version, { type: "u32", value: QUANTIZATION_VERSION }],
    [fileType, { type: "u32", value: plan.fileType }],
  ]);
}

/** Version of ggml's block layouts. */
const QUANTIZATION_VERSION = 2;
