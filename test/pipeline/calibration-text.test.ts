import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { CalibrationText } from "../../calibration/text/calibration-text.js";
import { loadDocuments } from "../../calibration/text/documents.js";
import { calibrationSet, evaluationSet } from "../../calibration/text/evaluation.js";
import { textPieces } from "../../calibration/text/modes.js";
import { ShingleIndex } from "../../calibration/text/shingles.js";
import type { Engine } from "../../src/engines/types.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import { packageRoot } from "../../src/base/paths.js";
import { checkpointCalibration } from "../../src/pipeline/calibration-text.js";
import { hashText } from "../../src/pipeline/text-identity.js";
import { scratchFolder } from "../support/convert.js";
import { nanoGguf } from "../support/nano-gguf.js";

const nano = join(packageRoot, "fixtures", "nano-e");
const builtIn = [{ path: null, weight: 1 }];

async function tokens(engine: Engine, handle: number, path: string): Promise<Int32Array> {
  const ids: number[] = [];
  for (const { text, special } of textPieces(await loadDocuments(path), "raw"))
    for (const id of await engine.tokenize(handle, text, { special, bos: false })) ids.push(id);
  return Int32Array.from(ids);
}

describe("checkpointCalibration", () => {
  let text: CalibrationText;
  beforeAll(async () => {
    text = await checkpointCalibration(nano, { sources: builtIn, threads: 1 });
  });

  it("takes 200 windows from all over the built-in set, in raw text for a base model", () => {
    expect(text.mode).toBe("raw");
    expect(text.warnings).toEqual([]);
    expect(text.windows).toHaveLength(200);
    expect(text.sources).toEqual([
      expect.objectContaining({ name: "default", kind: "mixed", weight: 1, windows: 200 }),
    ]);
    const { tokens: total = 0 } = text.sources[0] ?? {};
    expect(text.windows.at(-1)?.start).toBeGreaterThan(total - 4 * 512);
    for (const { tokens: ids } of text.windows) {
      expect(ids).toHaveLength(512);
      expect(ids[0]).toBe(2);
    }
    expect(text.scripts).toMatchObject({ Latin: expect.any(Number) as number });
  });

  it("names the text by the hash that measurements use", async () => {
    expect(text.hash).toBe(await hashText(calibrationSet()));
  });

  it("cuts the tokens that the model sees", async () => {
    const engine = await startLlamaEngine();
    try {
      const { handle } = await engine.load(await nanoGguf("BF16"), { threads: 1, context: 512 });
      const set = await tokens(engine, handle, calibrationSet());
      for (const { start, tokens: ids } of text.windows)
        expect(ids.subarray(1)).toEqual(set.subarray(start, start + 511));
      // Not one run of 32 tokens of what is measured on, in either of the texts for that.
      for (const path of [evaluationSet(), join(packageRoot, "fixtures", "text", "eval.txt")]) {
        const index = new ShingleIndex(await tokens(engine, handle, path));
        expect(index.total).toBeGreaterThan(10_000);
        expect(index.find(set)).toBeNull();
      }
    } finally {
      await engine.close();
    }
  });

  it("renders chats through the checkpoint's template when told to", async () => {
    const chats = await checkpointCalibration(nano, {
      sources: builtIn,
      mode: "chat",
      windows: 20,
      threads: 1,
    });
    expect(chats.mode).toBe("chat");
    expect(chats.windows).toHaveLength(20);
    expect(chats.sources[0]?.tokens).not.toBe(text.sources[0]?.tokens);
    expect(chats.warnings).toEqual([]);
  });

  it("refuses the evaluation set and any text that was named for measuring", async () => {
    const reused = checkpointCalibration(nano, {
      sources: [...builtIn, { path: evaluationSet(), weight: 1 }],
      threads: 1,
    });
    await expect(reused).rejects.toMatchObject({
      code: "text-reused",
      exitCode: 2,
      message: expect.stringContaining(`${join(evaluationSet(), "chats.jsonl")}, line 1 has`) as string,
    });
    const mine = join(packageRoot, "fixtures", "text", "calibration.txt");
    const options = { sources: [{ path: mine, weight: 1 }], threads: 1, windows: 16 };
    await expect(checkpointCalibration(nano, { ...options, evaluation: mine })).rejects.toMatchObject({
      code: "text-reused",
    });
    await expect(checkpointCalibration(nano, options)).resolves.toMatchObject({ windows: { length: 16 } });
  });

  it("needs the folder of a checkpoint", async () => {
    const path = join(scratchFolder(), "model.txt");
    await writeFile(path, "");
    for (const wrong of [path, await nanoGguf("BF16"), join(scratchFolder(), "none")])
      await expect(checkpointCalibration(wrong, { sources: builtIn, threads: 1 })).rejects.toMatchObject({
        code: "no-source",
        exitCode: 2,
      });
  });
});
