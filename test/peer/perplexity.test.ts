import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import type { Comparison, Estimate } from "../../src/verify/statistics.js";
import { verifyModel, type VerifyResult } from "../../src/verify/verify.js";
import { convertFixture, scratchFolder } from "../support/convert.js";
import { peerTool, run } from "./tools.js";

const text = join(packageRoot, "fixtures", "text", "eval.txt");
const chunks = 12;

let ours: VerifyResult;
let theirs: string;
let plain: string;

beforeAll(async () => {
  const [reference, candidate] = [await convertFixture("F32"), await convertFixture("Q4_0")];
  const perplexity = await peerTool("llama-perplexity");
  const stored = join(scratchFolder(), "logits");
  const common = ["-t", "1", "-c", "512", "--chunks", String(chunks)];
  plain = await run(perplexity, ["-m", reference, "-f", text, ...common, "--kl-divergence-base", stored]);
  theirs = await run(perplexity, [
    "-m",
    candidate,
    ...common,
    "--kl-divergence-base",
    stored,
    "--kl-divergence",
  ]);
  const engine = await startLlamaEngine();
  try {
    ours = await verifyModel({ engine, candidate, reference, text, mode: "raw", chunks, threads: 1 });
  } finally {
    await engine.close();
  }
}, 600_000);

/** Value and error that the tool printed under a label; NaN for what is not there. */
function printed(label: string): number[] {
  const row = theirs.split("\n").find((row) => row.replaceAll(/\s+/g, " ").trim().startsWith(label));
  const numbers = row?.slice(row.lastIndexOf(":")).match(/-?\d+\.\d+/g) ?? [];
  return [Number(numbers[0]), Number(numbers[1])];
}

const value = (estimate: Estimate, factor = 1): number[] => [
  factor * estimate.value,
  factor * estimate.error,
];

describe("llama-perplexity", () => {
  it("finds the perplexity that we find", () => {
    const [, perplexity, error] = /PPL = ([\d.]+) \+\/- ([\d.]+)/.exec(plain) ?? [];
    const { referencePerplexity } = ours.windows.comparison as Comparison;
    expect(Math.abs(Number(perplexity) - referencePerplexity.value)).toBeLessThan(5e-4);
    expect(Math.abs(Number(error) - referencePerplexity.error)).toBeLessThan(5e-4);
  });

  // It stores the reference's log-probabilities in 16 bits and adds in single precision; what it calls a
  // percentage has three decimals, everything else six.
  it.each<[string, number, (c: Comparison) => number[]]>([
    ["Mean PPL(Q)", 5e-4, () => value(ours.windows.perplexity)],
    ["Mean PPL(base)", 5e-4, (c) => value(c.referencePerplexity)],
    ["Cor(ln(PPL(Q)), ln(PPL(base)))", 1e-2, (c) => [100 * (c.correlation ?? 0)]],
    ["Mean ln(PPL(Q)/PPL(base))", 3e-5, (c) => value(c.logRatio)],
    ["Mean PPL(Q)/PPL(base)", 3e-5, (c) => value(c.ratio)],
    ["Mean PPL(Q)-PPL(base)", 5e-4, (c) => value(c.difference)],
    ["Mean KLD", 1e-5, (c) => value(c.divergence)],
    ["Maximum KLD", 1e-4, (c) => [c.divergence.max]],
    ["99.9% KLD", 1e-4, (c) => [c.divergence.p99_9]],
    ["99.0% KLD", 5e-5, (c) => [c.divergence.p99]],
    ["95.0% KLD", 5e-5, (c) => [c.divergence.p95]],
    ["90.0% KLD", 3e-5, (c) => [c.divergence.p90]],
    ["Median KLD", 3e-5, (c) => [c.divergence.median]],
    ["10.0% KLD", 3e-5, (c) => [c.divergence.p10]],
    ["5.0% KLD", 3e-5, (c) => [c.divergence.p5]],
    ["1.0% KLD", 3e-5, (c) => [c.divergence.p1]],
    ["Mean Δp", 3e-3, (c) => value(c.probabilityChange, 100)],
    ["Maximum Δp", 3e-2, (c) => [100 * c.probabilityChange.max]],
    ["99.9% Δp", 3e-2, (c) => [100 * c.probabilityChange.p99_9]],
    ["99.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p99]],
    ["95.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p95]],
    ["90.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p90]],
    ["Median Δp", 3e-3, (c) => [100 * c.probabilityChange.median]],
    ["10.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p10]],
    ["5.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p5]],
    ["1.0% Δp", 1e-2, (c) => [100 * c.probabilityChange.p1]],
    ["0.1% Δp", 3e-2, (c) => [100 * c.probabilityChange.p0_1]],
    ["Minimum Δp", 3e-2, (c) => [100 * c.probabilityChange.min]],
    ["RMS Δp", 3e-3, (c) => value(c.probabilityChange.rms, 100)],
    ["Same top p", 0.1, (c) => value(c.topAgreement, 100)],
  ])("prints for %s what we find, to %d", (label, tolerance, pick) => {
    const found = printed(label);
    const distances = pick(ours.windows.comparison as Comparison).map((expected, i) =>
      Math.abs((found[i] ?? Number.NaN) - expected),
    );
    expect(Math.max(...distances)).toBeLessThan(tolerance);
  });
});
