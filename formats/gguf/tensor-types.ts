import { GgufError } from "./errors.js";

/**
 * Every tensor type that a GGUF file may store: [id, values per block, bytes per block].
 *
 * Q8_1 (9) and Q8_K (15) hold activations and are never stored; the ids 4, 5, 31–33 and 36–38 are
 * retired. All of those count as unknown.
 */
const TABLE = {
  F32: [0, 1, 4],
  F16: [1, 1, 2],
  Q4_0: [2, 32, 18],
  Q4_1: [3, 32, 20],
  Q5_0: [6, 32, 22],
  Q5_1: [7, 32, 24],
  Q8_0: [8, 32, 34],
  Q2_K: [10, 256, 84],
  Q3_K: [11, 256, 110],
  Q4_K: [12, 256, 144],
  Q5_K: [13, 256, 176],
  Q6_K: [14, 256, 210],
  IQ2_XXS: [16, 256, 66],
  IQ2_XS: [17, 256, 74],
  IQ3_XXS: [18, 256, 98],
  IQ1_S: [19, 256, 50],
  IQ4_NL: [20, 32, 18],
  IQ3_S: [21, 256, 110],
  IQ2_S: [22, 256, 82],
  IQ4_XS: [23, 256, 136],
  I8: [24, 1, 1],
  I16: [25, 1, 2],
  I32: [26, 1, 4],
  I64: [27, 1, 8],
  F64: [28, 1, 8],
  IQ1_M: [29, 256, 56],
  BF16: [30, 1, 2],
  TQ1_0: [34, 256, 54],
  TQ2_0: [35, 256, 66],
  MXFP4: [39, 32, 17],
  NVFP4: [40, 64, 36],
  Q1_0: [41, 128, 18],
  Q2_0: [42, 64, 18],
} as const satisfies Record<string, readonly [number, number, number]>;

export interface TensorType {
  /** ggml's name, such as `Q4_K`. */
  readonly name: string;
  /** Id in the file. */
  readonly id: number;
  readonly blockValues: number;
  readonly blockBytes: number;
}

/** All tensor types in the order of their ids. */
export const TENSOR_TYPES: readonly TensorType[] = Object.entries(TABLE).map(
  ([name, [id, blockValues, blockBytes]]) => ({ name, id, blockValues, blockBytes }),
);

const byName = new Map(TENSOR_TYPES.map((type) => [type.name, type]));
const byId = new Map(TENSOR_TYPES.map((type) => [type.id, type]));

/** The tensor type with this id, or undefined when the id is unknown, retired or for activations only. */
export function tensorTypeById(id: number): TensorType | undefined {
  return byId.get(id);
}

/**
 * The tensor type with this name.
 * @throws GgufError when there is none
 */
export function tensorType(name: string): TensorType {
  const type = byName.get(name);
  if (!type) {
    throw new GgufError("gguf-tensor-type", `Tensor type ${name} is not one that a GGUF file can store.`);
  }
  return type;
}

/**
 * Bytes of a tensor's data, without padding: ne0 / block values · block bytes · ne1 · ne2 · ne3.
 *
 * @param type ggml's type name
 * @param ne dimensions, fastest first; each at least 1
 * @param what names the tensor in messages
 * @throws GgufError when the type is unknown, a dimension is not a positive integer, a row is not a
 *   whole number of blocks, or the size is beyond 2^53
 */
export function tensorBytes(type: string, ne: readonly number[], what = "A tensor"): number {
  const { blockValues, blockBytes } = tensorType(type);
  const bad = (problem: string): GgufError =>
    new GgufError("gguf-tensor-shape", `${what} of type ${type} and shape [${ne.join(", ")}] ${problem}.`);
  const [row = 0] = ne;
  if (!ne.every((n) => Number.isSafeInteger(n) && n > 0) || ne.length === 0) {
    throw bad("has a dimension that is not a positive integer");
  }
  if (row % blockValues !== 0) throw bad(`has rows that are not a multiple of ${blockValues} values`);
  const values = ne.reduce((product, n) => product * n, 1);
  const bytes = (values / blockValues) * blockBytes;
  // A product that rounded is at least 2^53, so this also catches an overflow on the way.
  if (!Number.isSafeInteger(values) || !Number.isSafeInteger(bytes)) throw bad("is larger than 2^53 bytes");
  return bytes;
}
