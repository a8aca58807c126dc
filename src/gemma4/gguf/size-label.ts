import type { Weight } from "../types.js";
import { parameterCount } from "../weights.js";

/** Numbers of values of the tensors of a file, as llama.cpp's converter counts them. */
export interface ParameterTotals {
  readonly total: number;
  /** Everything outside the experts. */
  readonly shared: number;
  /** One expert. */
  readonly expert: number;
  readonly expertCount: number;
}

/**
 * Counts the values of a file's tensors.
 * @param generated number of values of tensors that are not weights (`rope_freqs.weight`)
 */
export function countParameters(weights: readonly Weight[], generated: number): ParameterTotals {
  let total = generated;
  let shared = generated;
  let expert = 0;
  let expertCount = 0;
  for (const weight of weights) {
    const count = parameterCount(weight);
    total += count;
    if (weight.role === "experts_gate_up" || weight.role === "experts_down") {
      expertCount = weight.shape[0] ?? 0;
      expert += count / expertCount;
    } else {
      shared += count;
    }
  }
  return { total, shared, expert, expertCount };
}

/** Rounds to `digits` decimals with ties to even, as Python formats numbers. */
function fixed(value: number, digits: number): string {
  // toFixed is exact too, but takes ties up. Only its digits tell a tie: a product would be rounded.
  const exact = value.toFixed(60);
  const tail = exact.slice(exact.indexOf(".") + 1 + digits);
  if (!/^50*$/.test(tail)) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below + (below % 2)) / 10 ** digits).toFixed(digits);
}

/** A count for people, with at least two digits: `4.6B`, `12B`, `270M`. */
function rounded(count: number): string {
  const [factor, suffix] =
    count > 1e12
      ? ([1e-12, "T"] as const)
      : count > 1e9
        ? ([1e-9, "B"] as const)
        : count > 1e6
          ? ([1e-6, "M"] as const)
          : ([1e-3, "K"] as const);
  const scaled = count * factor;
  const digits = fixed(scaled, 0).replace(/^0+/, "").length;
  return fixed(scaled, Math.max(2 - digits, 0)) + suffix;
}

/** `general.size_label`: the rounded number of parameters, or `128x2.6B` for a mixture of experts. */
export function sizeLabel(totals: ParameterTotals): string {
  if (totals.expertCount > 0) return `${totals.expertCount}x${rounded(totals.shared + totals.expert)}`;
  return rounded(totals.total);
}
