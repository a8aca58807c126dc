import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import type { Engine } from "../../src/engines/types.js";
import { verifyModel, type VerifyResult } from "../../src/verify/verify.js";
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
        Number(new RegExp(`\\b${key}\\s+([\\d.]+)`).exec(line)?.[1] ?? 0);
      return name === undefined || line.includes("refused")
        ? []
        : [
            [
              name,
              {
                perplexity: value(" ppl"),
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

async function measured(type: "F32" | "BF16" | "Q8_0" | "Q4_0"): Promise<VerifyResult> {
  return verifyModel({
    engine,
    candidate: await convertFixture(type),
    reference: type === "F32" ? null : await convertFixture("F32"),
    text: join(packageRoot, "fixtures", "text", "eval.txt"),
    mode: "raw",
    context,
    chunks: windows,
    threads: 2,
  });
}

describe("figures of the miniature checkpoint", () => {
  it.each([
    ["F32", "f32"],
    ["BF16", "bf16"],
    ["Q8_0", "Q8_0 plain"],
    ["Q4_0", "Q4_0 plain"],
  ] as const)("in %s are those of llama.cpp's own tools", { timeout: patience }, async (type, name) => {
    const figure = figures.get(name) as Figure;
    const { windows: found } = await measured(type);
    expect(found.windows).toBe(windows);
    expect(found.scored).toBe(figure.tokens);
    expect(Math.abs(found.perplexity.value / figure.perplexity - 1)).toBeLessThan(0.002);
    if (type === "F32") return;
    const { divergence, topAgreement } = found.comparison as NonNullable<typeof found.comparison>;
    // Six decimals are all that figures.txt has: BF16's 0.000004 is one digit, and no ratio can be asked of it.
    const low = type === "BF16" ? 0 : 0.95 * figure.divergence;
    expect(divergence.value).toBeGreaterThan(low);
    expect(divergence.value).toBeLessThan(type === "BF16" ? 2e-5 : 1.05 * figure.divergence);
    expect(Math.abs(topAgreement.value - figure.topAgreement)).toBeLessThan(0.005);
  });
});
