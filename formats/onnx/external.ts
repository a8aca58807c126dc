import { shown } from "../errors.js";
import { OnnxError } from "./errors.js";
import { locationObjection } from "./location.js";
import { DATA_EXTERNAL, type StringStringEntryProto, type TensorProto } from "./types.js";

/** Where the data of a tensor lies outside the graph file. */
export interface ExternalData {
  /** Path of the file, relative to the folder of the graph, with `/`. */
  readonly location: string;
  /** In bytes from the start of the file. */
  readonly offset: number;
  readonly length: number;
}

/** The fields of a tensor that point to its data. */
export function externalFields({
  location,
  offset,
  length,
}: ExternalData): Pick<TensorProto, "externalData" | "dataLocation"> {
  return {
    externalData: [
      { key: "location", value: location },
      { key: "offset", value: String(offset) },
      { key: "length", value: String(length) },
    ],
    dataLocation: DATA_EXTERNAL,
  };
}

function entryOf(entries: readonly StringStringEntryProto[], key: string, what: string): string | undefined {
  const values = entries.filter((entry) => entry.key === key);
  if (values.length > 1) throw new OnnxError("onnx-external", `${what} gives ${key} twice.`);
  return values[0]?.value;
}

function numberOf(text: string, key: string, what: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new OnnxError("onnx-external", `${what} has the ${key} ${shown(text)}, expected a whole number.`);
}

/**
 * Reads where the data of a tensor lies. A checksum is not compared, and keys that ONNX does not name are ignored.
 *
 * @param byteLength of the tensor; stands in for a length that is not given
 * @param what names the tensor in messages
 * @throws OnnxError `onnx-external`; `onnx-location` for a path that leads out of the folder
 */
export function readExternalData(
  entries: readonly StringStringEntryProto[],
  byteLength: number,
  what: string,
): ExternalData {
  const location = entryOf(entries, "location", what);
  if (location === undefined) throw new OnnxError("onnx-external", `${what} names no file for its data.`);
  const objection = locationObjection(location);
  if (objection !== undefined) {
    throw new OnnxError(
      "onnx-location",
      `${what} has its data in ${shown(location)}, which ${objection}, expected a path inside the folder.`,
      { advice: "Do not load this model unless you trust who made it." },
    );
  }
  const offset = numberOf(entryOf(entries, "offset", what) ?? "0", "offset", what);
  const length = numberOf(entryOf(entries, "length", what) ?? String(byteLength), "length", what);
  if (length !== byteLength) {
    throw new OnnxError(
      "onnx-tensor-size",
      `${what} has ${length} bytes in ${shown(location)}, expected ${byteLength}.`,
    );
  }
  return { location, offset, length };
}
