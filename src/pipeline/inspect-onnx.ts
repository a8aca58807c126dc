import { basename } from "node:path";
import { elementTypeById } from "../../formats/onnx/element-types.js";
import { type Finding, lintModel } from "../../formats/onnx/lint.js";
import { type OnnxModel, openOnnx } from "../../formats/onnx/read.js";
import { scopesOf } from "../../formats/onnx/scopes.js";
import { accuracyLevels, storedWeights } from "../../formats/onnx/storage.js";
import type { OnnxTensor } from "../../formats/onnx/tensors.js";
import type { Dimension, ModelProto, TypeProto, ValueInfoProto } from "../../formats/onnx/types.js";
import { isOnnxDomain } from "../../formats/onnx/versions.js";
import type { OnnxFile } from "./onnx-source.js";

/** A finding and the graph file that it was found in. */
export interface GraphFinding extends Finding {
  readonly file: string;
}

export interface InspectedOnnxValue {
  readonly name: string;
  /** Element type of a tensor; `sequence`, `map`, `optional` or `sparse tensor` for the other kinds. */
  readonly type: string;
  /** Numbers, names of sizes that differ from run to run, null for sizes of which nothing is known; null without any. */
  readonly shape: readonly (number | string | null)[] | null;
}

export interface InspectedOnnxTensor {
  /** Empty for most values of attributes. */
  readonly name: string;
  /** Where it stands in the model, such as `graph.initializer[3]`. */
  readonly path: string;
  readonly type: string;
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  readonly bytes: number;
  /** Base name of the file that holds it. */
  readonly file: string;
  /** Byte offset in a data file; null for a tensor inside the graph. */
  readonly offset: number | null;
}

/** One graph file with its data files. */
export interface InspectedGraph {
  /** Path in the folder that was named, with `/`. */
  readonly file: string;
  /** Size of the graph file. */
  readonly fileBytes: number;
  readonly dataFiles: readonly { readonly file: string; readonly bytes: number }[];
  readonly opset: number;
  readonly irVersion: number;
  /** Operators that are not ONNX's own. */
  readonly domains: readonly { readonly domain: string; readonly version: number }[];
  readonly producer: { readonly name: string; readonly version: string } | null;
  /** Nodes of all graphs: bodies of Loop and If and of functions count, once each. */
  readonly nodes: number;
  /** Graphs in attributes, and functions. */
  readonly subgraphs: number;
  /** Most nodes first. */
  readonly operators: readonly {
    readonly operator: string;
    readonly domain: string;
    readonly nodes: number;
  }[];
  readonly inputs: readonly InspectedOnnxValue[];
  readonly outputs: readonly InspectedOnnxValue[];
  /** Weights: all values that are no indices, sizes, scales or zero points. */
  readonly values: number;
  /** Bytes of them, scales and zero points included. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
  /** Most bytes first; tensors without weights are listed too. */
  readonly storage: readonly {
    readonly storage: string;
    readonly tensors: number;
    readonly values: number;
    readonly bytes: number;
    readonly bitsPerWeight: number;
  }[];
  /** Of MatMulNBits, lowest first. */
  readonly accuracyLevels: readonly { readonly level: number; readonly nodes: number }[];
  readonly findings: readonly Finding[];
  readonly tensors: readonly InspectedOnnxTensor[];
}

/** What `inspect --json` prints for an ONNX file or a folder of such. */
export interface InspectedOnnx {
  readonly kind: "onnx";
  readonly path: string;
  readonly graphs: readonly InspectedGraph[];
}

/** transformers.js pads prompts on the left, and decoders by this name are made for it. */
const DECODER = /^decoder_model_merged/;

/** What the lint says of a model, given its files and where it is used. */
export function lintFile({ file }: OnnxFile, { model, dataFiles }: OnnxModel): readonly Finding[] {
  return lintModel(model, { dataFiles: [...dataFiles.values()], padsLeft: DECODER.test(basename(file)) });
}

function inspectDimension({ dimValue, dimParam }: Dimension): number | string | null {
  return dimValue ?? (dimParam === undefined || dimParam === "" ? null : dimParam);
}

function inspectType(type: TypeProto | undefined): Pick<InspectedOnnxValue, "type" | "shape"> {
  const { tensorType, sequenceType, mapType, optionalType, sparseTensorType } = type ?? {};
  if (tensorType !== undefined) {
    const { elemType, shape } = tensorType;
    return {
      type: elementTypeById(elemType)?.name ?? `type ${elemType}`,
      shape: shape === undefined ? null : shape.dim.map(inspectDimension),
    };
  }
  const kinds = {
    sequence: sequenceType,
    map: mapType,
    optional: optionalType,
    "sparse tensor": sparseTensorType,
  };
  const kind = Object.entries(kinds).find(([, given]) => given !== undefined)?.[0];
  return { type: kind ?? "unknown", shape: null };
}

function inspectValue({ name, type }: ValueInfoProto): InspectedOnnxValue {
  return { name, ...inspectType(type) };
}

function inspectNodes(model: ModelProto): Pick<InspectedGraph, "nodes" | "subgraphs" | "operators"> {
  const scopes = scopesOf(model);
  const operators = new Map<string, { operator: string; domain: string; nodes: number }>();
  let nodes = 0;
  for (const { opType, domain: named = "" } of scopes.flatMap(({ nodes }) => nodes)) {
    const domain = isOnnxDomain(named) ? "" : named;
    const key = `${domain}:${opType}`;
    const found = operators.get(key) ?? { operator: opType, domain, nodes: 0 };
    operators.set(key, found);
    found.nodes += 1;
    nodes += 1;
  }
  return {
    nodes,
    subgraphs: scopes.length - 1,
    operators: [...operators.values()].toSorted((a, b) => b.nodes - a.nodes),
  };
}

function bitsPerWeight(bytes: number, values: number): number {
  return values === 0 ? 0 : (bytes * 8) / values;
}

function inspectWeights({
  model,
  tensors,
}: OnnxModel): Pick<InspectedGraph, "values" | "bytes" | "bitsPerWeight" | "storage"> {
  const stored = storedWeights(model, tensors);
  const weights = stored.filter(({ weights }) => weights);
  const values = weights.reduce((sum, { values }) => sum + values, 0);
  const bytes = weights.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    values,
    bytes,
    bitsPerWeight: bitsPerWeight(bytes, values),
    storage: stored.map(({ storage, tensors, values, bytes }) => ({
      storage,
      tensors,
      values,
      bytes,
      bitsPerWeight: bitsPerWeight(bytes, values),
    })),
  };
}

function inspectTensor(graphFile: string, tensor: OnnxTensor): InspectedOnnxTensor {
  const { name, path, type, dims, byteLength, place } = tensor;
  return {
    name,
    path,
    type,
    shape: dims,
    bytes: byteLength,
    file: basename(place.kind === "external" ? place.location : graphFile),
    offset: place.kind === "external" ? place.offset : null,
  };
}

function inspectGraph(named: OnnxFile, opened: OnnxModel): InspectedGraph {
  const { model, size, opset, dataFiles, tensors } = opened;
  const { irVersion, opsetImport, producerName = "", producerVersion = "", graph } = model;
  return {
    file: named.file,
    fileBytes: size,
    dataFiles: [...dataFiles.values()].map(({ location, size }) => ({ file: location, bytes: size })),
    opset,
    irVersion,
    domains: opsetImport.filter(({ domain }) => !isOnnxDomain(domain)),
    producer: producerName === "" ? null : { name: producerName, version: producerVersion },
    ...inspectNodes(model),
    inputs: graph.input.map(inspectValue),
    outputs: graph.output.map(inspectValue),
    ...inspectWeights(opened),
    accuracyLevels: accuracyLevels(model),
    findings: lintFile(named, opened),
    tensors: tensors.map((tensor) => inspectTensor(named.file, tensor)),
  };
}

/**
 * What ONNX graphs and their data files hold. The data itself is not read.
 *
 * @throws OnnxError, FormatError for a graph or data file that cannot be read
 */
export async function inspectOnnx(path: string, files: readonly OnnxFile[]): Promise<InspectedOnnx> {
  const graphs: InspectedGraph[] = [];
  // One after another: a graph may have half a gigabyte.
  for (const file of files) graphs.push(inspectGraph(file, await openOnnx(file.path)));
  return { kind: "onnx", path, graphs };
}
