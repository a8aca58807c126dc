import type { BlockDecoder } from "../decode/block.js";
import * as decoders from "../decode/lattice.js";
import { encodeIQ1_M, encodeIQ1_S } from "../encode/ternary-lattice.js";
import type { Encoder } from "../types.js";
import { latticeSearch } from "./lattice.js";
import { iq1_m, iq1_s, type TernaryKind } from "./ternary-kinds.js";
import { makeTernaryPlacer } from "./ternary-place.js";

/**
 * Σ importance · (value − stored)² of a block. It is taken in float64, so that what seems to lose less than ggml's
 * block does.
 */
function lossOf(decode: BlockDecoder, block: Uint8Array, values: Float32Array, importance?: Float32Array) {
  const stored = new Float32Array(256);
  decode(block, 0, stored, 0);
  const sums = new Float64Array(4);
  for (const [j, value] of values.entries()) {
    const off = value - stored[j]!;
    sums[j & 3]! += (importance?.[j] ?? 1) * off * off;
  }
  return sums[0]! + sums[2]! + (sums[1]! + sums[3]!);
}

/** Searches each block, and keeps ggml's where that loses less. */
function ternarySearch(kind: TernaryKind, decode: BlockDecoder, encode: Encoder): Encoder {
  const search = latticeSearch(kind, makeTernaryPlacer);
  const found = new Uint8Array(kind.bytes);
  return (values, out, importance) => {
    encode(values, out, importance);
    for (let o = 0, at = 0; o < values.length; o += 256, at += kind.bytes) {
      const own = values.subarray(o, o + 256);
      const weights = importance?.subarray(o, o + 256);
      search(own, found, weights);
      const theirs = out.subarray(at, at + kind.bytes);
      if (lossOf(decode, theirs, own, weights) < lossOf(decode, found, own, weights)) continue;
      theirs.set(found);
    }
  };
}

export const searchIQ1_S = ternarySearch(iq1_s, decoders.iq1_s, encodeIQ1_S);
export const searchIQ1_M = ternarySearch(iq1_m, decoders.iq1_m, encodeIQ1_M);
