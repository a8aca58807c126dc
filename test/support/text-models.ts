import type { Spread } from "./checkpoints.js";
import { randomFrom } from "./weights.js";

/** Tokens of nano-e and of random checkpoints. */
const VOCABULARY = 1024;

/** Root of the mean square of the differences, in units of that of the expected values. */
export function relativeError(values: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (values.length !== expected.length || values.length === 0) {
    throw new Error(`There are ${values.length} values, expected ${expected.length}.`);
  }
  let error = 0;
  let total = 0;
  for (let index = 0; index < expected.length; index++) {
    error += (values[index]! - expected[index]!) ** 2;
    total += expected[index]! ** 2;
  }
  return Math.sqrt(error / total);
}

/** BOS and tokens that are no control tokens. */
export function randomTokens(count: number, seed: number): Int32Array {
  const random = randomFrom(seed);
  return Int32Array.from({ length: count }, (_, index) =>
    index === 0 ? 2 : 300 + Math.floor(random() * (VOCABULARY - 300)),
  );
}

/**
 * Values that lie as in trained models where it matters: keys small, so that a token attends to many others
 * and not to one by a hair's breadth; scales far from one, so that leaving one out shows.
 */
export function trainedSpread(name: string): Spread | undefined {
  if (name.endsWith("k_norm.weight")) return { mean: 0.1, deviation: 0.02 };
  if (name.endsWith("router.proj.weight")) return { mean: 0, deviation: 0.5 };
  if (/norm(_\d)?\.weight$|scale$|scalar$/.test(name)) return { mean: 1, deviation: 0.25 };
  return undefined;
}
