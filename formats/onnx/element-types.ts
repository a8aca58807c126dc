import { OnnxError } from "./errors.js";
import { MAX_DIMENSIONS } from "./limits.js";

/**
 * Every element type of a tensor: [id, bits of one value]. The 2-bit types need opset 25, all others are in 21.
 * Values narrower than a byte are packed over the whole tensor, lowest bits first, without regard to rows.
 */
const TABLE = {
  FLOAT: [1, 32],
  UINT8: [2, 8],
  INT8: [3, 8],
  UINT16: [4, 16],
  INT16: [5, 16],
  INT32: [6, 32],
  INT64: [7, 64],
  /** Of no fixed size: 0 bits. */
  STRING: [8, 0],
  BOOL: [9, 8],
  FLOAT16: [10, 16],
  DOUBLE: [11, 64],
  UINT32: [12, 32],
  UINT64: [13, 64],
  COMPLEX64: [14, 64],
  COMPLEX128: [15, 128],
  BFLOAT16: [16, 16],
  FLOAT8E4M3FN: [17, 8],
  FLOAT8E4M3FNUZ: [18, 8],
  FLOAT8E5M2: [19, 8],
  FLOAT8E5M2FNUZ: [20, 8],
  UINT4: [21, 4],
  INT4: [22, 4],
  FLOAT4E2M1: [23, 4],
  FLOAT8E8M0: [24, 8],
  UINT2: [25, 2],
  INT2: [26, 2],
} as const satisfies Record<string, readonly [id: number, bits: number]>;

export type ElementTypeName = keyof typeof TABLE;

export interface ElementType {
  readonly name: ElementTypeName;
  /** Id in the file. */
  readonly id: number;
  /** Bits of one value; 0 for texts. */
  readonly bits: number;
}

/** All element types in the order of their ids. */
export const ELEMENT_TYPES: readonly ElementType[] = Object.entries(TABLE).map(([name, [id, bits]]) => ({
  name: name as ElementTypeName,
  id,
  bits,
}));

const byId = new Map(ELEMENT_TYPES.map((type) => [type.id, type]));

/** The element type with this id, or undefined when there is none. */
export function elementTypeById(id: number): ElementType | undefined {
  return byId.get(id);
}

/** The element type with this name. */
export function elementType(name: ElementTypeName): ElementType {
  const [id, bits] = TABLE[name];
  return { name, id, bits };
}

/**
 * Number of values of a tensor.
 *
 * @param what names the tensor in messages
 * @throws OnnxError when there are too many dimensions, one is not a whole number from 0 up, or the product passes 2^53
 */
export function elementCount(dims: readonly number[], what: string): number {
  const bad = (problem: string): OnnxError => {
    const some = dims.slice(0, 8).join(", ");
    return new OnnxError(
      "onnx-tensor-shape",
      `${what} of shape [${dims.length > 8 ? `${some}, …` : some}] ${problem}.`,
    );
  };
  if (dims.length > MAX_DIMENSIONS) {
    throw bad(`has ${dims.length} dimensions, expected at most ${MAX_DIMENSIONS}`);
  }
  let count = 1;
  for (const dim of dims) {
    if (!Number.isSafeInteger(dim) || dim < 0) {
      throw bad("has a dimension that is not a whole number from 0 up");
    }
    // Zeros are put aside, so that what is too large is refused in any order.
    count *= dim === 0 ? 1 : dim;
    if (!Number.isSafeInteger(count)) throw bad("has more than 2^53 values");
  }
  return dims.includes(0) ? 0 : count;
}

/**
 * Bytes of a tensor's data: count · bits / 8, rounded up. For texts 0.
 *
 * @param what names the tensor in messages
 * @throws OnnxError as `elementCount` does, and when the size is beyond 2^53
 */
export function tensorBytes({ bits }: ElementType, dims: readonly number[], what: string): number {
  const total = elementCount(dims, what) * bits;
  if (Number.isSafeInteger(total)) return Math.ceil(total / 8);
  throw new OnnxError(
    "onnx-tensor-shape",
    `${what} of shape [${dims.join(", ")}] is larger than 2^50 bytes.`,
  );
}
