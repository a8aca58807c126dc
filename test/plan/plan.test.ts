import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { GgufValue } from "../../formats/gguf/types.js";
import { readImportance } from "../../formats/imatrix/read.js";
import type { ImportanceMatrix } from "../../formats/imatrix/types.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import type { Checkpoint } from "../../formats/safetensors/types.js";
import { packageRoot } from "../../src/base/paths.js";
import { bindCheckpoint, type BoundCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";
import { planCheckpoint } from "../../src/plan/checkpoint.js";
import type { PlanError } from "../../src/plan/errors.js";
import { type GgufSourceModel, planGgufSource } from "../../src/plan/gguf.js";
import { MIX_NAMES } from "../../src/plan/mixes.js";
import type { Plan, PlanOptions } from "../../src/plan/plan.js";
import { NANO } from "../support/checkpoints.js";

interface Reference {
  readonly tensors: readonly { name: string; type: string; ne: number[]; bytes: number }[];
}

let config: Gemma4Config;
let checkpoint: Checkpoint;
let bound: BoundCheckpoint;

beforeAll(async () => {
  config = await readConfig(NANO);
  checkpoint = await openCheckpoint(NANO);
  bound = bindCheckpoint(config, checkpoint);
});

/** Mixes that need an importance matrix. */
const needsMatrix = /^(?:IQ[12]|IQ3_XX?S$|Q2_K_S)/;

function plan(options: PlanOptions): Plan {
  return planCheckpoint({
    config,
    weights: bound.weights,
    shards: checkpoint.shards,
    keepUnusedKv: true,
    ...options,
  });
}

describe("a plan that matches the converter", () => {
  it.each(["bf16", "f16", "q8_0"])(
    "%s has the tensors, types, order and sizes of llama.cpp's own file",
    (mix) => {
      const path = join(packageRoot, "fixtures", "reference", `convert-${mix}.json`);
      const reference = JSON.parse(readFileSync(path, "utf8")) as Reference;
      const { tensors, rules } = plan({ mix, matchConverter: true });
      expect(
        tensors.map(({ name, type, ne, byteLength }) => ({ name, type, ne: [...ne], bytes: byteLength })),
      ).toEqual(reference.tensors.map(({ name, type, ne, bytes }) => ({ name, type, ne, bytes })));
      expect(rules).toBe("converter");
    },
  );

  it("takes no types for single tensors", () => {
    const tensorTypes = [{ pattern: "ffn", type: "F16" }] as const;
    expect(() => plan({ mix: "BF16", matchConverter: true, tensorTypes })).toThrow(/cannot be combined/);
  });
});

describe("a plan of a checkpoint", () => {
  it("counts its tensors, values and bytes", () => {
    const { tensors, values, byteLength, bitsPerWeight, shares, fileType } = plan({ mix: "q4_0" });
    expect(fileType).toBe(2);
    expect(values).toBe(tensors.reduce((sum, { ne }) => sum + ne.reduce((a, b) => a * b, 1), 0));
    expect(byteLength).toBe(tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0));
    expect(bitsPerWeight).toBeCloseTo((8 * byteLength) / values, 12);
    expect(shares.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(byteLength);
    expect(shares.find(({ type }) => type === "Q6_K")?.tensors).toBe(2);
    expect(shares.find(({ type }) => type === "BF16")?.tensors).toBe(1);
  });

  it("leaves out keys and values that nothing uses, unless told to keep them", () => {
    const names = (keepUnusedKv: boolean): string[] =>
      plan({ mix: "BF16", keepUnusedKv }).tensors.map(({ name }) => name);
    const dropped = names(true).filter((name) => !names(false).includes(name));
    expect(dropped.toSorted()).toEqual(
      [2, 3].flatMap((layer) =>
        ["attn_k", "attn_k_norm", "attn_v"].map((name) => `blk.${layer}.${name}.weight`),
      ),
    );
  });

  it("reads every value of a file exactly where the checkpoint has it", () => {
    for (const { origin } of plan({ mix: "Q8_0" }).tensors.slice(1)) {
      const entry = checkpoint.tensors.get(origin.kind === "file" ? origin.name : "");
      expect(origin).toMatchObject({
        offset: entry?.offset,
        byteLength: entry?.byteLength,
        type: entry?.dtype,
      });
    }
  });

  it("has a hash that says whether the bytes will be the same", () => {
    const { hash } = plan({ mix: "Q8_0" });
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
    expect(plan({ mix: "q8_0" }).hash).toBe(hash);
    const others = [
      plan({ mix: "Q8_0", keepUnusedKv: false }),
      plan({ mix: "Q4_0" }),
      plan({ mix: "Q8_0", matchConverter: true }),
      plan({ mix: "Q8_0", tensorTypes: [{ pattern: "ffn_down", type: "Q4_0" }] }),
    ].map((other) => other.hash);
    expect(new Set([hash, ...others]).size).toBe(5);
  });

  it("refuses types that are not for weights", () => {
    expect(() => plan({ mix: "Q8_0", tensorTypes: [{ pattern: "ffn", type: "I16" }] })).toThrow(
      expect.objectContaining({ code: "no-encoder", exitCode: 2 }) as Error,
    );
  });

  it("gives a tensor the same type whether or not unused keys and values are written", () => {
    for (const mix of MIX_NAMES) {
      // Rows of the per-layer projections do not divide for Q1_0, in llama-quantize neither.
      if (needsMatrix.test(mix) || mix === "Q1_0") continue;
      const whole = new Map(plan({ mix }).tensors.map(({ name, type }) => [name, type]));
      const kept = plan({ mix, keepUnusedKv: false }).tensors;
      expect(kept.length).toBe(whole.size - 6);
      for (const { name, type } of kept) expect(`${name} ${type}`).toBe(`${name} ${whole.get(name)}`);
    }
  });

  it("takes types for the tables, and for everything", () => {
    const tables = (options: Omit<PlanOptions, "mix">): string => {
      const { tensors } = plan({ mix: "Q4_K_M", ...options });
      return ["token_embd.weight", "per_layer_token_embd.weight"]
        .map((name) => tensors.find((tensor) => tensor.name === name)?.type)
        .join(" ");
    };
    expect(tables({})).toBe("Q6_K Q6_K");
    expect(tables({ embedding: "Q8_0" })).toBe("Q8_0 Q8_0");
    expect(tables({ output: "Q5_K" })).toBe("Q5_K Q5_K");
    expect(tables({ output: "Q5_K", embedding: "Q8_0" })).toBe("Q8_0 Q8_0");
    expect(tables({ perLayerEmbedding: "Q4_0" })).toBe("Q6_K Q4_0");
    const tensorTypes = [{ pattern: "per_layer_token", type: "Q2_K" }] as const;
    expect(tables({ embedding: "Q8_0", tensorTypes })).toBe("Q8_0 Q2_K");
    expect(tables({ embedding: "Q8_0", perLayerEmbedding: "Q3_K", tensorTypes })).toBe("Q8_0 Q3_K");
    expect(tables({ pure: true })).toBe("Q4_K Q4_K");
    const pure = plan({ mix: "Q4_K_M", pure: true }).shares.map(({ type }) => type);
    // Rows of the per-layer projections are too short for Q4_K.
    expect(pure.toSorted()).toEqual(["BF16", "F32", "Q4_K", "Q5_0"]);
    expect(() => plan({ mix: "BF16", embedding: "Q8_0" })).toThrow(/go with a mix that quantizes/);
  });
});

describe("a plan with an importance matrix", () => {
  let matrix: ImportanceMatrix;
  beforeAll(async () => {
    matrix = await readImportance(join(packageRoot, "fixtures/reference/imatrix.gguf"));
  });
  const changed = (entries: readonly (readonly [string, number])[]): ImportanceMatrix => ({
    ...matrix,
    entries: new Map(
      entries.map(([name, length]) => [
        name,
        { name, matrices: 1, values: new Float32Array(new SharedArrayBuffer(length * 4)) },
      ]),
    ),
  });

  it("gives every tensor that heeds it its own part", () => {
    const { tensors, importance, withoutImportance } = plan({
      mix: "Q4_K_M",
      importance: matrix,
      keepUnusedKv: false,
    });
    expect(importance).toMatch(/imatrix\.gguf$/);
    expect(withoutImportance).toEqual(["token_embd.weight", "per_layer_token_embd.weight"]);
    for (const tensor of tensors) {
      const entry = /^Q[456]_/.test(tensor.type) ? matrix.entries.get(tensor.name) : undefined;
      expect(tensor.importance).toBe(entry?.values);
    }
  });

  it("is another plan with other values", () => {
    const first = plan({ mix: "Q4_K_M", importance: matrix });
    const entries = new Map(matrix.entries);
    const [name, entry] = [...entries][3]!;
    const values = new Float32Array(new SharedArrayBuffer(entry.values.byteLength));
    values.set(entry.values);
    values[5] = (values[5] ?? 0) * 2;
    entries.set(name, { ...entry, values });
    const second = plan({ mix: "Q4_K_M", importance: { ...matrix, entries } });
    expect(new Set([first.hash, second.hash, plan({ mix: "Q4_K_M" }).hash]).size).toBe(3);
  });

  it("writes the mixes that llama-quantize gives up on because of unused keys and values", () => {
    for (const mix of ["IQ3_XXS", "IQ2_M", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M", "Q2_K_S"]) {
      for (const keepUnusedKv of [true, false]) {
        expect(plan({ mix, importance: matrix, keepUnusedKv }).mix).toBe(mix);
      }
    }
  });

  it("is refused where it is of another model, lacks a tensor or is asked for", () => {
    const fails = (mix: string, importance?: ImportanceMatrix) => {
      try {
        plan({ mix, importance });
        return "planned";
      } catch (error) {
        const { code, exitCode, message } = error as PlanError;
        return `${code} ${exitCode} ${message}`;
      }
    };
    for (const mix of ["IQ2_XXS", "IQ1_S", "Q2_K_S", "IQ3_XXS"]) {
      expect(fails(mix)).toMatch(/^importance-required 2 .*blk\.0/);
    }
    expect(fails("Q4_K_M", changed([["blk.0.attn_q.weight", 7]]))).toMatch(/^importance-mismatch 2 .*attn_q/);
    expect(fails("Q4_K_M", changed([["blk.77.attn_q.weight", 7]]))).toMatch(
      /^importance-mismatch 2 .*none of/,
    );
    expect(fails("IQ2_XXS", changed([["blk.0.attn_q.weight", 256]]))).toMatch(/^importance-missing 2 /);
    // llama-quantize passes over a table's.
    expect(fails("Q4_K_M", changed([["token_embd.weight", 7]]))).toBe("planned");
  });
});

describe("a plan of a GGUF", () => {
  function model(overrides: Partial<GgufSourceModel> = {}): GgufSourceModel {
    const source = plan({ mix: "BF16", matchConverter: true });
    return {
      paths: ["nano.gguf"],
      metadata: new Map<string, GgufValue>([
        ["general.architecture", { type: "string", value: "gemma4" }],
        ["gemma4.block_count", { type: "u32", value: 4 }],
        ["gemma4.attention.head_count", { type: "u32", value: 4 }],
        ["gemma4.attention.head_count_kv", { type: "array", of: "i32", value: [1, 1, 1, 1] }],
        ["gemma4.attention.shared_kv_layers", { type: "u32", value: 2 }],
      ]),
      tensors: source.tensors.map(({ name, type, ne, byteLength }) => ({
        name,
        type,
        ne,
        byteLength,
        part: 0,
        offset: 64,
      })),
      ...overrides,
    };
  }

  it("chooses the types of a plan of the checkpoint, in llama-quantize's order", () => {
    for (const keepUnusedKv of [true, false]) {
      const ofCheckpoint = plan({ mix: "Q4_0", keepUnusedKv });
      const ofGguf = planGgufSource({ model: model(), mix: "Q4_0", keepUnusedKv });
      const types = new Map(ofCheckpoint.tensors.map(({ name, type }) => [name, type]));
      expect(new Map(ofGguf.tensors.map(({ name, type }) => [name, type]))).toEqual(types);
      expect(ofGguf.byteLength).toBe(ofCheckpoint.byteLength);
      expect(ofGguf.tensors.slice(0, 4).map(({ name }) => name)).toEqual([
        "output_norm.weight",
        "per_layer_model_proj.weight",
        "per_layer_proj_norm.weight",
        "per_layer_token_embd.weight",
      ]);
    }
  });

  it("refuses other architectures, rounded tensors and metadata that does not add up", () => {
    const refused = (overrides: Partial<GgufSourceModel>) => () =>
      planGgufSource({ model: model(overrides), mix: "Q8_0", keepUnusedKv: true });
    const metadata = (key: string, value: GgufValue) => new Map([...model().metadata, [key, value]]);
    expect(
      refused({ metadata: metadata("general.architecture", { type: "string", value: "llama" }) }),
    ).toThrow(/"llama", expected "gemma4"/);
    expect(refused({ metadata: metadata("gemma4.block_count", { type: "string", value: "x" }) })).toThrow(
      /block_count is no count/,
    );
    expect(
      refused({ metadata: metadata("gemma4.attention.head_count_kv", { type: "u32", value: 0 }) }),
    ).toThrow(/head_count_kv is 0/);
    expect(refused({ metadata: new Map([...model().metadata].slice(0, 1)) })).toThrow(
      /block_count is missing/,
    );
    const rounded = model().tensors.map((tensor) => ({ ...tensor, type: "Q8_0" }));
    expect(refused({ tensors: rounded })).toThrow(/is Q8_0, expected F32, F16 or BF16/);
  });
});
