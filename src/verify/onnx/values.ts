import type { TensorValue, ValueDescription } from "../../engines/onnx/types.js";
import { VerifyError } from "../errors.js";

export function int64(numbers: Iterable<number>, dims: readonly number[]): TensorValue {
  return { type: "int64", dims, data: BigInt64Array.from(numbers, BigInt) };
}

export function floats(data: Float32Array, dims: readonly number[]): TensorValue {
  return { type: "float32", dims, data };
}

/** A cache of no tokens, of the shape and type that a decoder asks for. */
export function emptyCache({ name, type, shape }: ValueDescription): TensorValue {
  if (!name.startsWith("past_key_values.") || (type !== "float32" && type !== "float16")) {
    throw new VerifyError(
      "unknown-input",
      `the decoder asks for ${name} of type ${type}, which nothing here gives`,
    );
  }
  const dims = shape.map((size) => (typeof size === "number" ? size : size === "batch_size" ? 1 : 0));
  return type === "float16"
    ? { type, dims, data: new Uint16Array(0) }
    : { type, dims, data: new Float32Array(0) };
}
