// Q1_0: 128 values share a magnitude, and the weighted mean is the best.

import { halves } from "../half";
import { q1_0, storeQ1_0 } from "../legacy/signs";
import { lane0, lane1, lane2, lane3, PRODUCTS, turnBlocks, turned, WEIGHTS } from "./lanes";

export function searchQ1_0(x: usize, weights: usize, output: usize, values: i32): void {
  if (weights === 0) return q1_0(x, output, values);
  const importance = weights - x;
  for (let blocks = values / 128; blocks > 0; blocks -= 4) {
    turnBlocks(x, 128, blocks, importance, true);
    let sum = i32x4.splat(0);
    let total = i32x4.splat(0);
    for (let at = turned; at < turned + 16 * 128; at += 16) {
      sum = f32x4.add(sum, f32x4.abs(v128.load(at, PRODUCTS)));
      total = f32x4.add(total, v128.load(at, WEIGHTS));
    }
    const means = halves(f32x4.pmin(f32x4.div(sum, total), f32x4.splat(65504)));
    storeQ1_0(lane0, i32x4.extract_lane(means, 0), output);
    if (blocks > 1) storeQ1_0(lane1, i32x4.extract_lane(means, 1), output + 18);
    if (blocks > 2) storeQ1_0(lane2, i32x4.extract_lane(means, 2), output + 36);
    if (blocks > 3) storeQ1_0(lane3, i32x4.extract_lane(means, 3), output + 54);
    x += 4 * 4 * 128;
    output += 4 * 18;
  }
}
