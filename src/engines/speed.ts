import type { Speed } from "./types.js";

/** Mean and sample standard deviation, as llama-bench reports them. */
export function summarize(kind: Speed["kind"], tokens: number, samples: readonly number[]): Speed {
  const mean = samples.reduce((sum, sample) => sum + sample, 0) / samples.length;
  const squares = samples.reduce((sum, sample) => sum + (sample - mean) ** 2, 0);
  const deviation = samples.length > 1 ? Math.sqrt(squares / (samples.length - 1)) : 0;
  return { kind, tokens, samples, mean, deviation };
}
