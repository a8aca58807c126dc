import { EngineError } from "../errors.js";
import type { Runtime, RuntimeTensor } from "./runtime.js";
import type { TensorType, TensorValue, ValueDescription } from "./types.js";

const ARRAYS = {
  float32: Float32Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  bool: Uint8Array,
  uint8: Uint8Array,
} as const satisfies Record<TensorType, unknown>;

/** Whether values of a type can be handed in and out. */
export function isTensorType(type: string): type is TensorType {
  return Object.hasOwn(ARRAYS, type);
}

/** The types that can be handed in and out, for messages. */
export const TENSOR_TYPES: string = Object.keys(ARRAYS).join(", ");

function shapeText(dims: readonly (number | string)[]): string {
  return `[${dims.map((dim) => (dim === "" ? "?" : dim)).join(", ")}]`;
}

/**
 * The runtime's form of a tensor; its data are not copied.
 *
 * @param what names the tensor in messages
 * @throws EngineError when type, dimensions and data do not belong together
 */
export function toRuntime({ Tensor }: Runtime, value: TensorValue, what: string): RuntimeTensor {
  const { type, dims, data } = value;
  if (!isTensorType(type)) {
    throw new EngineError(
      "engine-tensor",
      `${what} is given as ${String(type)}, expected one of ${TENSOR_TYPES}.`,
    );
  }
  if (!(data instanceof ARRAYS[type])) {
    throw new EngineError(
      "engine-tensor",
      `${what} is given as ${type} without a ${ARRAYS[type].name} of values.`,
    );
  }
  const whole = dims.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (!whole || count !== data.length) {
    throw new EngineError(
      "engine-tensor",
      `${what} is given the shape ${shapeText(dims)} and ${data.length} values, which do not agree.`,
    );
  }
  return new Tensor(type, data, dims);
}

/**
 * Checks a tensor against what the graph declares; the runtime's own message does not name the input when
 * the type is wrong.
 *
 * @param what names the input in messages
 */
export function checkFeed(input: ValueDescription, { type, dims }: RuntimeTensor, what: string): void {
  if (type !== input.type) {
    throw new EngineError("engine-feed", `${what} is fed with ${type}, expected ${input.type}.`);
  }
  const { shape } = input;
  // An empty shape may be one of unknown rank.
  if (shape.length === 0) return;
  const fits =
    dims.length === shape.length &&
    shape.every((size, axis) => typeof size === "string" || size === dims[axis]);
  if (!fits) {
    throw new EngineError(
      "engine-feed",
      `${what} is fed with the shape ${shapeText(dims)}, expected ${shapeText(shape)}.`,
    );
  }
}

/**
 * What the runtime gave, in our form.
 *
 * @param shared whether the runtime's tensor goes on being used, so that its data have to be copied
 * @throws EngineError when the element type is not one that can be handed out
 */
export function fromRuntime({ type, dims, data }: RuntimeTensor, what: string, shared: boolean): TensorValue {
  if (!isTensorType(type)) throw unfetchable(what, type);
  // Nodes with an array of halves of their own get one from the runtime; the bits are the same.
  const typed =
    type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : (data as Uint8Array);
  return { type, dims: [...dims], data: shared ? typed.slice() : typed } as TensorValue;
}

/** The error for an output that is asked for but has no form outside. */
export function unfetchable(what: string, type: string): EngineError {
  return new EngineError("engine-fetch", `${what} is of type ${type}, expected one of ${TENSOR_TYPES}.`);
}

/**
 * A tensor to be sent to another thread, and its buffer.
 *
 * @param move whether the caller's own buffer may go; a view on a part of one is copied all the same, and so
 *   is shared memory, which the other thread must not see change
 */
export function packed(value: TensorValue, move: boolean): { value: TensorValue; buffer: ArrayBuffer } {
  const { buffer, byteLength } = value.data;
  if (move && buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) return { value, buffer };
  const data = value.data.slice();
  return { value: { ...value, data } as TensorValue, buffer: data.buffer };
}
