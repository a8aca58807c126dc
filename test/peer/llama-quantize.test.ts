import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import { readImportance } from "../../formats/imatrix/read.js";
import { MIXES } from "../../src/plan/mixes.js";
import { convert, type ConvertRequest } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";
import { fullCampaign } from "../support/campaign.js";
import { type CheckpointKind, makeCheckpoint } from "../support/checkpoints.js";
import { convertFixture, convertRequest, scratchFolder } from "../support/convert.js";
import { writeImatrix } from "../support/imatrix.js";
import { type Importances, llamaQuantize } from "../support/llama-quantize.js";
import { tensorHashes } from "../support/tensor-hashes.js";
import { randomFrom } from "../support/weights.js";

const reference = "fixtures/reference/imatrix.gguf";
const never = new AbortController().signal;
/** Mixes that llama-quantize refuses without an importance matrix. */
const needy = /^(?:IQ[12]|IQ3_XX?S$|Q2_K_S)/;
/** Q1_0 does not divide the rows of the miniature's per-layer projections; llama-quantize gives up on it too. */
const all = MIXES.filter(({ type }) => !["F32", "F16", "BF16", "Q1_0"].includes(type));
/**
 * Every fourth with LAPIDARY_CAMPAIGN other than full: ggml takes seconds to get ready for some types, and most for
 * IQ1_S and IQ1_M, whose bytes are compared elsewhere.
 */
const some = all.filter(({ name }, index) => index % 4 === 1 && !name.startsWith("IQ1"));
const quantizing = fullCampaign ? all : some;
const quick = (mix: string): boolean => fullCampaign || !mix.startsWith("IQ");

async function write(request: Partial<ConvertRequest>): Promise<string> {
  const [artifact] = await convert(convertRequest(request), silent, never);
  return artifact?.files[0] ?? "";
}

/** How a file of ours differs from llama.cpp's: tensors that are not the same, or not there. */
async function differences(ours: string, theirs: string): Promise<string[]> {
  const own = await tensorHashes(ours);
  const peer = await tensorHashes(theirs);
  const changed = [...own].flatMap(([name, tensor]) => {
    const other = peer.get(name);
    if (tensor.type !== other?.type) return [`${name} is ${tensor.type}, not ${other?.type}`];
    return tensor.sha256 === other.sha256 ? [] : [`${name} has other bytes of ${tensor.type}`];
  });
  return [...changed, ...[...peer.keys()].filter((name) => !own.has(name))].toSorted();
}

const unusedOfNano = [2, 3].flatMap((layer) =>
  ["attn_k", "attn_k_norm", "attn_v"].map((name) => `blk.${layer}.${name}.weight`),
);

describe("a mix of the miniature", () => {
  let source: string;
  let importances: Map<string, Float32Array>;

  beforeAll(async () => {
    source = await convertFixture("BF16", { matchConverter: true });
    const { entries } = await readImportance(reference);
    importances = new Map([...entries].map(([name, { values }]) => [name, new Float32Array(values)]));
    // llama-quantize gives up where these have none, and what they are rounded to is not compared.
    for (const name of unusedOfNano) {
      const columns = (await openGguf(source)).tensors.find((tensor) => tensor.name === name)?.ne[0] ?? 0;
      if (!name.includes("norm")) importances.set(name, new Float32Array(columns).fill(1));
    }
  });

  it.each(quantizing.filter(({ name }) => !needy.test(name)))(
    "has llama-quantize's types and bytes in $name",
    async ({ name, fileType }) => {
      const peer = join(scratchFolder(), "peer.gguf");
      llamaQuantize(source, peer, fileType);
      expect(await differences(await write({ types: [name] }), peer)).toEqual(unusedOfNano);
    },
  );

  it.each(quantizing)(
    "has llama-quantize's types and bytes in $name with an importance matrix",
    async ({ name, fileType }) => {
      const peer = join(scratchFolder(), "peer.gguf");
      llamaQuantize(source, peer, fileType, { importances });
      expect(await differences(await write({ types: [name], imatrix: reference }), peer)).toEqual(
        unusedOfNano,
      );
    },
  );

  it("has llama-quantize's types and bytes when it is pure", async () => {
    const peer = join(scratchFolder(), "peer.gguf");
    llamaQuantize(source, peer, 15, { pure: true });
    expect(await differences(await write({ types: ["Q4_K_M"], typeNames: { pure: true } }), peer)).toEqual(
      unusedOfNano,
    );
  });

  it.each(["Q8_0", "Q4_0", "Q4_K_M", "IQ4_XS"])(
    "is the same file when it is made from a BF16 GGUF with everything kept: %s",
    async (type) => {
      const peer = join(scratchFolder(), "peer.gguf");
      llamaQuantize(source, peer, MIXES.find(({ name }) => name === type)?.fileType ?? 0);
      const path = await write({ source, types: [type], keepUnusedKv: true });
      expect(readFileSync(path).equals(readFileSync(peer))).toBe(true);
    },
  );
});

/** Random importances, in the order and shape of a file's matrices. */
async function randomImportances(path: string): Promise<Map<string, Float32Array>> {
  const random = randomFrom(5);
  const { tensors } = await openGguf(path);
  return new Map(
    tensors
      .filter(({ name, ne }) => name.startsWith("blk.") && name.endsWith("weight") && ne.length > 1)
      .map(({ name, ne }) => {
        const count = (ne[0] ?? 1) * (ne[2] ?? 1);
        return [name, Float32Array.from({ length: count }, () => random() ** 3)] as const;
      }),
  );
}

describe.each(["dense", "moe"] as const satisfies readonly CheckpointKind[])(
  "a mix of random weights shaped like a %s member",
  (kind) => {
    let folder: string;
    let source: string;
    let importances: Importances;
    let imatrix: string;

    beforeAll(async () => {
      folder = join(scratchFolder(), kind);
      await makeCheckpoint(folder, { kind });
      source = await write({ source: folder, types: ["BF16"] });
      importances = await randomImportances(source);
      imatrix = writeImatrix(join(scratchFolder(), "imatrix.gguf"), importances);
    });

    // Every rule and every fallback of a row that does not divide, at a bearable number of mixes.
    it.each(
      ["Q4_K_M", "Q3_K_L", "Q5_K_S", "Q2_K", "IQ3_M", "IQ4_XS", "TQ2_0", "Q2_0", "MXFP4_MOE", "Q4_0"].filter(
        quick,
      ),
    )("has llama-quantize's types and bytes in %s", async (type) => {
      const { fileType } = MIXES.find(({ name }) => name === type)!;
      const peer = join(scratchFolder(), "peer.gguf");
      llamaQuantize(source, peer, fileType, { threads: 2 });
      expect(await differences(await write({ source: folder, types: [type] }), peer)).toEqual([]);
    });

    it.each(["Q4_K_M", "Q5_K_M", "Q4_0", "IQ3_XXS", "IQ2_M", "Q2_K_S"].filter(quick))(
      "has llama-quantize's types and bytes in %s with an importance matrix",
      async (type) => {
        const { fileType } = MIXES.find(({ name }) => name === type)!;
        const peer = join(scratchFolder(), "peer.gguf");
        llamaQuantize(source, peer, fileType, { importances, threads: 2 });
        expect(await differences(await write({ source: folder, types: [type], imatrix }), peer)).toEqual([]);
      },
    );
  },
);
