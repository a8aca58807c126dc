import { OnnxError } from "./errors.js";
import {
  elementCount,
  type ElementType,
  type ElementTypeName,
  elementTypeById,
  tensorBytes,
} from "./element-types.js";
import { type ExternalData, readExternalData } from "./external.js";
import { DATA_EXTERNAL, type Int64, type TensorProto } from "./types.js";

/** Where the bytes of a tensor are. */
export type TensorPlace =
  /** In the graph file. */
  | { readonly kind: "inline"; readonly bytes: Uint8Array }
  /** In a data file. */
  | ({ readonly kind: "external" } & ExternalData)
  /** Texts have no bytes that could be read by range. */
  | { readonly kind: "strings"; readonly values: readonly Uint8Array[] };

/** A tensor with a checked shape and as many bytes as it needs. */
export interface TensorData {
  readonly type: ElementTypeName;
  readonly dims: readonly number[];
  /** 0 for texts. */
  readonly byteLength: number;
  readonly place: TensorPlace;
}

type ListField = "floatData" | "int32Data" | "int64Data" | "doubleData" | "uint64Data" | "stringData";

/** Where a type's values are when they are not raw: [list, entries of it for one value]; the others are in int32Data. */
const LIST_OF: Readonly<Partial<Record<ElementTypeName, readonly [field: ListField, perValue: number]>>> = {
  FLOAT: ["floatData", 1],
  COMPLEX64: ["floatData", 2],
  DOUBLE: ["doubleData", 1],
  COMPLEX128: ["doubleData", 2],
  INT64: ["int64Data", 1],
  UINT32: ["uint64Data", 1],
  UINT64: ["uint64Data", 1],
  STRING: ["stringData", 1],
};

const LISTS: readonly ListField[] = [
  "floatData",
  "int32Data",
  "int64Data",
  "doubleData",
  "uint64Data",
  "stringData",
];

function bigints(values: readonly Int64[]): bigint[] {
  return values.map(BigInt);
}

/** A typed array of the numbers, cut to the width that the type has in raw data. */
function packList({ name, bits }: ElementType, tensor: TensorProto): ArrayBufferView {
  const { floatData = [], doubleData = [], int32Data = [], int64Data = [], uint64Data = [] } = tensor;
  if (floatData.length > 0) return Float32Array.from(floatData);
  if (doubleData.length > 0) return Float64Array.from(doubleData);
  if (int64Data.length > 0) return BigInt64Array.from(bigints(int64Data));
  if (uint64Data.length > 0) {
    return name === "UINT32"
      ? Uint32Array.from(uint64Data, Number)
      : BigUint64Array.from(bigints(uint64Data));
  }
  if (bits === 32) return Int32Array.from(int32Data);
  return bits === 16 ? Uint16Array.from(int32Data) : Uint8Array.from(int32Data);
}

/** What a tensor has in the graph file: the number of sources of data decides whether it makes sense. */
function sourcesOf(tensor: TensorProto): string[] {
  const sources: string[] = LISTS.filter((list) => (tensor[list]?.length ?? 0) > 0);
  if (tensor.rawData !== undefined && tensor.rawData.length > 0) sources.push("rawData");
  if ((tensor.dataLocation ?? 0) === DATA_EXTERNAL) sources.push("externalData");
  return sources;
}

function inlinePlace(type: ElementType, tensor: TensorProto, byteLength: number, what: string): TensorPlace {
  const wrongSize = (found: string, expected: number): OnnxError =>
    new OnnxError("onnx-tensor-size", `${what} has ${found}, expected ${expected}.`);
  if (tensor.rawData !== undefined && tensor.rawData.length > 0) {
    if (type.name === "STRING") throw new OnnxError("onnx-tensor-data", `${what} has texts as raw data.`);
    if (tensor.rawData.length !== byteLength) throw wrongSize(`${tensor.rawData.length} bytes`, byteLength);
    return { kind: "inline", bytes: tensor.rawData };
  }
  // Values narrower than a byte share an entry.
  const [field, perValue] = LIST_OF[type.name] ?? (["int32Data", Math.min(1, type.bits / 8)] as const);
  const other = LISTS.find((list) => list !== field && (tensor[list]?.length ?? 0) > 0);
  if (other !== undefined) {
    throw new OnnxError(
      "onnx-tensor-data",
      `${what} of type ${type.name} has its values in ${other}, expected ${field}.`,
    );
  }
  const entries = tensor[field]?.length ?? 0;
  const expected = Math.ceil(elementCount(tensor.dims, what) * perValue);
  if (entries !== expected) throw wrongSize(`${entries} entries in ${field}`, expected);
  if (type.name === "STRING") return { kind: "strings", values: tensor.stringData ?? [] };
  const packed = packList(type, tensor);
  return { kind: "inline", bytes: new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength) };
}

/**
 * Checks a tensor by itself: a known type, a sound shape, and exactly as much data as these ask for, in one
 * place. Whether a data file has the bytes is not looked at.
 *
 * @param what names the tensor in messages
 * @throws OnnxError when it is not sound
 */
export function readTensor(tensor: TensorProto, what: string): TensorData {
  const type = elementTypeById(tensor.dataType);
  if (type === undefined) {
    throw new OnnxError(
      "onnx-tensor-type",
      `${what} has the type ${tensor.dataType}, which ONNX does not name.`,
    );
  }
  const byteLength = tensorBytes(type, tensor.dims, what);
  const sources = sourcesOf(tensor);
  if (sources.length > 1) {
    throw new OnnxError(
      "onnx-tensor-data",
      `${what} has its data in ${sources.join(" and ")}, expected one.`,
    );
  }
  if (tensor.segment !== undefined) {
    throw new OnnxError(
      "onnx-tensor-data",
      `${what} is a segment of a larger tensor, which nothing supports.`,
    );
  }
  const { dataLocation = 0, externalData = [] } = tensor;
  if (dataLocation !== 0 && dataLocation !== DATA_EXTERNAL) {
    throw new OnnxError(
      "onnx-tensor-data",
      `${what} has the data location ${dataLocation}, expected 0 or 1.`,
    );
  }
  let place: TensorPlace;
  if (dataLocation === DATA_EXTERNAL) {
    if (type.name === "STRING") throw new OnnxError("onnx-tensor-data", `${what} has texts in a data file.`);
    place = { kind: "external", ...readExternalData(externalData, byteLength, what) };
  } else {
    place = inlinePlace(type, tensor, byteLength, what);
  }
  return { type: type.name, dims: tensor.dims, byteLength, place };
}
