import { BlockError } from "../errors.js";
import { floatsToBfloats, floatsToHalves } from "../floats.js";
import { rowBytes } from "../table.js";
import { searchers } from "../search/search.js";
import type { BlockTypeName, Encoder, Method } from "../types.js";
import { encodeMXFP4, encodeNVFP4 } from "./fp4.js";
import { encodeQ4_0, encodeQ4_1, encodeQ5_0, encodeQ5_1 } from "./legacy.js";
import { encodeQ2_K, encodeQ4_K, encodeQ5_K } from "./k-affine.js";
import { encodeIQ4_NL, encodeIQ4_XS } from "./codebook.js";
import { encodeQ3_K } from "./q3_k.js";
import { encodeIQ2_S, encodeIQ2_XS, encodeIQ2_XXS } from "./lattice/iq2.js";
import { encodeIQ3_S, encodeIQ3_XXS } from "./lattice/iq3.js";
import { encodeQ6_K } from "./q6_k.js";
import { encodeQ8_0 } from "./q8_0.js";
import { encodeQ1_0, encodeQ2_0, encodeTQ1_0, encodeTQ2_0 } from "./ternary.js";
import { encodeIQ1_M, encodeIQ1_S } from "./ternary-lattice.js";

function copyFloats(values: Float32Array, out: Uint8Array): void {
  out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

const encoders: ReadonlyMap<BlockTypeName, Encoder> = new Map([
  ["F32", copyFloats],
  ["F16", floatsToHalves],
  ["BF16", floatsToBfloats],
  ["Q8_0", encodeQ8_0],
  ["Q4_0", encodeQ4_0],
  ["Q4_1", encodeQ4_1],
  ["Q5_0", encodeQ5_0],
  ["Q5_1", encodeQ5_1],
  ["Q2_K", encodeQ2_K],
  ["Q4_K", encodeQ4_K],
  ["Q5_K", encodeQ5_K],
  ["Q6_K", encodeQ6_K],
  ["TQ1_0", encodeTQ1_0],
  ["TQ2_0", encodeTQ2_0],
  ["MXFP4", encodeMXFP4],
  ["NVFP4", encodeNVFP4],
  ["Q1_0", encodeQ1_0],
  ["Q2_0", encodeQ2_0],
  ["Q3_K", encodeQ3_K],
  ["IQ4_NL", encodeIQ4_NL],
  ["IQ4_XS", encodeIQ4_XS],
  ["IQ1_S", encodeIQ1_S],
  ["IQ1_M", encodeIQ1_M],
  ["IQ2_XXS", encodeIQ2_XXS],
  ["IQ2_XS", encodeIQ2_XS],
  ["IQ2_S", encodeIQ2_S],
  ["IQ3_XXS", encodeIQ3_XXS],
  ["IQ3_S", encodeIQ3_S],
]);

/** Types that `encode` and the kernels can write. */
export const encodable: readonly BlockTypeName[] = [...encoders.keys()];

/**
 * Packs finite values with ggml's own method, byte for byte, or with our search. This is the plain statement of
 * each method that the kernels are held to; it is some ten times slower than they are.
 *
 * A scale beyond the range of a half becomes infinite, as in ggml; the kernels refuse such blocks.
 *
 * @param values whole blocks; whole rows when there is an importance
 * @param out exactly the bytes of those blocks
 * @param importance weight of each column of a row, finite and not negative
 * @param method types that know no search are written with ggml's
 * @throws BlockError `not-encodable`, `uneven-row` or `wrong-length`
 */
export function encode(
  name: BlockTypeName,
  values: Float32Array,
  out: Uint8Array,
  importance?: Float32Array,
  method: Method = "ggml",
): void {
  const encoder = (method === "search" ? searchers.get(name) : undefined) ?? encoders.get(name);
  if (encoder === undefined) {
    throw new BlockError("not-encodable", `values cannot be written as ${name}`, {
      advice: `Types that can be written: ${encodable.join(", ")}.`,
    });
  }
  const bytes = rowBytes(name, values.length);
  if (out.length !== bytes) {
    throw new BlockError(
      "wrong-length",
      `${values.length} values of ${name} take ${bytes} bytes, not ${out.length}`,
    );
  }
  if (importance === undefined) return encoder(values, out);
  if (values.length % importance.length !== 0) {
    throw new BlockError(
      "uneven-row",
      `${values.length} values are not whole rows of ${importance.length}, for which there is an importance`,
    );
  }
  const row = importance.length;
  const rowLength = rowBytes(name, row);
  for (let first = 0, at = 0; first < values.length; first += row, at += rowLength) {
    encoder(values.subarray(first, first + row), out.subarray(at, at + rowLength), importance);
  }
}
