import { BlockError } from "../errors.js";
import { bfloatsToFloats, halvesToFloats } from "../floats.js";
import { blockType } from "../table.js";
import type { BlockTypeName, Decoder } from "../types.js";
import type { BlockDecoder } from "./block.js";
import * as codebook from "./codebook.js";
import * as k from "./k.js";
import * as lattice from "./lattice.js";
import * as legacy from "./legacy.js";
import * as ternary from "./ternary.js";

function copyFloats(bytes: Uint8Array, out: Float32Array): void {
  new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
}

const plain: ReadonlyMap<BlockTypeName, Decoder> = new Map([
  ["F32", copyFloats],
  ["F16", halvesToFloats],
  ["BF16", bfloatsToFloats],
]);

const packed: ReadonlyMap<BlockTypeName, BlockDecoder> = new Map([
  ["Q4_0", legacy.q4_0],
  ["Q4_1", legacy.q4_1],
  ["Q5_0", legacy.q5_0],
  ["Q5_1", legacy.q5_1],
  ["Q8_0", legacy.q8_0],
  ["Q1_0", legacy.q1_0],
  ["Q2_0", legacy.q2_0],
  ["Q2_K", k.q2_k],
  ["Q3_K", k.q3_k],
  ["Q4_K", k.q4_k],
  ["Q5_K", k.q5_k],
  ["Q6_K", k.q6_k],
  ["IQ1_S", lattice.iq1_s],
  ["IQ1_M", lattice.iq1_m],
  ["IQ2_XXS", lattice.iq2_xxs],
  ["IQ2_XS", lattice.iq2_xs],
  ["IQ2_S", lattice.iq2_s],
  ["IQ3_XXS", lattice.iq3_xxs],
  ["IQ3_S", lattice.iq3_s],
  ["IQ4_NL", codebook.iq4_nl],
  ["IQ4_XS", codebook.iq4_xs],
  ["MXFP4", codebook.mxfp4],
  ["NVFP4", codebook.nvfp4],
  ["TQ1_0", ternary.tq1_0],
  ["TQ2_0", ternary.tq2_0],
]);

/** Types that `decode` can read: every stored type but the integers and F64. */
export const decodable: readonly BlockTypeName[] = [...plain.keys(), ...packed.keys()];

/**
 * Unpacks blocks into float32 values, bit for bit as ggml does.
 *
 * @param bytes exactly the blocks of `out.length` values
 * @throws BlockError `not-decodable` for integers and F64; `wrong-length` when bytes and values do not match
 */
export function decode(name: BlockTypeName, bytes: Uint8Array, out: Float32Array): void {
  const type = blockType(name);
  if (out.length % type.values !== 0 || bytes.length !== (out.length / type.values) * type.bytes) {
    throw new BlockError(
      "wrong-length",
      `${bytes.length} bytes of ${name} do not hold ${out.length} values: a block is ${type.bytes} bytes for ${type.values} values`,
    );
  }
  const whole = plain.get(name);
  if (whole !== undefined) {
    whole(bytes, out);
    return;
  }
  const block = packed.get(name);
  if (block === undefined) {
    throw new BlockError("not-decodable", `values of type ${name} cannot be read as weights`);
  }
  for (let at = 0, o = 0; at < bytes.length; at += type.bytes, o += type.values) block(bytes, at, out, o);
}
