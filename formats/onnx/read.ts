import { shown } from "../errors.js";
import { openFile } from "../file-source.js";
import type { ByteSource, OpenSource } from "../source.js";
import { decodeModel } from "./codec.js";
import { findDataFiles, type OnnxDataFile, resolveLocal, type ResolveLocation } from "./data-files.js";
import { OnnxError } from "./errors.js";
import { MAX_GRAPH_BYTES, MAX_MESSAGE_BYTES } from "./limits.js";
import { listTensors, type OnnxTensor } from "./tensors.js";
import type { ModelProto } from "./types.js";
import { checkVersions, isOnnxDomain } from "./versions.js";

export { TensorReader } from "./data-files.js";

/** A graph file that was read and checked; data files were not looked at. */
export interface OnnxGraph {
  readonly model: ModelProto;
  /** Version of ONNX's own operators. */
  readonly opset: number;
  /** All tensors, those of nested graphs and of attributes included. */
  readonly tensors: readonly OnnxTensor[];
}

/** A model whose graph and data files were checked; of the data only the sizes of the files. */
export interface OnnxModel extends OnnxGraph {
  readonly path: string;
  /** Size of the graph file in bytes. */
  readonly size: number;
  /** By location. */
  readonly dataFiles: ReadonlyMap<string, OnnxDataFile>;
}

export interface OnnxReadOptions {
  /** Largest graph file that is read, in bytes; `MAX_GRAPH_BYTES` when left out. */
  readonly maxGraphBytes?: number;
}

export interface OnnxOpenOptions extends OnnxReadOptions {
  /** How a path (or address) becomes a source; local files by default. */
  readonly open?: OpenSource;
  /** Where a data file is, by the graph's path and its own inside that folder; by default local, with its links looked at. */
  readonly resolve?: ResolveLocation;
}

async function readAll(source: ByteSource, maximum: number): Promise<Uint8Array> {
  const most = Math.min(maximum, MAX_MESSAGE_BYTES);
  if (source.size > most) {
    throw new OnnxError(
      "onnx-limit",
      `${source.name}: the graph file has ${source.size} bytes, expected at most ${most}.`,
      { advice: "Save the model with its weights as external data." },
    );
  }
  const bytes = new Uint8Array(source.size);
  await source.read(bytes, 0);
  return bytes;
}

/** @returns the version of ONNX's own operators */
function checkOpsets(file: string, { irVersion, opsetImport }: ModelProto): number {
  const versions = new Map<string, number>();
  for (const { domain: named, version } of opsetImport) {
    const domain = isOnnxDomain(named) ? "" : named;
    if (versions.has(domain)) {
      const whose = domain === "" ? "ONNX" : shown(domain);
      throw new OnnxError("onnx-opset", `${file}: the operators of ${whose} are imported twice.`);
    }
    versions.set(domain, version);
  }
  const opset = versions.get("");
  if (opset === undefined) {
    throw new OnnxError("onnx-opset", `${file}: the version of ONNX's own operators is missing.`);
  }
  checkVersions(file, irVersion, opset);
  return opset;
}

/**
 * Reads and checks one graph file; the source stays open.
 *
 * @throws OnnxError when the file is no ONNX model, is damaged, of a version that is not supported, or claims
 *   more than limits.ts allows
 * @throws FormatError when the file cannot be read
 */
export async function readOnnx(source: ByteSource, options: OnnxReadOptions = {}): Promise<OnnxGraph> {
  const file = source.name;
  const bytes = await readAll(source, options.maxGraphBytes ?? MAX_GRAPH_BYTES);
  const model = await decodeModel(bytes, file);
  // The empty file is a message too, and many a text begins like one.
  if (model.irVersion === 0 || (model.graph as unknown) === undefined) {
    throw new OnnxError("onnx-model", `${file}: the file has no IR version or no graph.`, {
      advice: "Give the .onnx file of a model.",
    });
  }
  const opset = checkOpsets(file, model);
  return { model, opset, tensors: listTensors(model, file) };
}

/**
 * Opens an ONNX model: its graph is read, and its data files are found and compared with what the graph says of
 * them. Then the files are closed again; `TensorReader` reads the bytes.
 *
 * A data file has to lie in the folder of the graph or below, also after its links are followed; the exception is
 * described at `resolveLocal`. Who gives `resolve` has to see to that where paths can be links.
 *
 * @throws OnnxError as `readOnnx` does, and when the data files do not fit the graph
 * @throws FormatError when a file cannot be opened
 */
export async function openOnnx(path: string, options: OnnxOpenOptions = {}): Promise<OnnxModel> {
  const { open = openFile, resolve = resolveLocal } = options;
  const source = await open(path);
  try {
    const graph = await readOnnx(source, options);
    const dataFiles = await findDataFiles(path, graph.tensors, resolve, open);
    return { path, size: source.size, dataFiles, ...graph };
  } finally {
    await source.close();
  }
}
