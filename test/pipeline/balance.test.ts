import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openFile } from "../../formats/file-source.js";
import { openGguf } from "../../formats/gguf/read.js";
import { decode } from "../../src/blocks/decode/decode.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import type { ConvertedArtifact, ConvertRequest } from "../../src/pipeline/convert.js";
import { convert } from "../../src/pipeline/convert.js";
import { exportOnnx } from "../../src/pipeline/export.js";
import { silent } from "../../src/pipeline/progress.js";
import { verify } from "../../src/pipeline/verify.js";
import { convertFixture, convertRequest, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { spikyCheckpoint } from "../support/spiky.js";
import { relativeError } from "../support/text-models.js";
import { tensorHashes } from "../support/tensor-hashes.js";

const never = new AbortController().signal;
const spiky = scratchFolder();

beforeAll(() => spikyCheckpoint(nanoCheckpoint, spiky, 2));

async function write(request: Partial<ConvertRequest>): Promise<ConvertedArtifact> {
  const [artifact] = await convert(convertRequest({ method: "search", ...request }), silent, never);
  return artifact!;
}

/** Perplexity as a share of that of nano-e in F32, and the divergence from it, on a few windows. */
async function measured(files: readonly string[]): Promise<{ ratio: number; divergence: number }[]> {
  const report = await verify(
    {
      files,
      reference: await convertFixture("F32"),
      text: "fixtures/text/eval.txt",
      mode: "raw",
      context: 256,
      chunks: 2,
      threads: 2,
      gates: {},
      memory: 256 * 2 ** 20,
      accuracyLevels: [0],
    },
    silent,
    never,
  );
  return report.files.map(({ result }) => {
    const { ratio, divergence } = result.windows.comparison!;
    return { ratio: ratio.value, divergence: divergence.value };
  });
}

async function valuesOf(path: string, name: string): Promise<[BlockTypeName, Float32Array]> {
  const tensor = (await openGguf(path)).tensors.find((each) => each.name === name)!;
  const bytes = new Uint8Array(tensor.byteLength);
  const file = await openFile(path);
  await file.read(bytes, tensor.offset);
  await file.close();
  const values = new Float32Array(tensor.ne.reduce((product, size) => product * size, 1));
  decode(tensor.type as BlockTypeName, bytes, values);
  return [tensor.type as BlockTypeName, values];
}

describe("a checkpoint that collapses in four bits", () => {
  it("is as good as the healthy one when it is balanced", async () => {
    const plain = await write({ source: spiky, types: ["Q4_K_M"], balance: "off" });
    const balanced = await write({ source: spiky, types: ["Q4_K_M"] });
    expect(plain.balance).toBeNull();
    // Two norms and up in each of four layers.
    expect(balanced.balance).toHaveLength(12);
    expect(balanced.bytes).toBe(plain.bytes);
    expect(balanced.plan).not.toBe(plain.plan);
    for (const { before, after, exponents } of balanced.balance!) {
      expect(after).toBeLessThan(before / 50);
      expect(exponents.length).toBeGreaterThan(6);
    }
    const [collapsed, cured] = await measured([plain.files[0]!, balanced.files[0]!]);
    expect(collapsed!.divergence).toBeGreaterThan(0.5);
    expect(cured!.divergence).toBeLessThan(0.006);
    expect(cured!.ratio).toBeLessThan(1.03);
  });

  it("is so as an ONNX package", async () => {
    const exported = async (balance?: "off") => {
      const out = scratchFolder();
      const report = await exportOnnx(
        {
          source: spiky,
          out,
          dtypes: ["q4"],
          layout: "transformers.js",
          balance,
          threads: 2,
          memory: 256 * 2 ** 20,
          dryRun: false,
          force: false,
        },
        silent,
        never,
      );
      const decoder = report.graphs.find(({ graph }) => graph === "decoder_model_merged");
      expect(decoder?.balance?.length).toBe(balance === "off" ? undefined : 12);
      return out;
    };
    const [collapsed, cured] = await measured([await exported("off"), await exported()]);
    expect(collapsed!.divergence).toBeGreaterThan(0.3);
    expect(cured!.divergence).toBeLessThan(0.006);
    expect(cured!.ratio).toBeLessThan(1.03);
  });

  it("has the same tensors when it is made from a GGUF", async () => {
    const source = join(scratchFolder(), "spiky-BF16.gguf");
    await write({ source: spiky, types: ["BF16"], out: source });
    const direct = await write({ source: spiky, types: ["Q4_0"] });
    const again = await write({ source, types: ["Q4_0"] });
    expect(again.balance).toEqual(expect.arrayContaining([...direct.balance!]));
    expect(again.balance).toHaveLength(direct.balance!.length);
    const hashes = await tensorHashes(direct.files[0]!);
    for (const [name, tensor] of await tensorHashes(again.files[0]!))
      expect(hashes.get(name)).toEqual(tensor);
  });

  it("keeps every product of norm and column exactly in tensors that are not rounded", async () => {
    const [name, norm] = ["blk.0.attn_k.weight", "blk.0.attn_norm.weight"];
    const plain = await write({ source: spiky, types: ["BF16"] });
    const { files, balance } = await write({
      source: spiky,
      types: ["Q4_0"],
      typeNames: { tensorTypes: [{ pattern: "attn_k", type: "BF16" }] },
    });
    expect(balance!.map((fold) => fold.name)).toContain(norm);
    const [type, columns] = await valuesOf(files[0]!, name);
    expect(type).toBe("BF16");
    const [, before] = await valuesOf(plain.files[0]!, name);
    const [, scale] = await valuesOf(files[0]!, norm);
    const [, scaleBefore] = await valuesOf(plain.files[0]!, norm);
    expect(columns.some((value, at) => value !== before[at])).toBe(true);
    const row = scale.length;
    const product = (values: Float32Array, scales: Float32Array): Float32Array =>
      values.map((value, at) => value * scales[at % row]!);
    expect(relativeError(product(columns, scale), product(before, scaleBefore))).toBe(0);
  });

  it("leaves folds out that a tensor in halves is part of", async () => {
    const { balance } = await write({
      source: spiky,
      types: ["Q4_0"],
      typeNames: { tensorTypes: [{ pattern: "blk.1.attn_k", type: "F16" }] },
    });
    const names = balance!.map(({ name }) => name);
    expect(names).toHaveLength(11);
    expect(names).not.toContain("blk.1.attn_norm.weight");
  });
});

describe("a healthy checkpoint", () => {
  it.each(["Q4_K_M", "Q3_K_M", "Q4_0"])("is written as it is without: %s", async (type) => {
    const auto = await write({ types: [type] });
    const off = await write({ types: [type], balance: "off" });
    expect(auto.balance).toEqual([]);
    expect(auto.plan).toBe(off.plan);
  });

  it("is not looked at in a dry run, for llama-quantize's bytes, or where nothing loses much", async () => {
    expect((await write({ source: spiky, types: ["Q4_0"], dryRun: true })).balance).toBeNull();
    expect((await write({ source: spiky, types: ["Q4_0"], method: "ggml" })).balance).toBeNull();
    expect((await write({ source: spiky, types: ["Q8_0"] })).balance).toEqual([]);
    const asked = await write({ source: spiky, types: ["Q4_0"], method: "ggml", balance: "auto" });
    expect(asked.balance).toHaveLength(12);
  });
});
