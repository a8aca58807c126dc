import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { convert } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";
import { convertFixture, convertRequest, scratchFolder } from "../support/convert.js";
import { llamaQuantize } from "../support/llama-quantize.js";
import { tensorHashes } from "../support/tensor-hashes.js";

describe.each([
  ["Q8_0", 7],
  ["Q4_0", 2],
])("the %s mix", (type, fileType) => {
  it("has the tensors that llama_model_quantize writes, byte for byte, without unused keys and values", async () => {
    const source = await convertFixture("BF16", { matchConverter: true });
    const peerPath = join(scratchFolder(), `peer-${type}.gguf`);
    llamaQuantize(source, peerPath, fileType);
    const peer = await tensorHashes(peerPath);
    const ours = await tensorHashes(await convertFixture(type));
    expect([...ours.keys()].every((name) => peer.has(name))).toBe(true);
    const kept = new Map([...peer].filter(([name]) => ours.has(name)));
    expect(ours).toEqual(kept);
    const dropped = [...peer.keys()].filter((name) => !ours.has(name));
    expect(dropped.toSorted()).toEqual(
      [2, 3]
        .flatMap((layer) => ["attn_k", "attn_k_norm", "attn_v"].map((name) => `blk.${layer}.${name}.weight`))
        .toSorted(),
    );
  });

  it("is the same file when it is made from a BF16 GGUF with everything kept", async () => {
    const source = await convertFixture("BF16", { matchConverter: true });
    const peerPath = join(scratchFolder(), `peer-${type}.gguf`);
    llamaQuantize(source, peerPath, fileType);
    const [artifact] = await convert(
      convertRequest({ source, types: [type], keepUnusedKv: true }),
      silent,
      new AbortController().signal,
    );
    const path = artifact?.files[0] ?? "";
    expect(readFileSync(path).equals(readFileSync(peerPath))).toBe(true);
  });
});
