import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import type { Method } from "../../src/blocks/types.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import type { Engine } from "../../src/engines/types.js";
import type { Measurement } from "../../src/verify/measurement.js";
import type { Comparison } from "../../src/verify/statistics.js";
import { verifyModel, type VerifyOptions } from "../../src/verify/verify.js";
import { fullCampaign } from "../support/campaign.js";
import { convertFixture } from "../support/convert.js";
import { SideBySide } from "../verify/side-by-side.js";

/** What llama.cpp v0.5.0's own tools found: see fixtures/reference/figures.txt. */
interface Figure {
  readonly perplexity: number;
  readonly divergence: number;
  readonly topAgreement: number;
  readonly tokens: number;
}

const windows = 60;
const context = 512;
/** On a machine that is busy with other tests. */
const patience = 600_000;

const lines = readFileSync(join(packageRoot, "fixtures", "reference", "figures.txt"), "utf8").split("\n");
const figures: ReadonlyMap<string, Figure> = new Map(
  lines.flatMap((line): [string, Figure][] => {
    const name = /^\S+(?: plain| imatrix)?/.exec(line)?.[0];
    const value = (key: string): number => Number(new RegExp(`\\s${key}\\s+([\\d.]+)`).exec(line)?.[1] ?? 0);
    if (name === undefined || line.includes("refused")) return [];
    return [
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
/** Five seconds each. All of them with LAPIDARY_CAMPAIGN=full. */
const few: ReadonlySet<string> = new Set(["bf16", "Q8_0 plain", "Q4_0 plain", "Q4_K_M imatrix"]);
const compared = [...figures.keys()].filter((name) => name !== "f32" && (fullCampaign || few.has(name)));
const searched = compared.filter((name) => name.endsWith(fullCampaign ? "" : " imatrix") && name !== "bf16");

/** The fixture as it is named in figures.txt, such as `Q4_K_M imatrix`. */
function fixture(name: string, method: Method): Promise<string> {
  const [mix = "", kind] = name.split(" ");
  const imatrix = kind === "imatrix" ? "fixtures/reference/imatrix.gguf" : undefined;
  return convertFixture(mix.toUpperCase(), { imatrix, method });
}

let engine: Engine;
let together: Engine;

beforeAll(async () => {
  engine = await startLlamaEngine();
  const candidates: string[] = [];
  for (const name of compared) candidates.push(await fixture(name, "ggml"));
  for (const name of searched) candidates.push(await fixture(name, "search"));
  together = new SideBySide(engine, candidates);
}, patience);
afterAll(() => engine.close());

async function measured(name: string, method: Method, on: Partial<VerifyOptions> = {}): Promise<Measurement> {
  const result = await verifyModel({
    engine: together,
    candidate: await fixture(name, method),
    reference: await convertFixture("F32"),
    text: join(packageRoot, "fixtures", "text", "eval.txt"),
    mode: "raw",
    context,
    chunks: windows,
    // Two threads that wait for each other lose more than they gain where other tests run beside them.
    threads: fullCampaign ? availableParallelism() : 1,
    ...on,
  });
  return result.windows;
}

describe("figures of the miniature checkpoint", () => {
  it.each(compared)(
    "in F32 and %s are those of llama.cpp's own tools",
    { timeout: patience },
    async (name) => {
      const figure = figures.get(name) as Figure;
      const found = await measured(name, "ggml");
      const { referencePerplexity, divergence, topAgreement } = found.comparison as Comparison;
      expect(found.windows).toBe(windows);
      expect(found.scored).toBe(figure.tokens);
      expect(
        Math.abs(referencePerplexity.value / (figures.get("f32") as Figure).perplexity - 1),
      ).toBeLessThan(0.002);
      // The figures' windows begin with another token; a model that fell apart feels it more.
      const tolerance = figure.divergence < 1 ? 0.002 : 0.005;
      expect(Math.abs(found.perplexity.value / figure.perplexity - 1)).toBeLessThan(tolerance);
      // Six decimals are all that figures.txt has: BF16's 0.000004 is one digit, and no ratio can be asked of it.
      expect(divergence.value).toBeGreaterThan(name === "bf16" ? 0 : 0.95 * figure.divergence);
      expect(divergence.value).toBeLessThan(name === "bf16" ? 2e-5 : 1.05 * figure.divergence);
      expect(Math.abs(topAgreement.value - figure.topAgreement)).toBeLessThan(0.005);
    },
  );

  it("are the same for a model that is measured by itself", async () => {
    const chunks = 2;
    const name = compared.at(-1) ?? "";
    const alone = await measured(name, "ggml", { engine, chunks });
    expect(await measured(name, "ggml", { chunks })).toEqual(alone);
  });

  it.each(searched)(
    "are better than llama.cpp's in %s with our search",
    { timeout: patience },
    async (name) => {
      const found = await measured(name, "search");
      const { divergence } = found.comparison as Comparison;
      expect(divergence.value).toBeLessThan((figures.get(name) as Figure).divergence);
    },
  );
});
