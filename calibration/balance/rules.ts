import type { BalanceRule } from "./types.js";

/** 2^10: with wider spreads a checkpoint is broken, and halves in a graph end not far from there. */
const MAX_EXPONENT = 10;

/** All rules, those that change least first. */
export const RULES: readonly BalanceRule[] = ["beta-0.25", "beta-0.5", "inverse"];

/** Logarithm of a channel's scale; NaN where the channel is dead on either side. */
function scaleOf(rule: BalanceRule, input: number, weight: number): number {
  if (!(input > 0 && weight > 0)) return Number.NaN;
  if (rule === "inverse") return -Math.log2(weight);
  return (rule === "beta-0.5" ? 0.5 : 0.25) * Math.log2(input / weight);
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/**
 * Exponents that a rule gives: around 0, since a factor that all channels share changes nothing, and 0 for
 * channels that nothing comes from or nothing reads.
 *
 * @param inputs root mean square of what meets each channel
 * @param weights root mean square of each channel's columns
 */
export function exponentsBy(rule: BalanceRule, inputs: Float64Array, weights: Float64Array): Int8Array {
  const scales = Array.from(inputs, (input, channel) => scaleOf(rule, input, weights[channel] ?? 0));
  const center = middle(scales.filter((scale) => !Number.isNaN(scale)));
  return Int8Array.from(scales, (scale) =>
    Number.isNaN(scale) ? 0 : Math.max(-MAX_EXPONENT, Math.min(MAX_EXPONENT, Math.round(scale - center))),
  );
}
