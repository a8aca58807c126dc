import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import type { Engine } from "../../src/engines/types.js";
import type { Measurement } from "../../src/verify/measurement.js";
import type { Comparison } from "../../src/verify/statistics.js";
import { verifyModel } from "../../src/verify/verify.js";
import { convertFixture } from "../support/convert.js";

/** What llama.cpp v0.5.0's own tools found: see fixtures/reference/figures.txt. */
interface Figure {
  readonly perplexity: number;
  readonly divergence: number;
  readonly topAgreement: number;
  readonly tokens: number;
}

const windows = 60;
const context = 512;
/** The slowest part by far, on a machine that is busy with other tests. */
const patience = 600_000;

let figures: ReadonlyMap<string, Figure>;
let engine: Engine;

beforeAll(async () => {
  const lines = (await readFile(join(packageRoot, "fixtures", "reference", "figures.txt"), "utf8")).split(
    "\n",
  );
  figures = new Map(
    lines.flatMap((line): [string, Figure][] => {
      const name = /^\S+(?: plain)?/.exec(line)?.[0];
      const value = (key: string): number =>
        Number(new RegExp(`\\s${key}\\s+([\\d.]+)`).exec(line)?.[1] ?? 0);
      return name === undefined || line.includes("refused")
        ? []
        : [
            [
              name,
              {
                perplexity: value("ppl"),
                divergence: value("kld"),
                topAgreement: value("top1"),
                tokens: value("tokens"),
              },
            ],
          ];
    }),
  );
  engine = await startLlamaEngine();
});
afterAll(() => engine.close());

async function measured(type: "BF16" | "Q8_0" | "Q4_0"): Promise<Measurement> {
  const result = await verifyModel({
    engine,
    candidate: await convertFixture(type),
    reference: await convertFixture("F32"),
    text: join(packageRoot, "fixtures", "text", "eval.txt"),
    mode: "raw",
    context,
    chunks: windows,
    // Two threads that wait for each other lose more than they gain where other tests run beside them.
    threads: 1,
  });
  return result.windows;
}

describe("figures of the miniature checkpoint", () => {
  it.each([
    ["BF16", "bf16"],
    ["Q8_0", "Q8_0 plain"],
    ["Q4_0", "Q4_0 plain"],
  ] as const)(
    "in F32 and %s are those of llama.cpp's own tools",
    { timeout: patience },
    async (type, name) => {
      const figure = figures.get(name) as Figure;
      const found = await measured(type);
      const { referencePerplexity, divergence, topAgreement } = found.comparison as Comparison;
      expect(found.windows).toBe(windows);
      expect(found.scored).toBe(figure.tokens);
      expect(
        Math.abs(referencePerplexity.value / (figures.get("f32") as Figure).perplexity - 1),
      ).toBeLessThan(0.002);
      expect(Math.abs(found.perplexity.value / figure.perplexity - 1)).toBeLessThan(0.002);
      // Six decimals are all that figures.txt has: BF16's 0.000004 is one digit, and no ratio can be asked of it.
      expect(divergence.value).toBeGreaterThan(type === "BF16" ? 0 : 0.95 * figure.divergence);
      expect(divergence.value).toBeLessThan(type === "BF16" ? 2e-5 : 1.05 * figure.divergence);
      expect(Math.abs(topAgreement.value - figure.topAgreement)).toBeLessThan(0.005);
    },
  );
});
