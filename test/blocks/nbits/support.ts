import type { NBitsTensors, NBitsType } from "../../../src/blocks/nbits/types.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";

/** All types: bits, blocks, with and without zero points. */
export const types: readonly NBitsType[] = ([2, 4, 8] as const).flatMap((bits) =>
  [16, 32, 64, 128, 256].flatMap((block) => [false, true].map((zeroPoints) => ({ bits, block, zeroPoints }))),
);

export function nameOf({ bits, block, zeroPoints }: NBitsType): string {
  return `${bits} bits in blocks of ${block} ${zeroPoints ? "with" : "without"} zero points`;
}

/** The tensors that a type has, in the order of the kernels. */
export function partsOf({ zeroPoints }: NBitsType, tensors: NBitsTensors): Uint8Array[] {
  return [tensors.codes, tensors.scales, ...(zeroPoints ? [tensors.zeroPoints] : [])];
}

/** The values that a type stores in the place of others. */
export function stored(
  type: NBitsType,
  row: number,
  values: Float32Array,
  ...how: [importance?: Float32Array, method?: "search" | "nearest"]
): Float32Array {
  const out = new Float32Array(values.length);
  decodeNBits(type, row, encodeNBits(type, row, values, ...how), out);
  return out;
}

/** Σ weight · (value − stored)² in double precision. */
export function lossOf(values: Float32Array, kept: Float32Array, weights?: Float32Array): number {
  let loss = 0;
  for (const [j, value] of values.entries()) {
    loss += (weights?.[j % weights.length] ?? 1) * (value - kept[j]!) ** 2;
  }
  return loss;
}
