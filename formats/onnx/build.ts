import { shown } from "../errors.js";
import { elementType, type ElementTypeName, tensorBytes } from "./element-types.js";
import { OnnxError } from "./errors.js";
import { type ExternalData, externalFields } from "./external.js";
import { MAX_INLINE_BYTES } from "./limits.js";
import { locationObjection } from "./location.js";
import {
  ATTRIBUTE_TYPES,
  type AttributeProto,
  type FunctionProto,
  type GraphProto,
  type Int64,
  type ModelProto,
  type NodeProto,
  type TensorProto,
  type TypeProto,
  type ValueInfoProto,
} from "./types.js";
import { irForOpset } from "./versions.js";

/** The value of an attribute, before it has a name. */
export type AttributeValue = Omit<AttributeProto, "name">;

const utf8 = new TextEncoder();

/** Values of attributes by their kind, such as `attr.int(1)`; ranges are checked when the model is encoded. */
export const attr = {
  int: (value: Int64): AttributeValue => ({ type: ATTRIBUTE_TYPES.INT, i: value }),
  float: (value: number): AttributeValue => ({ type: ATTRIBUTE_TYPES.FLOAT, f: value }),
  string: (value: string): AttributeValue => ({ type: ATTRIBUTE_TYPES.STRING, s: utf8.encode(value) }),
  ints: (values: readonly Int64[]): AttributeValue => ({ type: ATTRIBUTE_TYPES.INTS, ints: values }),
  floats: (values: readonly number[]): AttributeValue => ({ type: ATTRIBUTE_TYPES.FLOATS, floats: values }),
  strings: (values: readonly string[]): AttributeValue => ({
    type: ATTRIBUTE_TYPES.STRINGS,
    strings: values.map((value) => utf8.encode(value)),
  }),
  tensor: (value: TensorProto): AttributeValue => ({ type: ATTRIBUTE_TYPES.TENSOR, t: value }),
  graph: (value: GraphProto): AttributeValue => ({ type: ATTRIBUTE_TYPES.GRAPH, g: value }),
};

export interface NodeParts {
  /** Names of values; an empty one stands for an optional input that is not given. */
  readonly inputs: readonly string[];
  /** An empty one stands for an output that is not wanted. */
  readonly outputs: readonly string[];
  readonly name?: string;
  /** ONNX's own operators when left out. */
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
}

/** A node, such as `node("MatMul", { inputs: ["x", "w"], outputs: ["y"] })`. */
export function node(opType: string, parts: NodeParts): NodeProto {
  const { inputs, outputs, name, domain, attributes = {} } = parts;
  return {
    opType,
    input: inputs,
    output: outputs,
    attribute: Object.entries(attributes).map(([name, value]) => ({ name, ...value })),
    ...(name === undefined ? {} : { name }),
    ...(domain === undefined ? {} : { domain }),
  };
}

/**
 * The type of a tensor.
 *
 * @param shape outermost dimension first: numbers, or names for sizes that differ from run to run; left out where
 *   not even the number of dimensions is known
 */
export function tensorType(type: ElementTypeName, shape?: readonly (number | string)[]): TypeProto {
  const elemType = elementType(type).id;
  if (shape === undefined) return { tensorType: { elemType } };
  const dim = shape.map((size) => (typeof size === "number" ? { dimValue: size } : { dimParam: size }));
  return { tensorType: { elemType, shape: { dim } } };
}

/** An input, an output or an inner value of a graph; for the shape see `tensorType`. */
export function valueInfo(
  name: string,
  type: ElementTypeName,
  shape?: readonly (number | string)[],
): ValueInfoProto {
  return { name, type: tensorType(type, shape) };
}

/**
 * A small tensor with its data in the graph file.
 *
 * @param name may be empty for the value of an attribute
 * @param bytes little-endian; values narrower than a byte packed, lowest bits first
 * @throws OnnxError when the bytes are not those of the shape, or more than `MAX_INLINE_BYTES`
 */
export function inlineTensor(
  name: string,
  type: ElementTypeName,
  dims: readonly number[],
  bytes: Uint8Array,
): TensorProto {
  const what = `Tensor ${shown(name)}`;
  const expected = tensorBytes(elementType(type), dims, what);
  if (bytes.length !== expected || type === "STRING") {
    throw new OnnxError(
      "onnx-tensor-size",
      `${what} has ${bytes.length} bytes, expected ${expected} of ${type}.`,
    );
  }
  if (expected > MAX_INLINE_BYTES) {
    throw new OnnxError(
      "onnx-limit",
      `${what} has ${expected} bytes, at most ${MAX_INLINE_BYTES} are kept in the graph file.`,
    );
  }
  return { name, dataType: elementType(type).id, dims, rawData: bytes };
}

/**
 * A tensor with its data in another file: one of a layout, or a shard of a checkpoint.
 *
 * @throws OnnxError when the length is not that of the shape, or the location leads out of the graph's folder
 */
export function externalTensor(
  name: string,
  type: ElementTypeName,
  dims: readonly number[],
  place: ExternalData,
): TensorProto {
  const what = `Tensor ${shown(name)}`;
  const expected = tensorBytes(elementType(type), dims, what);
  if (place.length !== expected || type === "STRING") {
    throw new OnnxError(
      "onnx-tensor-size",
      `${what} has ${place.length} bytes, expected ${expected} of ${type}.`,
    );
  }
  const objection = locationObjection(place.location);
  if (objection !== undefined) {
    throw new OnnxError(
      "onnx-location",
      `${what} has its data in ${shown(place.location)}, which ${objection}.`,
    );
  }
  return { name, dataType: elementType(type).id, dims, ...externalFields(place) };
}

export interface GraphParts {
  readonly inputs?: readonly ValueInfoProto[];
  readonly outputs: readonly ValueInfoProto[];
  readonly initializers?: readonly TensorProto[];
  /** Inner values whose types are worth telling. */
  readonly values?: readonly ValueInfoProto[];
}

/** A graph; nodes come in the order in which they can run. */
export function graph(name: string, nodes: readonly NodeProto[], parts: GraphParts): GraphProto {
  const { inputs = [], outputs, initializers = [], values = [] } = parts;
  return { name, node: nodes, input: inputs, output: outputs, initializer: initializers, valueInfo: values };
}

export interface ModelParts {
  /** Version of ONNX's own operators; the IR version follows from it. */
  readonly opset: number;
  /** Versions of other operators by domain, such as `{ "com.microsoft": 1 }`. */
  readonly domains?: Readonly<Record<string, number>>;
  readonly producer?: { readonly name: string; readonly version: string };
  readonly metadata?: Readonly<Record<string, string>>;
  readonly functions?: readonly FunctionProto[];
}

/**
 * A model around a graph.
 *
 * @throws OnnxError when the opset is not one of `OPSETS`
 */
export function model(graph: GraphProto, parts: ModelParts): ModelProto {
  const { opset, domains = {}, producer, metadata, functions } = parts;
  return {
    irVersion: irForOpset(opset),
    ...(producer === undefined ? {} : { producerName: producer.name, producerVersion: producer.version }),
    graph,
    opsetImport: [
      { domain: "", version: opset },
      ...Object.entries(domains).map(([domain, version]) => ({ domain, version })),
    ],
    ...(metadata === undefined
      ? {}
      : { metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })) }),
    ...(functions === undefined ? {} : { functions }),
  };
}
