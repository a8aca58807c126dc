import { beforeAll, describe, expect, it } from "vitest";
import { decodeModel } from "../../formats/onnx/codec.js";
import { lintModel } from "../../formats/onnx/lint.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import { parameterCount } from "../../src/gemma4/weights.js";
import { PlanError } from "../../src/plan/errors.js";
import { parseDtypes, parseForm } from "../../src/plan/onnx/dtypes.js";
import {
  type OnnxPlan,
  type OnnxPlanOptions,
  type PlannedGraph,
  type PlannedMatrix,
  planOnnx,
} from "../../src/plan/onnx/plan.js";
import { roundableMatrices, withRoundedMatrices } from "../../src/plan/onnx/rounded.js";
import { nanoCheckpoint } from "../support/convert.js";

let base: Omit<OnnxPlanOptions, "graphs">;

beforeAll(async () => {
  const config = await readConfig(nanoCheckpoint);
  const checkpoint = await openCheckpoint(nanoCheckpoint);
  const { weights } = bindCheckpoint(config, checkpoint);
  base = { config, weights, shards: checkpoint.shards, placeholders: [], padding: 0 };
});

function plan(dtypes: readonly string[], options: Partial<OnnxPlanOptions> = {}): Promise<OnnxPlan> {
  return planOnnx({ ...base, graphs: parseDtypes(dtypes), ...options });
}

async function refusal(action: () => unknown): Promise<PlanError> {
  const error: unknown = await Promise.resolve()
    .then(action)
    .catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(PlanError);
  expect(error).toMatchObject({ exitCode: 2 });
  return error as PlanError;
}

/** A form in one word: bits, `z` and block. */
function word({ form }: PlannedMatrix): string {
  if (form.kind === "float") return form.type === "FLOAT" ? "fp32" : "fp16";
  return `q${form.bits}${form.zeroPoints ? "z" : ""}-${form.block}`;
}

const all = (found: OnnxPlan): PlannedMatrix[] => found.graphs.flatMap(({ matrices }) => matrices);

describe("a list of dtypes", () => {
  it("names every graph once in each dtype", () => {
    const both = (dtype: string) =>
      ["embed_tokens", "decoder_model_merged"].map((graph) => ({ graph, dtype }));
    expect(parseDtypes(["q4"])).toEqual(both("q4"));
    expect(parseDtypes(["q4", "fp16"])).toEqual(expect.arrayContaining([...both("q4"), ...both("fp16")]));
    expect(parseDtypes(["q4", "fp16"])).toHaveLength(4);
    expect(parseDtypes(["q4", "embed_tokens=q8"])).toEqual([
      { graph: "embed_tokens", dtype: "q8" },
      { graph: "decoder_model_merged", dtype: "q4" },
    ]);
    expect(parseDtypes(["decoder_model_merged=q2"])).toEqual([
      { graph: "decoder_model_merged", dtype: "q2" },
    ]);
    expect(parseDtypes(["q4"], "genai")).toEqual([{ graph: "model", dtype: "q4" }]);
  });

  it.each([
    [["q5"], "unknown-dtype", "--dtype q5: there is no such dtype, expected one of fp32, fp16, q8"],
    [["constructor"], "unknown-dtype", "--dtype constructor"],
    [["embed_tokens=int8"], "unknown-dtype", "--dtype int8"],
    [["vision_encoder=q4"], "unknown-graph", "--dtype vision_encoder=…: there is no such graph"],
    [["q4", "q8", "q4"], "named-twice", "--dtype names q4 twice."],
    [["embed_tokens=q8", "embed_tokens=q4"], "named-twice", "--dtype names embed_tokens twice."],
  ])("is refused when it is %j", async (list, code, message) => {
    const refused = await refusal(() => parseDtypes(list));
    expect(refused.code).toBe(code);
    expect(refused.message).toContain(message);
  });

  it.each([[["q4", "q8"]], [["embed_tokens=q4"]], [[]]])("of %j is none for a single graph", async (list) => {
    expect((await refusal(() => parseDtypes(list, "genai"))).code).toBe("single-dtype");
  });

  it("that names nothing is refused", async () => {
    expect((await refusal(() => plan([]))).code).toBe("no-dtype");
  });
});

describe("a form", () => {
  it.each([
    ["fp32", { kind: "float", type: "FLOAT" }],
    ["fp16", { kind: "float", type: "FLOAT16" }],
    ["q8", { kind: "nbits", bits: 8, block: 32, zeroPoints: false }],
    ["q8z", { kind: "nbits", bits: 8, block: 32, zeroPoints: true }],
    ["q4", { kind: "nbits", bits: 4, block: 32, zeroPoints: false }],
    ["q4z-64", { kind: "nbits", bits: 4, block: 64, zeroPoints: true }],
    ["q2-16", { kind: "nbits", bits: 2, block: 16, zeroPoints: false }],
    ["q2z-256", { kind: "nbits", bits: 2, block: 256, zeroPoints: true }],
  ])("%s is what it says", (text, form) => {
    expect(parseForm(text, 32, "--tensor-type")).toEqual(form);
  });

  it.each([
    ["q3", "unknown-form"],
    ["Q4", "unknown-form"],
    ["q4-", "unknown-form"],
    ["q4-1024", "unknown-form"],
    ["q4z64", "unknown-form"],
    ["bf16", "unknown-form"],
    ["", "unknown-form"],
    ["q4-48", "bad-block-size"],
    ["q4-0", "bad-block-size"],
    ["q8-512", "bad-block-size"],
  ])("%j is refused, and the flag named", async (text, code) => {
    const refused = await refusal(() => parseForm(text, 32, "--tensor-type x=y"));
    expect(refused.code).toBe(code);
    expect(refused.message).toContain("--tensor-type x=y");
  });
});

describe("a dtype", () => {
  // Attention, MLP, per-layer gates, head, embedding, table and projection of per-layer embeddings.
  const q4 = ["q4-32", "q4-32", "q8-32", "q8-32", "q8-32", "q4z-32", "q8-32"] as const;
  const q2 = ["q4-32", "q2z-32", "q8-32", "q4-32", "q4z-32", "q4z-32", "q8-32"] as const;
  const seven = <T>(value: T): T[] => Array.from({ length: 7 }, () => value);

  it.each([
    ["fp32", seven("fp32")],
    ["fp16", seven("fp16")],
    ["q8", seven("q8-32")],
    ["q4", q4],
    ["q4f16", q4],
    ["q2", q2],
    ["q2f16", q2],
  ] as const)(
    "%s gives each role its bits, and leaves norms and scales as they are",
    async (dtype, forms) => {
      const [attention, mlp, gates, head, embedding, table, projection] = forms;
      const expected: Readonly<Record<string, string>> = {
        q_proj: attention,
        k_proj: attention,
        v_proj: attention,
        o_proj: attention,
        ffn_gate: mlp,
        ffn_up: mlp,
        ffn_down: mlp,
        ple_gate: gates,
        ple_layer_projection: gates,
        head,
        embedding,
        ple_table: table,
        ple_projection: projection,
      };
      const roles = new Set<string>();
      for (const matrix of all(await plan([dtype]))) {
        // The tied output matrix is the embedding's weight in the decoder's graph.
        roles.add(matrix.weight.role);
        expect([matrix.name, word(matrix)]).toEqual([matrix.name, expected[matrix.weight.role] ?? "fp32"]);
      }
      expect([...roles]).toEqual(expect.arrayContaining(Object.keys(expected)));
    },
  );

  it.each(["fp32", "fp16", "q8", "q4", "q4f16", "q2", "q2f16"])(
    "%s makes graphs in which nothing is found to be wrong or slow",
    async (dtype) => {
      for (const { bytes, file, layout } of (await plan([dtype])).graphs) {
        const dataFiles = layout.files.map(({ name, size }) => ({ location: name, size }));
        expect(lintModel(await decodeModel(bytes, file), { dataFiles, padsLeft: true })).toEqual([]);
      }
    },
  );

  it("takes another block, and zero points for all or for none", async () => {
    const other = await plan(["q4"], { block: 64, zeroPoints: true });
    const words = new Set(all(other).map((matrix) => word(matrix)));
    expect([...words].toSorted()).toEqual(["fp32", "q4z-64", "q8z-64"]);
    const none = await plan(["q2"], { zeroPoints: false });
    expect(all(none).some((matrix) => word(matrix).includes("z"))).toBe(false);
  });

  it("gives way to patterns, the first that finds a name in the checkpoint or in GGUF", async () => {
    const tensorTypes = [
      { pattern: "layers\\.0\\.mlp\\.down", type: "q8z-64" },
      { pattern: "BLK\\.0\\.ffn_down|blk\\.1\\.", type: "fp16" },
      { pattern: "per_layer\\.weight", type: "fp16" },
    ];
    const matrices = new Map(all(await plan(["q4"], { tensorTypes })).map((each) => [each.name, word(each)]));
    expect(matrices.get("layers.0.mlp.down_proj.weight")).toBe("q8z-64");
    // Numbers of a product are of the type of the graph, those of a table need not be.
    expect(matrices.get("layers.1.mlp.down_proj.weight")).toBe("fp32");
    expect(matrices.get("layers.1.self_attn.q_proj.weight")).toBe("fp32");
    expect(matrices.get("embed_tokens_per_layer.weight")).toBe("fp16");
    expect(matrices.get("layers.2.mlp.down_proj.weight")).toBe("q4-32");
    const half = all(
      await plan(["q4f16"], { tensorTypes: [{ pattern: "blk\\.1\\.ffn_down", type: "fp32" }] }),
    );
    expect(word(half.find(({ name }) => name === "layers.1.mlp.down_proj.weight")!)).toBe("fp16");
  });

  it("of other bits, block or level gives another plan, and the same gives the same", async () => {
    const hash = async (...how: Parameters<typeof plan>): Promise<string> => (await plan(...how)).hash;
    expect(await hash(["q4"])).toBe(await hash(["q4"]));
    const others = await Promise.all([
      hash(["q4"]),
      hash(["q4f16"]),
      hash(["q4"], { block: 64 }),
      hash(["q4"], { accuracyLevel: 0 }),
      hash(["q4"], { method: "nearest" }),
      hash(["q4"], { zeroPoints: true }),
    ]);
    expect(new Set(others).size).toBe(others.length);
    // Rounding knows no method where nothing is rounded.
    expect(await hash(["fp32"], { method: "nearest" })).toBe(await hash(["fp32"]));
  });
});

describe("a plan", () => {
  it.each([
    [{ block: 48 }, "bad-block-size", "--block-size 48: expected a block of 16, 32, 64, 128, 256 values."],
    [{ block: 8 }, "bad-block-size", "--block-size 8"],
    [{ block: 512 }, "bad-block-size", "--block-size 512"],
    [{ block: 32.5 }, "bad-block-size", "--block-size 32.5"],
    [{ accuracyLevel: 5 }, "bad-accuracy-level", "--accuracy-level 5: expected 0 to 4."],
    [{ accuracyLevel: -1 }, "bad-accuracy-level", "--accuracy-level -1"],
    [{ accuracyLevel: 1.5 }, "bad-accuracy-level", "--accuracy-level 1.5"],
    [{ tensorTypes: [{ pattern: "(", type: "q4" }] }, "bad-pattern", "--tensor-type (=q4"],
    [{ tensorTypes: [{ pattern: "mlp", type: "Q4_0" }] }, "unknown-form", "--tensor-type mlp=Q4_0"],
    [
      { tensorTypes: [{ pattern: "layers\\.9\\.", type: "q4" }] },
      "pattern-finds-nothing",
      "--tensor-type layers\\.9\\.=q4: the pattern finds no matrix",
    ],
    // Norms are no matrices.
    [
      { tensorTypes: [{ pattern: "norm", type: "q4", where: "line 3" }] },
      "pattern-finds-nothing",
      "line 3: ",
    ],
  ] as const)("is refused for %j", async (options, code, message) => {
    const refused = await refusal(() => plan(["q4"], options));
    expect(refused.code).toBe(code);
    expect(refused.message).toContain(message);
  });

  it("has no blocks that are longer than what is left of a table's row", async () => {
    const config = { ...base.config, hidden: 144 };
    const weights = base.weights.map((bound) =>
      bound.weight.role === "embedding"
        ? { ...bound, weight: { ...bound.weight, shape: [config.vocabulary, 144] } }
        : bound,
    );
    const graphs = parseDtypes(["embed_tokens=q4"]);
    const refused = await refusal(() => planOnnx({ ...base, config, weights, graphs }));
    expect(refused.code).toBe("block-does-not-fit");
    expect(refused.message).toBe(
      "--block-size 32: a row of embed_tokens.weight has 144 values, which are no whole blocks of 32.",
    );
    const tensorTypes = [{ pattern: "embed_tokens\\.", type: "q4-64" }];
    const own = await refusal(() => planOnnx({ ...base, config, weights, graphs, block: 16, tensorTypes }));
    expect(own.message).toContain(
      "--tensor-type embed_tokens\\.=q4-64: a row of embed_tokens.weight has 144",
    );
    await expect(planOnnx({ ...base, config, weights, graphs, block: 16 })).resolves.toBeDefined();
  });
});

/** Where the bytes of one data file lie. */
function spansOf({ layout }: PlannedGraph): Map<string, [number, number][]> {
  const spans = new Map<string, [number, number][]>();
  for (const { location, offset, byteLength } of layout.tensors) {
    spans.set(location, [...(spans.get(location) ?? []), [offset, offset + byteLength]]);
  }
  return spans;
}

describe("small data files", () => {
  // The table of the embedding has 1024 rows of 256 values, that of the layers rows of 4 · 64.
  const maxFileBytes = 200_000;

  it.each(["fp32", "q8", "q4", "q2f16"])("hold each tensor of %s once, at multiples of 64", async (dtype) => {
    for (const options of [{ maxFileBytes: undefined }, { maxFileBytes: 1_100_000 }]) {
      for (const graph of (await plan([dtype], options)).graphs) {
        const names = graph.layout.files.map(({ name }) => name);
        expect(names[0]).toBe(`${graph.file}_data`);
        expect(names.slice(1)).toEqual(names.slice(1).map((_, i) => `${graph.file}_data_${i + 1}`));
        const spans = spansOf(graph);
        expect([...spans.keys()]).toEqual(names);
        for (const { name, size } of graph.layout.files) {
          let end = 0;
          for (const [from, to] of spans.get(name)!) {
            expect(from % 64).toBe(0);
            expect(from).toBeGreaterThanOrEqual(end);
            end = to;
          }
          expect(end).toBe(size);
          expect(size).toBeLessThanOrEqual(options.maxFileBytes ?? 2 ** 31);
        }
        const unique = new Set(graph.layout.tensors.map(({ name }) => name));
        expect(unique.size).toBe(graph.layout.tensors.length);
        const outputs = graph.matrices.flatMap((matrix) => matrix.outputs);
        expect(outputs).toHaveLength(graph.layout.tensors.length);
        expect(new Set(outputs.map(({ part, offset }) => `${part}:${offset}`)).size).toBe(outputs.length);
      }
    }
  });

  it("cut the head and other matrices by rows, and every value is planned once", async () => {
    for (const dtype of ["fp32", "q4"]) {
      const [decoder] = (await plan([`decoder_model_merged=${dtype}`], { maxFileBytes })).graphs;
      const counts = new Map<string, number>();
      const cuts = new Map<string, PlannedMatrix[]>();
      for (const matrix of decoder!.matrices) {
        const { name } = matrix.weight;
        counts.set(name, (counts.get(name) ?? 0) + matrix.row * matrix.rows);
        cuts.set(name, [...(cuts.get(name) ?? []), matrix]);
        expect(matrix.inputColumn).toBe(0);
      }
      for (const { weight } of decoder!.matrices) {
        expect([weight.name, counts.get(weight.name)]).toEqual([weight.name, parameterCount(weight)]);
      }
      const head = [...cuts.values()].find(([matrix]) => matrix!.weight.role === "head")!;
      expect(head.length).toBeGreaterThan(1);
      // Values of BF16 in the source.
      let first = 0;
      for (const { name, origin, rows, row } of head) {
        expect(name).toMatch(new RegExp(`\\.${first}$`));
        expect(origin.offset - head[0]!.origin.offset).toBe(first * row * 2);
        first += rows;
      }
      expect(first).toBe(1024);
    }
  });

  it("cut tables by columns, at multiples of 256", async () => {
    // A table of 4 · 512 columns.
    const config = { ...base.config, perLayerWidth: 512 };
    const weights = base.weights.map((bound) =>
      bound.weight.role === "ple_table"
        ? { ...bound, weight: { ...bound.weight, shape: [config.perLayerVocabulary, 2048] } }
        : bound,
    );
    const graphs = parseDtypes(["embed_tokens=q4"]);
    const { graphs: planned } = await planOnnx({ ...base, config, weights, graphs, maxFileBytes: 600_000 });
    const table = planned[0]!.matrices.filter(({ weight }) => weight.role === "ple_table");
    expect(table.map(({ name }) => name.replace(/^.*weight/, ""))).toEqual([".0", ".1024"]);
    expect(table.map(({ inputColumn, row, rows, inputRow }) => [inputColumn, row, rows, inputRow])).toEqual([
      [0, 1024, 1024, 2048],
      [1024, 1024, 1024, 2048],
    ]);
    expect(planned[0]!.layout.files.length).toBeGreaterThan(1);
  });

  it.each([
    [
      "decoder_model_merged",
      "per_layer_model_projection.weight: a data file holds 0 of its 256 rows or columns, expected at least 1.",
    ],
    [
      "embed_tokens",
      "embed_tokens.weight: a data file holds 0 of its 256 rows or columns, expected at least 256.",
    ],
  ])("that hold not even a row of %s, or a run of columns, are refused", async (graph, message) => {
    const refused = plan([`${graph}=fp32`], { maxFileBytes: 500 });
    await expect(refused).rejects.toMatchObject({ code: "tensor-too-large" });
    await expect(refused).rejects.toThrow(message);
  });
});

describe("codes that were made before", () => {
  it("take the place of matrices of codes, and change the plan", async () => {
    const found = await plan(["q4"], { zeroPoints: true });
    const names = roundableMatrices(found).map(({ name }) => name);
    expect(names).toContain("layers.0.mlp.down_proj.weight");
    expect(names.some((name) => name.startsWith("embed_tokens"))).toBe(false);
    const [first] = roundableMatrices(found) as [PlannedMatrix];
    const bytesOf = (total: number) => [total - 3, 2, 1].map((bytes) => ({ path: "/x", offset: 0, bytes }));
    const rounded = (pieces: ReturnType<typeof bytesOf>, sha256: string): OnnxPlan =>
      withRoundedMatrices(found, (matrix) => (matrix === first ? { pieces, sha256, effort: 1 } : undefined));
    const changed = rounded(bytesOf(first.byteLength), "a");
    expect(changed).toMatchObject({ method: "gptq" });
    expect(
      all(changed)
        .filter(({ method }) => method === "gptq")
        .map(({ name }) => name),
    ).toEqual([first.name]);
    const other = rounded(bytesOf(first.byteLength), "b");
    expect(new Set([found.hash, changed.hash, other.hash]).size).toBe(3);
    expect(() => rounded(bytesOf(first.byteLength + 1), "a")).toThrow(/planned are/);
    expect(withRoundedMatrices(found, () => undefined)).toBe(found);
  });
});
