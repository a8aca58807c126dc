import { shown } from "../errors.js";
import type { OutputTensor } from "../output-files.js";
import { padTo } from "../padding.js";
import { OnnxError } from "./errors.js";
import type { ExternalData } from "./external.js";
import { MAX_CHUNKS, MAX_DATA_FILE_BYTES } from "./limits.js";
import { isPlainName } from "./location.js";

/** Where data begins, at a multiple of this: a cache line, and what SIMD loads like best. */
const ALIGNMENT = 64;

/** From this size on tensors begin on a page of memory, so that they can be mapped one by one. */
const LARGE_TENSOR_BYTES = 2 ** 20;
const PAGE = 4096;

/** A tensor that is going to lie in a data file. */
export interface ExternalTensorPlan {
  readonly name: string;
  /** At least 1; tensors without data belong into the graph. */
  readonly byteLength: number;
}

/** Its place: `part` is 0 for the graph file, so data files count from 1. */
export interface PlacedTensor extends OutputTensor, ExternalData {}

/** Where every byte of the data files goes. */
export interface ExternalDataLayout {
  /** Name of the graph file that the data files are named after. */
  readonly graphFile: string;
  readonly files: readonly { readonly name: string; readonly size: number }[];
  /** In the order given. */
  readonly tensors: readonly PlacedTensor[];
  /** Size of all data files in bytes. */
  readonly size: number;
}

export interface ExternalDataOptions {
  /** Largest data file in bytes; the default is what browsers can hold. */
  readonly maxFileBytes?: number;
}

/** Name of data file `index` of a graph, as transformers.js looks for it: `…_data`, `…_data_1` and so on. */
export function dataFileName(graphFile: string, index: number): string {
  return index === 0 ? `${graphFile}_data` : `${graphFile}_data_${index}`;
}

function checkTensor({ name, byteLength }: ExternalTensorPlan, names: Set<string>, maximum: number): void {
  if (name === "" || names.has(name)) {
    const problem = name === "" ? "A tensor has no name" : `Tensor ${shown(name)} is given twice`;
    throw new OnnxError("onnx-name", `${problem}.`);
  }
  names.add(name);
  if (!Number.isSafeInteger(byteLength) || byteLength < 1) {
    throw new OnnxError(
      "onnx-tensor-size",
      `Tensor ${shown(name)} has ${byteLength} bytes, expected at least 1.`,
    );
  }
  if (byteLength > maximum) {
    throw new OnnxError(
      "onnx-tensor-size",
      `Tensor ${shown(name)} has ${byteLength} bytes, a data file holds at most ${maximum}.`,
      { advice: "Give it a type of fewer bits, or split it." },
    );
  }
}

/**
 * Lays out the data files of a graph: the place of every tensor and the size of every file are known before a
 * byte is written. Tensors keep the order given; one that would pass the bound opens the next file.
 *
 * @param graphFile name of the graph file, without a folder
 * @throws OnnxError when a name is not one that can be written, a tensor is larger than a file may be, or more
 *   than `MAX_CHUNKS` files would be needed
 */
export function planExternalData(
  graphFile: string,
  tensors: readonly ExternalTensorPlan[],
  { maxFileBytes = MAX_DATA_FILE_BYTES }: ExternalDataOptions = {},
): ExternalDataLayout {
  if (!isPlainName(graphFile)) {
    throw new OnnxError(
      "onnx-name",
      `The graph file is to be named ${shown(graphFile)}, expected a plain name.`,
      {
        exitCode: 2,
      },
    );
  }
  if (!Number.isSafeInteger(maxFileBytes) || maxFileBytes < 1 || maxFileBytes > MAX_DATA_FILE_BYTES) {
    throw new OnnxError(
      "onnx-limit",
      `Data files of ${maxFileBytes} bytes are asked for, expected 1 to ${MAX_DATA_FILE_BYTES}.`,
      { exitCode: 2 },
    );
  }
  const names = new Set<string>();
  const sizes: number[] = [];
  const placed: PlacedTensor[] = [];
  for (const tensor of tensors) {
    checkTensor(tensor, names, maxFileBytes);
    const { name, byteLength } = tensor;
    const alignment = byteLength >= LARGE_TENSOR_BYTES ? PAGE : ALIGNMENT;
    let offset = padTo(sizes.at(-1) ?? 0, alignment);
    if (sizes.length === 0 || offset + byteLength > maxFileBytes) {
      offset = 0;
      sizes.push(0);
      if (sizes.length > MAX_CHUNKS) {
        throw new OnnxError(
          "onnx-limit",
          `Tensor ${shown(name)} would need data file ${sizes.length}, at most ${MAX_CHUNKS} can be loaded.`,
        );
      }
    }
    sizes[sizes.length - 1] = offset + byteLength;
    const location = dataFileName(graphFile, sizes.length - 1);
    placed.push({ name, part: sizes.length, location, offset, length: byteLength, byteLength });
  }
  return {
    graphFile,
    files: sizes.map((size, index) => ({ name: dataFileName(graphFile, index), size })),
    tensors: placed,
    size: sizes.reduce((sum, size) => sum + size, 0),
  };
}
