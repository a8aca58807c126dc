import { storeQ1_0 } from "../encode/ternary.js";
import { blockWeights } from "./importance.js";

const { abs, fround } = Math;

/** Q1_0 of whole blocks: 128 values share a magnitude, and the weighted mean is the best. Sums are float32. */
export function searchQ1_0(row: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  for (let o = 0, at = 0; o < row.length; o += 128, at += 18) {
    const block = row.subarray(o, o + 128);
    const weights = blockWeights(128, importance?.subarray(o, o + 128));
    let sum = 0;
    let total = 0;
    for (const [j, x] of block.entries()) {
      sum = fround(sum + abs(fround(weights[j]! * x)));
      total = fround(total + weights[j]!);
    }
    storeQ1_0(block, Math.min(65504, fround(sum / total)), out, at);
  }
}
