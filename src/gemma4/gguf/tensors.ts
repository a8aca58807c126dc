import type { Gemma4Config, Weight } from "../types.js";

/** Output types of llama.cpp's converter for the tensors that it does not keep in F32. */
export type ConverterType = "F32" | "F16" | "BF16" | "Q8_0";

/** `general.file_type` of a file of each of the converter's output types. */
export const CONVERTER_FILE_TYPES: Readonly<Record<ConverterType, number>> = {
  F32: 0,
  F16: 1,
  Q8_0: 7,
  BF16: 32,
};

/** Values in a block of Q8_0. */
const Q8_0_BLOCK = 32;

/** Any angle divided by this is 0: the pair does not turn. */
const NO_ROTATION = 1e30;

/** Dimensions in ggml's order, fastest first. */
export function ggmlShape(shape: readonly number[]): number[] {
  return shape.toReversed();
}

/** True for weights that a GGUF file holds in F32 whatever its type: vectors (norms, scales) and the router. */
export function keptF32(weight: Weight): boolean {
  return weight.shape.length <= 1 || weight.role === "router";
}

/** Type that llama.cpp's converter gives a weight; F16 where a row is no whole number of blocks. */
export function convertedType(weight: Weight, type: ConverterType): ConverterType {
  if (keptF32(weight)) return "F32";
  if (type === "Q8_0" && (weight.shape.at(-1) ?? 0) % Q8_0_BLOCK !== 0) return "F16";
  return type;
}

/** A tensor that no checkpoint holds: it is made from the config. */
export interface GeneratedTensor {
  readonly name: string;
  readonly type: "F32";
  readonly ne: readonly number[];
  readonly data: Uint8Array;
}

/**
 * `rope_freqs.weight`, the first tensor of a file: what ggml divides the rotation angles of full layers
 * by. The first `partial_rotary_factor` of the pairs turn, the others do not.
 */
export function ropeFrequencies(config: Gemma4Config): GeneratedTensor {
  const pairs = config.globalHeadDim / 2;
  const turning = Math.trunc((config.globalHeadDim * config.partialRotaryFactor) / 2);
  const data = new Uint8Array(pairs * 4);
  const view = new DataView(data.buffer);
  for (let pair = 0; pair < pairs; pair++) view.setFloat32(pair * 4, pair < turning ? 1 : NO_ROTATION, true);
  return { name: "rope_freqs.weight", type: "F32", ne: [pairs], data };
}
