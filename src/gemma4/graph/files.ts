import { realpath } from "node:fs/promises";
import { dirname, join, relative, resolve, sep } from "node:path";
import { model as makeModel } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { openOnnx } from "../../../formats/onnx/read.js";
import type { ModelProto } from "../../../formats/onnx/types.js";
import type { BoundWeight } from "../bind.js";
import type { Gemma4Config, LayerConfig } from "../types.js";
import { CheckpointSource } from "./checkpoint-source.js";
import { type GradientProbe, headGradient, layerGradient } from "./backward.js";
import { headDivergence, headPredictions } from "./comparison.js";
import type { GraphOptions, Observed } from "./context.js";
import { embeddingStep, headStep, layerStep, type Probe } from "./steps.js";
import { decoderGraph, embedGraph, GRAPH_OPSET, rangeGraph, type UnplacedGraph } from "./graphs.js";

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

/** What graphs over a checkpoint are made of. */
export interface CheckpointParts {
  readonly config: Gemma4Config;
  /** From `bindCheckpoint`. */
  readonly weights: readonly BoundWeight[];
  readonly shards: readonly { readonly path: string }[];
  /** Tokens that stand for images and sounds, and the one that per-layer embeddings take for them. */
  readonly placeholders: readonly number[];
  readonly padding: number;
}

/** Graphs over the shards of a checkpoint: nothing is written, and nothing is rounded. */
async function overShards<T>(
  { config, weights, shards }: CheckpointParts,
  use: (
    options: GraphOptions,
    finish: (graph: UnplacedGraph) => ModelProto,
    folder: string,
    files: readonly string[],
  ) => T,
  replaced: ReadonlyMap<string, string> = new Map(),
): Promise<T> {
  // In a hub's cache they are links, which the runtime does not follow out of a folder.
  const files = await Promise.all(shards.map(({ path }) => realpath(path)));
  const others = await Promise.all(
    [...replaced].map(async ([name, path]) => [name, await realpath(path)] as const),
  );
  const folder = commonFolder([...files, ...others.map(([, path]) => path)]);
  const locationOf = (file: string): string => posix(relative(folder, file));
  const source = new CheckpointSource(
    weights,
    files.map((file) => locationOf(file)),
    new Map(others.map(([name, path]) => [name, locationOf(path)])),
  );
  const finish = (graph: UnplacedGraph): ModelProto =>
    makeModel(
      graph.place((tensor) => source.place(tensor)),
      { opset: GRAPH_OPSET, domains: { "com.microsoft": 1 } },
    );
  return use({ config, source, internal: "FLOAT", accuracyLevel: 0 }, finish, folder, files);
}

/** The graphs of a checkpoint as they are exported, over its shards. */
export async function checkpointGraphs(parts: CheckpointParts): Promise<TextGraphs> {
  return overShards(parts, (options, finish, folder, files) => ({
    embed: finish(embedGraph({ ...options, ...parts })),
    decoder: finish(decoderGraph(options)),
    folder,
    files,
  }));
}

/** The embedding of a checkpoint, and the graph that shows how large its values get. */
export interface CheckpointRanges {
  readonly embed: ModelProto;
  readonly ranges: ModelProto;
  /** What each of the ranges is of. */
  readonly observed: readonly Observed[];
  readonly folder: string;
}

/** The graphs of a checkpoint that measure the range of its values, over its shards. */
export async function checkpointRanges(parts: CheckpointParts): Promise<CheckpointRanges> {
  return overShards(parts, (options, finish, folder) => {
    const ranges = rangeGraph(options);
    return {
      embed: finish(embedGraph({ ...options, ...parts })),
      ranges: finish(ranges),
      observed: ranges.observed,
      folder,
    };
  });
}

/** One step of the model: see `embeddingStep`, `layerStep` and `headStep`. */
export type StepPlace = "embedding" | "head" | LayerConfig;

/** A graph of one step, and the folder that the paths of its data files start from. */
export interface StepGraph {
  readonly model: ModelProto;
  readonly folder: string;
}

/**
 * The graph of one step of a checkpoint, over its shards.
 *
 * @param probe null for a graph that gives no more than what the next step reads
 * @param replaced by names of weights, files of floats with other values
 */
export async function checkpointStep(
  parts: CheckpointParts,
  place: StepPlace,
  probe: Probe | null,
  replaced: ReadonlyMap<string, string>,
): Promise<StepGraph> {
  return overShards(
    parts,
    (options, finish, folder) => {
      const whole = { ...options, ...parts };
      const graph =
        place === "embedding"
          ? embeddingStep(whole, probe)
          : place === "head"
            ? headStep(whole, probe)
            : layerStep(whole, place, probe);
      return { model: finish(graph), folder };
    },
    replaced,
  );
}

/**
 * A graph of the head of a checkpoint that predicts, or compares its predictions with others: see `headPredictions` and
 * `headDivergence`.
 *
 * @param replaced by names of weights, files of floats with other values
 */
export async function checkpointComparison(
  parts: CheckpointParts,
  kind: "predictions" | "divergence",
  replaced: ReadonlyMap<string, string>,
): Promise<StepGraph> {
  const make = kind === "predictions" ? headPredictions : headDivergence;
  return overShards(parts, (options, finish, folder) => ({ model: finish(make(options)), folder }), replaced);
}

/** The graph of the gradients through one step of a checkpoint, over its shards: see `layerGradient` and `headGradient`. */
export async function checkpointGradient(
  parts: CheckpointParts,
  place: "head" | LayerConfig,
  labels: "given" | "drawn",
  probe: GradientProbe,
): Promise<StepGraph> {
  return overShards(parts, (options, finish, folder) => {
    const graph =
      place === "head"
        ? headGradient(options, labels, probe)
        : layerGradient({ ...options, ...parts }, place, probe);
    return { model: finish(graph), folder };
  });
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
