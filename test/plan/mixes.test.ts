import { describe, expect, it } from "vitest";
import { assignTypes, type Overrides, quantizeOrder } from "../../src/plan/assign.js";
import { findMix, MIXES } from "../../src/plan/mixes.js";
import { alwaysF32, converterTypes } from "../../src/plan/converter.js";
import type { BlockTypeName, Method } from "../../src/blocks/types.js";
import { MEMBERS, type MemberName } from "../support/members.js";
import { EXPECTED } from "./expected.js";
import { candidatesOf, configOf, factsOf, summary } from "./members.js";

function assign(member: MemberName, mix: string, importance: boolean) {
  const config = configOf(member);
  const candidates = candidatesOf(config);
  return { candidates, types: assignTypes(candidates, findMix(mix), factsOf(config, importance)) };
}

/** Mixes that llama-quantize refuses without importance choose by its rules with one. */
function needsImportance(mix: string): boolean {
  return mix.startsWith("IQ2") || mix === "Q2_K_S";
}

describe("mixes on the published members", () => {
  for (const [label, members] of Object.entries(EXPECTED)) {
    const [mix = "", imat] = label.split(" ");
    it.each(Object.entries(members))(`${label} on %s`, (member, expected) => {
      const { candidates, types } = assign(
        member as MemberName,
        mix,
        imat !== undefined || needsImportance(mix),
      );
      const [found, bytes] = summary(candidates, types).split(" · ");
      expect(Number(bytes)).toBe(expected.bytes);
      expect(found).toBe(expected.types ?? found);
    });
  }

  it.each(Object.keys(MEMBERS))("F16 on %s takes the bytes of BF16", (member) => {
    const { candidates, types } = assign(member as MemberName, "F16", false);
    expect(Number(summary(candidates, types).split(" · ")[1])).toBe(
      EXPECTED["BF16"]?.[member as MemberName]?.bytes,
    );
  });

  it("keeps the projection of per-layer embeddings in the source's type", () => {
    for (const mix of ["F32", "F16", "Q8_0", "Q4_0"]) {
      const { candidates, types } = assign("E2B", mix, false);
      const index = candidates.findIndex(({ name }) => name === "per_layer_model_proj.weight");
      expect(types[index]).toBe("BF16");
    }
  });

  it("has no type for rows of 2112 values in blocks of 128", () => {
    expect(() => assign("26B-A4B", "Q1_0", false)).toThrow(/rows of 2112 values/);
  });

  it("does not depend on the order in which tensors come", () => {
    const config = configOf("26B-A4B");
    const candidates = candidatesOf(config);
    const facts = factsOf(config, false);
    const mix = findMix("q4_k_m");
    const forward = assignTypes(candidates, mix, facts);
    const backward = assignTypes(candidates.toReversed(), mix, facts).toReversed();
    expect(backward).toEqual(forward);
  });
});

describe("shapes", () => {
  const facts = { layers: 4, experts: 0, headsPerKey: 1, importance: false };
  const typeOf = (mix: string, row: number, overrides: Overrides = {}): BlockTypeName | undefined =>
    assignTypes(
      [{ name: "blk.0.ffn_up.weight", ne: [row, 8], kept: "BF16" }],
      findMix(mix),
      facts,
      overrides,
    )[0];

  it("falls back to smaller blocks, then to F16", () => {
    expect(typeOf("Q6_K", 96)).toBe("Q8_0");
    expect(typeOf("Q4_K_S", 96)).toBe("Q5_0");
    expect(typeOf("Q2_K", 96)).toBe("Q4_0");
    expect(typeOf("IQ4_XS", 96)).toBe("IQ4_NL");
    expect(typeOf("Q8_0", 48)).toBe("F16");
    expect(typeOf("Q4_0", 48)).toBe("F16");
    expect(typeOf("Q6_K", 48)).toBe("F16");
  });

  it("falls back to the fewest bits not below the wish when it is told to", () => {
    const near = (mix: string, row: number, method: Method): BlockTypeName | undefined =>
      typeOf(mix, row, { fallback: "near", method });
    // The rows of the 26B's experts and of its dense part.
    for (const row of [704, 2112]) {
      expect(near("Q2_K_S", row, "search")).toBe("Q2_0");
      expect(near("IQ2_XXS", row, "search")).toBe("Q2_0");
      expect(near("IQ2_XXS", row, "ggml")).toBe("IQ4_NL");
      expect(near("IQ3_S", row, "search")).toBe("IQ4_NL");
      expect(near("Q4_K_S", row, "search")).toBe("IQ4_NL");
      expect(near("Q5_K_S", row, "search")).toBe("Q5_0");
      expect(near("Q6_K", row, "search")).toBe("Q8_0");
    }
    expect(near("IQ2_XXS", 96, "search")).toBe("IQ4_NL");
    expect(near("Q4_K_S", 48, "search")).toBe("F16");
    expect(near("Q4_K_S", 256, "search")).toBe("Q4_K");
  });

  it("counts dimensions as ggml does: a matrix of one row is a vector", () => {
    const types = assignTypes(
      [
        { name: "blk.0.ffn_up.weight", ne: [64, 1], kept: "BF16" },
        { name: "blk.1.ffn_up.weight", ne: [64, 2], kept: "BF16" },
      ],
      findMix("Q8_0"),
      facts,
    );
    expect(types).toEqual(["BF16", "Q8_0"]);
  });

  it("gives tied embeddings of uneven rows Q8_0 and follows an output matrix where there is one", () => {
    const embedding = { name: "token_embd.weight", ne: [96, 8], kept: "BF16" } as const;
    const output = { name: "output.weight", ne: [256, 8], kept: "BF16" } as const;
    expect(assignTypes([embedding], findMix("Q4_K_M"), facts)).toEqual(["Q8_0"]);
    expect(assignTypes([embedding, output], findMix("Q4_0"), facts)).toEqual(["Q4_0", "Q6_K"]);
  });
});

describe("eight experts", () => {
  // The special cases that llama-quantize has for exactly eight experts.
  const facts = { layers: 8, experts: 8, headsPerKey: 2, importance: true };
  const names = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down_exps"];
  const candidates = names.map((name) => ({
    name: `blk.0.${name}.weight`,
    ne: [256, 256],
    kept: "BF16" as const,
  }));

  it.each([
    ["Q4_K_M", ["Q8_0", "Q5_K", "Q4_K", "Q8_0", "Q6_K"]],
    ["Q3_K_L", ["Q8_0", "Q3_K", "Q3_K", "Q8_0", "Q5_K"]],
    ["Q4_0", ["Q8_0", "Q4_0", "Q4_0", "Q8_0", "Q4_1"]],
    ["IQ2_XS", ["Q4_K", "Q5_K", "IQ2_XS", "Q4_K", "Q2_K"]],
  ])("%s", (mix, expected) => {
    expect(assignTypes(candidates, findMix(mix), facts)).toEqual(expected);
  });
});

describe("types for single tensors", () => {
  const config = configOf("E2B");
  const candidates = candidatesOf(config);
  const facts = factsOf(config, false);

  it("win over the rules in the order given, and do not advance the counters", () => {
    const types = assignTypes(candidates, findMix("Q3_K_M"), facts, {
      tensorTypes: [
        { pattern: "BLK\\.0\\.ATTN_V", type: "Q8_0" },
        { pattern: "attn_v", type: "Q4_0" },
        { pattern: "per_layer_token_embd", type: "Q2_K" },
      ],
    });
    const of = (name: string) => types[candidates.findIndex((candidate) => candidate.name === name)];
    expect(of("blk.0.attn_v.weight")).toBe("Q8_0");
    expect(of("blk.1.attn_v.weight")).toBe("Q4_0");
    expect(of("per_layer_token_embd.weight")).toBe("Q2_K");
    const first = assignTypes(candidates, findMix("Q3_K_M"), facts, {
      tensorTypes: [{ pattern: "blk\\.0\\.attn_v", type: "Q8_0" }],
    });
    const values = candidates.flatMap(({ name }, index) => (name.includes("attn_v.") ? [first[index]] : []));
    expect(values.slice(0, 4)).toEqual(["Q8_0", "Q5_K", "Q5_K", "Q4_K"]);
  });

  it("do not touch what is never quantized, which is a mistake to point out", () => {
    const mix = findMix("Q8_0");
    expect(() =>
      assignTypes(candidates, mix, facts, { tensorTypes: [{ pattern: "attn_norm", type: "Q4_0" }] }),
    ).toThrow(/finds no tensor/);
    expect(() =>
      assignTypes(candidates, mix, facts, { tensorTypes: [{ pattern: "(", type: "Q4_0" }] }),
    ).toThrow(/no regular expression/);
    expect(() =>
      assignTypes(candidates, findMix("F16"), facts, { tensorTypes: [{ pattern: "ffn", type: "Q4_0" }] }),
    ).toThrow(/go with a mix that quantizes/);
  });
});

describe("names of mixes", () => {
  it("are found in any case and by alias", () => {
    expect(findMix("q4_k").name).toBe("Q4_K_M");
    expect(findMix("bf16").name).toBe("BF16");
    expect(() => findMix("Q4KM")).toThrow(
      expect.objectContaining({ message: 'there is no mix called "Q4KM"', advice: "Did you mean Q4_K_M?" }),
    );
    expect(() => findMix("fp8_e4m3fn")).toThrow(
      expect.objectContaining({ advice: expect.stringMatching(/^Choose one of F32, F16/) as string }),
    );
  });

  it("have file type numbers of their own", () => {
    expect(new Set(MIXES.map(({ fileType }) => fileType)).size).toBe(MIXES.length);
    expect(new Set(MIXES.map(({ name }) => name)).size).toBe(MIXES.length);
  });
});

describe("order", () => {
  it("is llama-quantize's: outside the layers, then by number, then bytewise", () => {
    const names = [
      "blk.10.a",
      "output_norm.weight",
      "blk.2.b",
      "Z",
      "blk.2.B",
      "blk.2.a_norm",
      "rope_freqs.weight",
    ];
    expect(names.toSorted(quantizeOrder)).toEqual([
      "Z",
      "output_norm.weight",
      "rope_freqs.weight",
      "blk.2.B",
      "blk.2.a_norm",
      "blk.2.b",
      "blk.10.a",
    ]);
  });
});

describe("the converter's rule", () => {
  it("refuses mixes that the converter has no output type for", () => {
    expect(() => converterTypes([], findMix("Q4_0"))).toThrow(/cannot write Q4_0/);
  });

  it("keeps vectors, norms and the router in F32", () => {
    expect(alwaysF32("blk.0.ffn_gate_inp.weight", [64, 8])).toBe(true);
    expect(alwaysF32("blk.0.ffn_gate_inp.scale", [64])).toBe(true);
    expect(alwaysF32("blk.0.ffn_gate.weight", [64, 8])).toBe(false);
  });
});
