import { mxfp4, nvfp4 } from "./fp4";
import { weightedQ4_1, weightedQ5_1 } from "./offset";
import { q4_1, q5_0, q5_1 } from "./rounded";
import { weightedQ4_0, weightedQ5_0 } from "./scale";
import { q1_0 } from "./signs";
import { q2_0, tq1_0, tq2_0 } from "./ternary";

/**
 * Encodes Q4_0 (2, with weights), Q4_1 (3), Q5_0 (6), Q5_1 (7), TQ1_0 (34), TQ2_0 (35), MXFP4 (39), NVFP4 (40),
 * Q1_0 (41) and Q2_0 (42): see `encodeBlocks`.
 */
export function encodeLegacy(
  target: i32,
  x: usize,
  weights: usize,
  output: usize,
  values: i32,
  meanSquare: f32,
): void {
  switch (target) {
    case 2:
      return weightedQ4_0(x, weights, output, values, meanSquare);
    case 3:
      if (weights === 0) return q4_1(x, output, values);
      return weightedQ4_1(x, weights, output, values, meanSquare);
    case 6:
      if (weights === 0) return q5_0(x, output, values);
      return weightedQ5_0(x, weights, output, values, meanSquare);
    case 7:
      if (weights === 0) return q5_1(x, output, values);
      return weightedQ5_1(x, weights, output, values, meanSquare);
    case 34:
      return tq1_0(x, output, values);
    case 35:
      return tq2_0(x, output, values);
    case 39:
      return mxfp4(x, output, values);
    case 40:
      return nvfp4(x, output, values);
    case 41:
      return q1_0(x, output, values);
    case 42:
      return q2_0(x, output, values);
  }
  unreachable();
}
