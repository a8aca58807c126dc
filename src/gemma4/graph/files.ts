import { realpath } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { model as makeModel } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { openOnnx } from "../../../formats/onnx/read.js";
import type { ModelProto } from "../../../formats/onnx/types.js";
import type { BoundWeight } from "../bind.js";
import type { Gemma4Config } from "../types.js";
import { CheckpointSource } from "./checkpoint-source.js";
import { decoderGraph, embedGraph, GRAPH_OPSET } from "./graphs.js";

/** The two graphs of a text model, and the folder that the paths of their data files start from. */
export interface TextGraphs {
  readonly embed: ModelProto;
  readonly decoder: ModelProto;
  readonly folder: string;
  /** Paths of all files that they consist of. */
  readonly files: readonly string[];
}

/** Bytes of a graph file. */
export async function encodeGraph(model: ModelProto): Promise<Uint8Array> {
  return encodeModel(model);
}

/**
 * Reads two graphs of the transformers.js layout, which lie in one folder; their data files are checked.
 *
 * @throws OnnxError, FormatError
 */
export async function readTextGraphs(embed: string, decoder: string): Promise<TextGraphs> {
  const [first, second] = [await openOnnx(embed), await openOnnx(decoder)];
  const data = [first, second].flatMap(({ path, dataFiles }) => [
    path,
    ...[...dataFiles.values()].map((file) => file.path),
  ]);
  return {
    embed: first.model,
    decoder: second.model,
    folder: dirname(resolve(decoder)),
    files: [...new Set(data)],
  };
}

/**
 * The graphs of a checkpoint, which refer to its shards: nothing is written, and nothing is rounded.
 *
 * @param weights from `bindCheckpoint`
 */
export async function checkpointGraphs(
  config: Gemma4Config,
  weights: readonly BoundWeight[],
  shards: readonly { readonly path: string }[],
  embed: { readonly placeholders: readonly number[]; readonly padding: number },
): Promise<TextGraphs> {
  // In a hub's cache they are links, which the runtime does not follow out of a folder.
  const files = await Promise.all(shards.map(({ path }) => realpath(path)));
  const folder = commonFolder(files);
  const source = new CheckpointSource(
    weights,
    files.map((file) => posix(relative(folder, file))),
  );
  const options = { config, source, internal: "FLOAT", accuracyLevel: 0 } as const;
  const parts = { opset: GRAPH_OPSET, domains: { "com.microsoft": 1 } };
  const place = source.place.bind(source);
  return {
    embed: makeModel(embedGraph({ ...options, ...embed }).place(place), parts),
    decoder: makeModel(decoderGraph(options).place(place), parts),
    folder,
    files,
  };
}

/** The deepest folder that holds all files. */
export function commonFolder(files: readonly string[]): string {
  const [first = [], ...others] = files.map((file) => dirname(resolve(file)).split(sep));
  const differs = first.findIndex((step, index) => others.some((other) => other[index] !== step));
  const common = first.slice(0, differs === -1 ? first.length : differs);
  return common.length <= 1 ? `${common[0] ?? ""}${sep}` : common.join(sep);
}

function posix(path: string): string {
  return path.split(sep).join("/");
}

/** The same location seen from a folder above. */
export function movedLocation(folder: string, above: string): (location: string) => string {
  return (location) => posix(relative(above, join(folder, location)));
}

/** Name of a graph file without what stands for its dtype, for messages. */
export function graphName(path: string): string {
  return basename(path, ".onnx");
}
