import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { convertFixture, scratchFolder } from "../support/convert.js";
import { tensorHashes } from "../support/tensor-hashes.js";
import { peerTool, run } from "./tools.js";

describe("our files in llama.cpp's own tools", () => {
  it("llama-quantize makes the file that we make, from our unrounded one", async () => {
    const source = await convertFixture("BF16", { matchConverter: true });
    const tool = await peerTool("llama-quantize");
    for (const type of ["Q8_0", "Q4_0"]) {
      const theirs = join(scratchFolder(), `theirs-${type}.gguf`);
      await run(tool, [source, theirs, type, "1"]);
      const ours = await convertFixture(type, { source, keepUnusedKv: true });
      expect(readFileSync(ours).equals(readFileSync(theirs))).toBe(true);
    }
  });

  it("llama-gguf-split puts our parts together again", async () => {
    const first = await convertFixture("Q8_0", { splitMaxBytes: 1024 ** 2 });
    const merged = join(scratchFolder(), "merged.gguf");
    await run(await peerTool("llama-gguf-split"), ["--merge", first, merged]);
    expect(await tensorHashes(merged)).toEqual(await tensorHashes(await convertFixture("Q8_0")));
  });

  it("llama-bench times our file", async () => {
    const model = await convertFixture("Q4_0");
    const arguments_ = ["-m", model, "-p", "16", "-n", "4", "-r", "1", "-t", "1", "-o", "json"];
    const printed = await run(await peerTool("llama-bench"), arguments_);
    const json = printed.slice(printed.indexOf("["), printed.lastIndexOf("]") + 1);
    const tests = JSON.parse(json) as { n_prompt: number; n_gen: number }[];
    expect(tests.map(({ n_prompt, n_gen }) => [n_prompt, n_gen])).toEqual([
      [16, 0],
      [0, 4],
    ]);
  });
});
