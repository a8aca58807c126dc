import type { Gemma4Config } from "../../../src/gemma4/types.js";
import {
  geluTanh,
  linear,
  type Matrix,
  multiply,
  reshape,
  rmsNorm,
  rowOf,
  scale,
  show,
  softmax,
  type Values,
  zeros,
} from "./math.js";

/**
 * (gelu(x · gateᵀ) ⊙ (x · upᵀ)) · downᵀ
 *
 * @param x [rows, hidden]
 * @param gate [width, hidden], as is `up`
 * @param down [hidden, width]
 */
export function mlp(x: Matrix, gate: Values, up: Values, down: Values): Matrix {
  return linear(gated(x, gate, up), down);
}

function gated(x: Matrix, gate: Values, up: Values): Matrix {
  return multiply(geluTanh(linear(x, gate)), linear(x, up));
}

interface Choice {
  readonly expert: number;
  readonly weight: number;
}

/**
 * Experts of every token. Probabilities are over all experts; those of the chosen ones are brought to a sum
 * of one, and only then multiplied by the expert's own scale.
 *
 * @param r [T, hidden], the residual stream itself: the router has a norm of its own
 * @returns [T] lists of the experts that the model uses at a time
 */
function route(config: Gemma4Config, weight: (name: string) => Values, used: number, r: Matrix): Choice[][] {
  const perExpert = weight("router.per_expert_scale");
  const scales = Float64Array.from(weight("router.scale"), (value) => value / Math.sqrt(config.hidden));
  const logits = linear(rmsNorm(r, scales, config.rmsEpsilon), weight("router.proj.weight"));
  return Array.from({ length: r.rows }, (_, token) => {
    const probabilities = softmax(rowOf(logits, token));
    const chosen = [...probabilities.keys()]
      .toSorted((a, b) => probabilities[b]! - probabilities[a]!)
      .slice(0, used);
    const sum = chosen.reduce((total, expert) => total + probabilities[expert]!, 0);
    return chosen.map((expert) => ({
      expert,
      weight: (probabilities[expert]! / sum) * perExpert[expert]!,
    }));
  });
}

/**
 * Sum of the chosen experts' outputs, each times its weight.
 *
 * @param input [T, hidden], what the experts read
 * @param r [T, hidden], what the router reads
 * @returns [T, hidden]
 */
export function mixture(
  config: Gemma4Config,
  weight: (name: string) => Values,
  input: Matrix,
  r: Matrix,
): Matrix {
  const { used, intermediate } = config.experts!;
  const gateUp = weight("experts.gate_up_proj");
  const down = weight("experts.down_proj");
  // Every expert has a matrix of this size for each of gate, up and down; its gate comes before its up.
  const size = intermediate * config.hidden;
  const output = zeros(input.rows, config.hidden);
  for (const [token, choices] of route(config, weight, used, r).entries()) {
    const x = reshape({ ...input, values: rowOf(input, token) }, config.hidden);
    const sum = rowOf(output, token);
    for (const { expert, weight } of choices) {
      const gate = gateUp.subarray(2 * expert * size, (2 * expert + 1) * size);
      const up = gateUp.subarray((2 * expert + 1) * size, (2 * expert + 2) * size);
      const inner = gated(x, gate, up);
      show(gateUp, x, expert);
      show(down, inner, expert);
      const y = scale(linear(inner, down.subarray(expert * size, (expert + 1) * size)), weight);
      for (const [i, value] of y.values.entries()) sum[i]! += value;
    }
  }
  return output;
}
