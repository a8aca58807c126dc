import { decode } from "../../src/blocks/decode/decode.js";
import type { Kernels } from "../../src/blocks/kernels/kernels.js";
import { decodeNBits } from "../../src/blocks/nbits/decode.js";
import type { BalanceTensor } from "./types.js";

/**
 * What a matrix's rows become when they are written.
 *
 * @param values [rows, row], no more than the kernels have room for
 * @param importance [row]
 * @returns the values that the target gives back; undefined where it cannot hold them
 */
export function rounded(
  kernels: Kernels,
  { target, method }: Pick<BalanceTensor, "target" | "method">,
  row: number,
  values: Float32Array,
  importance: Float32Array | undefined,
): Float32Array | undefined {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  const out = new Float32Array(values.length);
  if (typeof target === "string") {
    const way = method === "search" ? method : "ggml";
    if (kernels.convert("F32", target, values.length, importance, way) >= 0) return undefined;
    decode(target, kernels.output, out);
    return out;
  }
  const way = method === "search" ? method : "nearest";
  const rows = values.length / row;
  if (kernels.convertNBits("F32", target, row, rows, importance, way) >= 0) return undefined;
  const [codes, scales, zeroPoints] = kernels.outputs;
  if (codes === undefined || scales === undefined) return undefined;
  const none = new Uint8Array(0);
  decodeNBits(target, row, { codes, scales, zeroPoints: zeroPoints ?? none }, out);
  return out;
}
