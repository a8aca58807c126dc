import { cpSync, mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import Inspect from "../../commands/inspect.js";
import {
  attr,
  externalTensor,
  graph,
  inlineTensor,
  model,
  node,
  valueInfo,
} from "../../formats/onnx/build.js";
import { encodeModel } from "../../formats/onnx/codec.js";
import { elementType, type ElementTypeName, tensorBytes } from "../../formats/onnx/element-types.js";
import type { GraphProto, ModelProto, NodeProto, TensorProto } from "../../formats/onnx/types.js";
import { MICROSOFT_DOMAIN } from "../../formats/onnx/versions.js";
import { createOnnx, planExternalData } from "../../formats/onnx/write.js";
import { check } from "../../src/pipeline/check.js";
import { inspect } from "../../src/pipeline/inspect.js";
import type { InspectedGraph, InspectedOnnx } from "../../src/pipeline/inspect-onnx.js";
import { silent } from "../../src/pipeline/progress.js";
import { TILE_VALUES } from "../../src/pipeline/stored-tensors.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { runCommand } from "../support/run-command.js";

/** An optional dependency; it has no library for some systems. */
const runtime = await import("onnxruntime-node").then(
  ({ default: module }) => module,
  () => undefined,
);

const never = new AbortController().signal;

/** Tensors of a data file: type, shape, and the data where it is not all zeros. */
type Data = Readonly<
  Record<string, readonly [type: ElementTypeName, dims: readonly number[], bytes?: Uint8Array]>
>;

const sizeOf = (name: string, type: ElementTypeName, dims: readonly number[]): number =>
  tensorBytes(elementType(type), dims, name);

/** Writes a model whose tensors lie in data files of at most 1000 bytes, or as many as the largest has. */
async function write(
  path: string,
  data: Data,
  modelOf: (tensors: readonly TensorProto[]) => ModelProto,
): Promise<string> {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const plans = Object.entries(data).map(([name, [type, dims]]) => ({
    name,
    byteLength: sizeOf(name, type, dims),
  }));
  const maxFileBytes = Math.max(1000, ...plans.map(({ byteLength }) => byteLength));
  const layout = planExternalData(name, plans, { maxFileBytes });
  const tensors = layout.tensors.map((place) => {
    const [type, dims] = data[place.name]!;
    return externalTensor(place.name, type, dims, place);
  });
  const output = await createOnnx(path, await encodeModel(modelOf(tensors)), layout);
  for (const place of layout.tensors) {
    const bytes = data[place.name]![2] ?? new Uint8Array(place.byteLength);
    await output.writeTensorRange(place, 0, bytes);
  }
  await output.commit();
  return path;
}

const microsoft = (
  opType: string,
  inputs: readonly string[],
  output: string,
  attributes: Readonly<Record<string, number>>,
): NodeProto =>
  node(opType, {
    domain: MICROSOFT_DOMAIN,
    inputs,
    outputs: [output],
    attributes: Object.fromEntries(
      Object.entries(attributes).map(([name, value]) => [name, attr.int(value)]),
    ),
  });

/** The body of a Loop over experts: their weights are stacked, and each round takes those of one. */
function expertsBody(): GraphProto {
  const nodes = [
    node("Gather", { inputs: ["stack", "round"], outputs: ["expert"] }),
    node("Gather", { inputs: ["stack_scales", "round"], outputs: ["half"] }),
    node("Cast", { inputs: ["half"], outputs: ["scales"], attributes: { to: attr.int(1) } }),
    microsoft("MatMulNBits", ["h", "expert", "scales"], "out", {
      K: 32,
      N: 4,
      bits: 2,
      block_size: 16,
      accuracy_level: 4,
    }),
    node("Identity", { inputs: ["go"], outputs: ["go_on"] }),
    node("Identity", { inputs: ["h"], outputs: ["same"] }),
  ];
  return graph("experts", nodes, {
    inputs: [
      valueInfo("round", "INT64", []),
      valueInfo("go", "BOOL", []),
      valueInfo("h", "FLOAT", ["r", 32]),
    ],
    outputs: [
      valueInfo("go_on", "BOOL", []),
      valueInfo("same", "FLOAT", ["r", 32]),
      valueInfo("out", "FLOAT", ["r", 4]),
    ],
  });
}

const DECODER: Data = {
  b: ["UINT8", [4, 3, 8]],
  b_scales: ["FLOAT", [4, 3]],
  b_zeros: ["UINT8", [4, 2]],
  stack: ["UINT8", [2, 4, 2, 4]],
  stack_scales: ["FLOAT16", [2, 4, 2]],
};

/** A decoder of one matrix of 4 bits, two experts of 2 bits in a Loop, and a norm; one matrix is stored twice. */
function decoder(tensors: readonly TensorProto[]): ModelProto {
  const nodes = [
    node("SimplifiedLayerNormalization", { inputs: ["x", "gain"], outputs: ["n"], name: "norm" }),
    microsoft("MatMulNBits", ["n", "b", "b_scales", "b_zeros"], "y", {
      K: 40,
      N: 4,
      bits: 4,
      block_size: 16,
      accuracy_level: 4,
    }),
    node("Loop", {
      inputs: ["rounds", "", "z"],
      outputs: ["z_out", "experts_out"],
      attributes: { body: attr.graph(expertsBody()) },
    }),
  ];
  const gain = new Uint8Array(new Float32Array(40).fill(1).buffer);
  const rounds = new Uint8Array(new BigInt64Array([2n]).buffer);
  const { name: _, ...tied } = tensors[0]!;
  return model(
    graph("decoder", nodes, {
      inputs: [valueInfo("x", "FLOAT", ["rows", 40]), valueInfo("z", "FLOAT", ["rows", 32])],
      outputs: [
        valueInfo("y", "FLOAT", ["rows", 4]),
        valueInfo("z_out", "FLOAT", ["rows", 32]),
        valueInfo("experts_out", "FLOAT", [2, "rows", 4]),
      ],
      initializers: [
        { name: "tied", ...tied },
        ...tensors,
        inlineTensor("gain", "FLOAT", [40], gain),
        inlineTensor("rounds", "INT64", [], rounds),
      ],
    }),
    { opset: 21, domains: { [MICROSOFT_DOMAIN]: 1 }, producer: { name: "lapidary", version: "1" } },
  );
}

const TABLE: Data = { table: ["UINT8", [4, 32]], scales: ["FLOAT16", [4, 2]] };

/** A table of embeddings in 8 bits. */
function embedding(tensors: readonly TensorProto[]): ModelProto {
  const attributes = { bits: 8, block_size: 16 };
  return model(
    graph("embed", [microsoft("GatherBlockQuantized", ["table", "ids", "scales"], "y", attributes)], {
      inputs: [valueInfo("ids", "INT64", ["batch", "length"])],
      outputs: [valueInfo("y", "FLOAT16", ["batch", "length", 32])],
      initializers: tensors,
    }),
    { opset: 21, domains: { [MICROSOFT_DOMAIN]: 1 } },
  );
}

/** A model that hands its input through, around tensors of any kind. */
function around(tensors: readonly TensorProto[]): ModelProto {
  const nodes = [node("Identity", { inputs: ["x"], outputs: ["y"] })];
  const inputs = [valueInfo("x", "FLOAT", [1])];
  const outputs = [valueInfo("y", "FLOAT", [1])];
  return model(graph("g", nodes, { inputs, outputs, initializers: tensors }), { opset: 21 });
}

/** A folder in the layout of transformers.js. */
async function layoutFolder(): Promise<string> {
  const folder = scratchFolder();
  mkdirSync(join(folder, "onnx"));
  writeFileSync(join(folder, "config.json"), "{}");
  await write(join(folder, "onnx", "decoder_model_merged_q4.onnx"), DECODER, decoder);
  await write(join(folder, "onnx", "embed_tokens_quantized.onnx"), TABLE, embedding);
  return folder;
}

async function graphsOf(path: string): Promise<readonly InspectedGraph[]> {
  const found = await inspect(path);
  expect(found).toMatchObject({ kind: "onnx", path });
  return (found as InspectedOnnx).graphs;
}

const filesOf = async (path: string): Promise<string[]> => (await graphsOf(path)).map(({ file }) => file);

const floats = (...values: number[]): Uint8Array => new Uint8Array(new Float32Array(values).buffer);

describe("inspect of ONNX", () => {
  it("tells of every graph in the layout of transformers.js", async () => {
    const [first, second] = await graphsOf(await layoutFolder());
    expect(first).toMatchObject({
      file: "onnx/decoder_model_merged_q4.onnx",
      // Each tensor begins at a multiple of 64.
      dataFiles: [{ file: "decoder_model_merged_q4.onnx_data", bytes: 128 + 64 + 64 + 64 + 32 }],
      opset: 21,
      irVersion: 10,
      domains: [{ domain: MICROSOFT_DOMAIN, version: 1 }],
      producer: { name: "lapidary", version: "1" },
      nodes: 9,
      subgraphs: 1,
      accuracyLevels: [{ level: 4, nodes: 2 }],
      findings: [],
    });
    expect(first?.operators.slice(0, 3)).toEqual([
      { operator: "MatMulNBits", domain: MICROSOFT_DOMAIN, nodes: 2 },
      { operator: "Gather", domain: "", nodes: 2 },
      { operator: "Identity", domain: "", nodes: 2 },
    ]);
    expect(first?.inputs[0]).toEqual({ name: "x", type: "FLOAT", shape: ["rows", 40] });
    expect(first?.tensors.slice(1, 2)).toEqual([
      {
        name: "b",
        path: "graph.initializer[1]",
        type: "UINT8",
        shape: [4, 3, 8],
        bytes: 96,
        file: "decoder_model_merged_q4.onnx_data",
        offset: 0,
      },
    ]);
    expect(first?.tensors.at(-1)).toMatchObject({
      name: "rounds",
      offset: null,
      file: "decoder_model_merged_q4.onnx",
    });
    expect(second).toMatchObject({ file: "onnx/embed_tokens_quantized.onnx", producer: null, subgraphs: 0 });
  });

  it("counts weights by how they are stored, with scales and zero points, and tied ones once", async () => {
    const [first, second] = await graphsOf(await layoutFolder());
    // 4 rows of 40 values in 3 blocks: 96 bytes, 12 scales of 4 bytes, 4 · 2 bytes of zero points.
    const matrix = { tensors: 1, values: 160, bytes: 96 + 48 + 8, bitsPerWeight: 7.6 };
    // 2 experts of 4 rows of 32 values in 2 blocks: 64 bytes, 16 scales of 2 bytes.
    const experts = { tensors: 1, values: 256, bytes: 64 + 32, bitsPerWeight: 3 };
    expect(first?.storage).toEqual([
      { storage: "FLOAT", tensors: 1, values: 40, bytes: 160, bitsPerWeight: 32 },
      { storage: "MatMulNBits 4-bit block 16", ...matrix },
      { storage: "MatMulNBits 2-bit block 16", ...experts },
      { storage: "INT64", tensors: 1, values: 1, bytes: 8, bitsPerWeight: 64 },
    ]);
    expect(first).toMatchObject({ values: 456, bytes: 408, bitsPerWeight: (408 * 8) / 456 });
    expect(second?.storage).toEqual([
      {
        storage: "GatherBlockQuantized 8-bit block 16",
        tensors: 1,
        values: 128,
        bytes: 144,
        bitsPerWeight: 9,
      },
    ]);
  });

  it.skipIf(runtime === undefined)("finds the inputs and outputs that ONNX Runtime finds", async () => {
    const folder = await layoutFolder();
    for (const { file, inputs, outputs } of await graphsOf(folder)) {
      const session = await runtime!.InferenceSession.create(join(folder, file), { logSeverityLevel: 4 });
      const names: Readonly<Record<string, string>> = {
        float32: "FLOAT",
        float16: "FLOAT16",
        int64: "INT64",
      };
      const values = (metadata: typeof session.inputMetadata): unknown[] =>
        metadata.map((value) =>
          value.isTensor ? { name: value.name, type: names[value.type], shape: value.shape } : value,
        );
      expect(inputs).toEqual(values(session.inputMetadata));
      expect(outputs).toEqual(values(session.outputMetadata));
      await session.release();
    }
  });

  it("counts what MatMulBnb4, QMoE and DequantizeLinear read", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const data: Data = {
      nf4: ["UINT8", [256]],
      absmax: ["FLOAT", [8]],
      w1: ["UINT8", [2, 4, 16]],
      s1: ["FLOAT", [2, 4, 1]],
      int4: ["INT4", [32, 3]],
      s: ["FLOAT16", [2, 3]],
      plain: ["BFLOAT16", [5]],
    };
    await write(path, data, (tensors) => ({
      ...around(tensors),
      graph: graph(
        "g",
        [
          microsoft("MatMulBnb4", ["x", "nf4", "absmax"], "a", {
            K: 64,
            N: 8,
            block_size: 64,
            quant_type: 1,
          }),
          microsoft("QMoE", ["x", "x", "w1", "s1"], "c", { expert_weight_bits: 4, block_size: 32 }),
          node("DequantizeLinear", {
            inputs: ["int4", "s"],
            outputs: ["y"],
            attributes: { block_size: attr.int(16) },
          }),
        ],
        {
          inputs: [valueInfo("x", "FLOAT", [1])],
          outputs: [valueInfo("y", "FLOAT16", [32, 3])],
          initializers: tensors,
        },
      ),
    }));
    const [found] = await graphsOf(path);
    expect(found?.storage.map(({ storage, values, bytes }) => [storage, values, bytes])).toEqual([
      ["MatMulBnb4 4-bit block 64", 512, 256 + 32],
      ["QMoE 4-bit block 32", 256, 128 + 32],
      ["DequantizeLinear INT4 block 16", 96, 48 + 12],
      ["BFLOAT16", 5, 10],
    ]);
  });

  it("tells of kinds of values that are no tensors, and of shapes that are not known", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const float = { tensorType: { elemType: 1 } };
    const inputs = [
      { name: "none" },
      { name: "any", type: float },
      {
        name: "dim",
        type: { tensorType: { elemType: 99, shape: { dim: [{}, { dimValue: 2 }, { dimParam: "n" }] } } },
      },
      { name: "list", type: { sequenceType: { elemType: float } } },
    ];
    writeFileSync(path, await encodeModel(model(graph("g", [], { inputs, outputs: [] }), { opset: 21 })));
    expect((await graphsOf(path))[0]?.inputs).toEqual([
      { name: "none", type: "unknown", shape: null },
      { name: "any", type: "FLOAT", shape: null },
      { name: "dim", type: "type 99", shape: [null, 2, "n"] },
      { name: "list", type: "sequence", shape: null },
    ]);
  });

  it("asks for a bias only where batches are padded on the left", async () => {
    const folder = scratchFolder();
    const attention = node("GroupQueryAttention", {
      domain: MICROSOFT_DOMAIN,
      inputs: ["x", "x", "x", "", "", "n", "t"],
      outputs: ["y", "k", "v"],
    });
    const made = model(
      graph("g", [attention], {
        inputs: [
          valueInfo("x", "FLOAT", [1, 1, 8]),
          valueInfo("n", "INT32", [1]),
          valueInfo("t", "INT32", []),
        ],
        outputs: [valueInfo("y", "FLOAT", [1, 1, 8])],
      }),
      { opset: 21, domains: { [MICROSOFT_DOMAIN]: 1 } },
    );
    for (const name of ["decoder_model_merged.onnx", "model.onnx"]) {
      writeFileSync(join(folder, name), await encodeModel(made));
    }
    const found = await graphsOf(folder);
    expect(found.map(({ findings }) => findings.map(({ rule }) => rule))).toEqual([["gqa-left-padding"], []]);
  });
});

describe("where graphs are looked for", () => {
  it("is the file itself, its folder, and the folder onnx", async () => {
    const folder = await layoutFolder();
    expect(await filesOf(join(folder, "onnx", "embed_tokens_quantized.onnx"))).toEqual([
      "embed_tokens_quantized.onnx",
    ]);
    const names = ["decoder_model_merged_q4.onnx", "embed_tokens_quantized.onnx"];
    expect(await filesOf(join(folder, "onnx"))).toEqual(names);
    await write(join(folder, "model.ONNX"), TABLE, embedding);
    mkdirSync(join(folder, "folder.onnx"));
    expect(await filesOf(folder)).toEqual(["model.ONNX", ...names.map((name) => `onnx/${name}`)]);
  });

  it("is every folder beside genai_config.json", async () => {
    const folder = scratchFolder();
    for (const name of ["decoder", "embedding"]) {
      mkdirSync(join(folder, name));
      await write(join(folder, name, "model.onnx"), TABLE, embedding);
    }
    await expect(inspect(folder)).rejects.toThrow(/config\.json/);
    writeFileSync(join(folder, "genai_config.json"), "{}");
    expect(await filesOf(folder)).toEqual(["decoder/model.onnx", "embedding/model.onnx"]);
  });

  it("is not a checkpoint that has graphs too", async () => {
    const folder = join(scratchFolder(), "nano");
    cpSync(nanoCheckpoint, folder, { recursive: true });
    await write(join(folder, "model.onnx"), TABLE, embedding);
    expect(await inspect(folder)).toMatchObject({ kind: "checkpoint" });
  });
});

describe("check of ONNX", () => {
  it("finds sound graphs sound, and reads what is shared once", async () => {
    const folder = await layoutFolder();
    expect(await check(folder, silent, never)).toEqual({
      kind: "check",
      source: "onnx",
      path: folder,
      tensors: 9,
      values: 96 + 12 + 8 + 64 + 16 + 40 + 1 + 128 + 8,
      bytes: 96 + 48 + 8 + 64 + 32 + 160 + 8 + 128 + 16,
      bad: [],
      unread: [],
      manifest: null,
      findings: [],
      error: null,
    });
  });

  it("names the tensor, the file and the place of what is not finite", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const long = new Float32Array(TILE_VALUES + 5);
    long[TILE_VALUES + 2] = Infinity;
    const data: Data = {
      half: ["FLOAT16", [2, 3], new Uint8Array(new Uint16Array([0, 0, 0, 0, 0x7e00, 0xfc00]).buffer)],
      brain: ["BFLOAT16", [2], new Uint8Array(new Uint16Array([0, 0xff80]).buffer)],
      double: ["DOUBLE", [2], new Uint8Array(new Float64Array([NaN, 1]).buffer)],
      long: ["FLOAT", [1, long.length], new Uint8Array(long.buffer)],
      sound: ["FLOAT", [2], floats(1, 2)],
      packed: ["UINT8", [4], new Uint8Array(4).fill(255)],
      eighth: ["FLOAT8E4M3FN", [2]],
    };
    await write(path, data, (tensors) =>
      around([...tensors, inlineTensor("inside", "FLOAT", [3], floats(0, 1, NaN))]),
    );
    const { bad, unread, error } = await check(path, silent, never);
    const file = "m.onnx_data";
    expect(bad).toEqual([
      { name: "half", type: "FLOAT16", file, row: 1, column: 1, value: "NaN", values: 2 },
      { name: "brain", type: "BFLOAT16", file, row: 0, column: 1, value: "-Infinity", values: 1 },
      { name: "double", type: "DOUBLE", file, row: 0, column: 0, value: "NaN", values: 1 },
      {
        name: "long",
        type: "FLOAT",
        file: `${file}_1`,
        row: 0,
        column: TILE_VALUES + 2,
        value: "Infinity",
        values: 1,
      },
      { name: "inside", type: "FLOAT", file: "m.onnx", row: 0, column: 2, value: "NaN", values: 1 },
    ]);
    expect(unread).toEqual([{ name: "eighth", type: "FLOAT8E4M3FN" }]);
    expect(error).toMatchObject({ code: "non-finite", exitCode: 1 });
    expect(error?.message).toMatch(
      /m\.onnx: 5 tensors hold values that are not finite.*half \(NaN at row 1, column 1\)/,
    );
  });

  it("takes a single infinity for a mask, and a single NaN for damage", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const data: Data = { mask: ["FLOAT", [], floats(-Infinity)], bad: ["FLOAT", [1], floats(NaN)] };
    await write(path, data, around);
    expect((await check(path, silent, never)).bad).toMatchObject([{ name: "bad" }]);
  });

  it("fails for errors of the graph, and not for warnings", async () => {
    const folder = scratchFolder();
    const path = join(folder, "m.onnx");
    const made = around([]);
    const twice = { ...made.graph, node: [...made.graph.node, ...made.graph.node] };
    writeFileSync(path, await encodeModel({ ...made, graph: twice }));
    const { findings, error } = await check(path, silent, never);
    expect(findings).toMatchObject([{ file: "m.onnx", rule: "value-twice", node: "graph.node[1]" }]);
    expect(error).toMatchObject({
      code: "onnx-lint",
      message: `${path}: 1 error in the graph, expected none: m.onnx, graph.node[1]: The value "y" is defined twice.`,
      advice: "Give every value a name of its own.",
      exitCode: 1,
    });

    const foreign = node("FastGelu", { inputs: ["x"], outputs: ["y"], domain: MICROSOFT_DOMAIN });
    writeFileSync(path, await encodeModel({ ...made, graph: { ...made.graph, node: [foreign] } }));
    expect(await check(path, silent, never)).toMatchObject({
      findings: [{ rule: "domain-import", severity: "warning" }],
      error: null,
    });
  });

  it("stops when it is told to", async () => {
    const abort = new AbortController();
    const reason = new Error("enough");
    const reporter = { ...silent, progress: () => abort.abort(reason) };
    await expect(check(await layoutFolder(), reporter, abort.signal)).rejects.toBe(reason);
  });
});

describe("the command", () => {
  it("shows tables for people", async () => {
    const folder = await layoutFolder();
    const { code, stdout } = await runCommand(Inspect, [folder, "--tensors"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/onnx\/decoder_model_merged_q4\.onnx \([\d,]+ bytes\)/);
    expect(stdout).toMatch(/opset 21, com\.microsoft 1, IR 10/);
    expect(stdout).toMatch(/MatMulNBits 2-bit block 16 +│ +1 │ +256 │ +96 │ +3\.000/);
    expect(stdout).toMatch(/nodes +│ 9, those of 1 inner graph included/);
    expect(stdout).toMatch(/accuracy level +│ 4 \(2 nodes\)/);
    expect(stdout).toMatch(/stack_scales +│ FLOAT16 +│ 2 × 4 × 2/);
    expect(stdout).toMatch(/experts_out +│ FLOAT +│ \[2, rows, 4\]/);
    const json = await runCommand(Inspect, [folder, "--json"]);
    expect(JSON.parse(json.stdout)).toEqual(await inspect(folder));
  });

  it("lists findings without --check, and fails with it", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const made = around([]);
    const nodes = Array.from({ length: 5 }, () => made.graph.node[0]!);
    writeFileSync(path, await encodeModel({ ...made, graph: { ...made.graph, node: nodes } }));
    const shown = await runCommand(Inspect, [path]);
    expect(shown).toMatchObject({ code: 0, stderr: "" });
    expect(shown.stdout).toMatch(/findings +│ 4 errors/);
    expect(shown.stdout).toMatch(/error +│ value-twice +│ graph\.node\[1\]: The value "y" is defined twice/);
    expect(shown.stdout).toMatch(/and 1 more/);
    expect(shown.stdout).toMatch(/Give every value a name of its own/);

    const checked = await runCommand(Inspect, ["--check", path]);
    expect(checked.code).toBe(1);
    expect(checked.stdout).toMatch(/graphs +│ 4 errors/);
    expect(checked.stderr).toMatch(/^Error: .*m\.onnx: 4 errors in the graph, expected none/m);
    expect(checked.stderr.match(/^Error: /gm)).toHaveLength(1);
    const json = await runCommand(Inspect, ["--check", path, "--json"]);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ source: "onnx", error: { code: "onnx-lint" } });
  });

  it("cannot put control characters of a file on a terminal", async () => {
    const path = join(scratchFolder(), "m.onnx");
    const nodes = [
      node("Foo\u001b[2J", { inputs: ["x"], outputs: ["y"], name: "n\u001b]0;t\u0007", domain: "d" }),
    ];
    const inputs = [valueInfo("x", "FLOAT", ["\u009b31m"])];
    const made = graph("g", nodes, { inputs, outputs: [valueInfo("y", "FLOAT")] });
    writeFileSync(path, await encodeModel(model(made, { opset: 21, domains: { "d\u001bc": 1 } })));
    for (const argv of [[path], ["--check", path], [path, "--tensors"]]) {
      const { stdout, stderr } = await runCommand(Inspect, argv);
      expect(`${stdout}${stderr}`).not.toMatch(/[^\P{Cc}\n]/u);
      expect(stdout).toContain("\\x1b");
    }
  });
});

describe("files that are damaged or hostile give one error", () => {
  async function sound(): Promise<string> {
    return write(join(scratchFolder(), "m.onnx"), TABLE, embedding);
  }

  async function expectOneError(path: string, words: RegExp, code = 1): Promise<void> {
    for (const argv of [[path], ["--check", path]]) {
      const run = await runCommand(Inspect, argv);
      expect(run.stderr).toMatch(words);
      expect(run.stderr.match(/^Error: /gm)).toHaveLength(1);
      expect(run.stderr).not.toMatch(/^\s+at /m);
      expect(run).toMatchObject({ code, stdout: "" });
    }
  }

  it("data that is cut short", async () => {
    const path = await sound();
    truncateSync(`${path}_data`, 100);
    await expectOneError(
      path,
      /m\.onnx_data: the data of graph\.initializer\[0\] ends at byte 128, but the file has 100/,
    );
  });

  it("data that is not there", async () => {
    const path = await sound();
    const { graph } = embedding([
      externalTensor("table", "UINT8", [4], { location: "no", offset: 0, length: 4 }),
    ]);
    writeFileSync(path, await encodeModel(model(graph, { opset: 21 })));
    await expectOneError(path, /no: there is no such data file, expected by .*m\.onnx/, 2);
  });

  it("a graph that is cut short", async () => {
    const path = await sound();
    const bytes = readFileSync(path);
    writeFileSync(path, bytes.subarray(0, bytes.length - 20));
    await expectOneError(path, /m\.onnx.*(cut off|announced)/s);
  });

  it.each(["../secret", "/etc/passwd", "a/../../secret", "C:secret"])(
    "a path that leads out: %s",
    async (location) => {
      const path = await sound();
      const tensor = {
        name: "t",
        dataType: 2,
        dims: [1],
        dataLocation: 1,
        externalData: [{ key: "location", value: location }],
      };
      writeFileSync(path, await encodeModel(around([tensor])));
      await expectOneError(path, /m\.onnx: tensor "t".*expected a path inside the folder/);
    },
  );

  it("graphs inside each other without end", async () => {
    const path = await sound();
    let bytes: Buffer = Buffer.alloc(0);
    const field = (id: number, inner: Buffer): Buffer => {
      const length: number[] = [];
      for (let rest = inner.length; ; rest = Math.floor(rest / 128)) {
        length.push(rest < 128 ? rest : (rest % 128) | 128);
        if (rest < 128) break;
      }
      return Buffer.concat([Buffer.from([id * 8 + 2, ...length]), inner]);
    };
    for (let level = 0; level < 200; level++) bytes = field(1, field(5, field(6, bytes)));
    const opset = Buffer.from([8 * 8 + 2, 2, 16, 21]);
    writeFileSync(path, Buffer.concat([Buffer.from([8, 10]), field(7, bytes), opset]));
    await expectOneError(path, /nested deeper than 64/);
  });

  it("an opset from the future", async () => {
    const path = await sound();
    writeFileSync(path, await encodeModel({ ...around([]), opsetImport: [{ domain: "", version: 27 }] }));
    await expectOneError(path, /m\.onnx: the opset is 27, expected 21 to 26/);
  });

  it("a link to nowhere in a folder", async () => {
    const folder = scratchFolder();
    symlinkSync(join(folder, "gone"), join(folder, "m.onnx"));
    await expectOneError(folder, /m\.onnx: there is no such file/, 2);
  });

  it("a folder of more graphs than anyone has", async () => {
    const folder = scratchFolder();
    for (let index = 0; index <= 1000; index++) writeFileSync(join(folder, `${index}.onnx`), "");
    await expectOneError(folder, /holds 1001 ONNX graphs, expected at most 1000/, 2);
  });
});
