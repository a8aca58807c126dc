import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { InferenceSession } from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { decodeModel, encodeModel } from "../../../formats/onnx/codec.js";
import { ELEMENT_TYPES } from "../../../formats/onnx/element-types.js";
import type { GraphProto, NodeProto, TensorProto } from "../../../formats/onnx/types.js";
import { openCheckpoint } from "../../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../../src/gemma4/bind.js";
import { readConfig } from "../../../src/gemma4/config.js";
import { DTYPES, type DtypeName, parseDtypes } from "../../../src/plan/onnx/dtypes.js";
import { planOnnx, type PlannedGraph } from "../../../src/plan/onnx/plan.js";
import { makeCheckpoint, NANO } from "../../support/checkpoints.js";
import { scratchFolder } from "../../support/convert.js";

/** The graphs of a checkpoint as they are exported, without weights. */
async function planned(folder: string, dtypes: readonly DtypeName[]): Promise<readonly PlannedGraph[]> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const { weights } = bindCheckpoint(config, checkpoint);
  const graphs = parseDtypes(dtypes);
  const { shards } = checkpoint;
  const plan = await planOnnx({ config, weights, shards, graphs, placeholders: [8, 11], padding: 0 });
  return plan.graphs;
}

/** What the runtime makes of a graph does not depend on the values of its weights: all are zero. */
function zeros({ name, dims, dataType }: TensorProto): TensorProto {
  const bits = ELEMENT_TYPES.find(({ id }) => id === dataType)!.bits;
  const values = dims.reduce((product, size) => product * size, 1);
  return { name: name ?? "", dims, dataType, rawData: new Uint8Array((values * bits) / 8) };
}

/** The graph that the runtime runs in place of the given one, on processors. */
async function optimized(bytes: Uint8Array): Promise<GraphProto> {
  const model = await decodeModel(bytes, "given");
  const initializer = model.graph.initializer.map((each) =>
    each.externalData === undefined ? each : zeros(each),
  );
  const path = join(scratchFolder(), "optimized.onnx");
  const whole = await encodeModel({ ...model, graph: { ...model.graph, initializer } });
  const session = await InferenceSession.create(whole, {
    optimizedModelFilePath: path,
    // It warns that such a file suits this processor only.
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
  });
  await session.release();
  return (await decodeModel(await readFile(path), path)).graph;
}

/** All nodes, those of loops too. */
function allNodes({ node }: GraphProto): NodeProto[] {
  return node.flatMap((each) => [
    each,
    ...each.attribute.flatMap(({ g }) => (g === undefined ? [] : allNodes(g))),
  ]);
}

/** Casts and transpositions may stay in optimized graphs only under these names. */
interface Kept {
  readonly name: RegExp;
  readonly why: string;
}

const PER_CALL: readonly Kept[] = [
  { name: /^rotary\.positions\.float$/, why: "positions come as INT64, angles are numbers" },
  { name: /^sequence\.real$/, why: "the mask comes as INT64, the bias is made of numbers" },
  { name: /^sequence\.(total|last_place)$/, why: "GroupQueryAttention takes lengths as INT32" },
];

const TABLES: readonly Kept[] = [
  { name: /^(embedding|per_layer\.table)$/, why: "rows of a table come as halves, as its scales are" },
];

const HALVES: readonly Kept[] = [
  { name: /^sequence\.bias$/, why: "the bias has the type of the queries" },
  {
    name: /^(per_layer|head|layers\.\d+\.(attention|mlp|per_layer))\.input$/,
    why: "norms and stream are FLOAT",
  },
  {
    name: /^(per_layer\.projection|head|layers\.\d+\.(attention\.([qkv]_proj|output)|mlp\.down|per_layer\.projection))\.float$/,
    why: "what a norm or the stream takes is FLOAT",
  },
  {
    name: /^layers\.\d+\.attention\.([qk]\.rotated|v)\.internal$/,
    why: "heads are normed and rotated as FLOAT, attended to as halves",
  },
  {
    name: /^InsertedPrecisionFreeCast_.*\.(rows|product|gate|up|gated)$/,
    why: "the runtime's own, around operators that it has for FLOAT only on processors: Gemm, Gelu, Mul",
  },
];

const EXPERTS: readonly Kept[] = [
  { name: /^layers\.\d+\.expert\.places$/, why: "NonZero gives a column a hit, GatherND takes a row" },
  {
    name: /^layers\.\d+\.expert\.(gate_up|down)\.scales\.float$/,
    why: "only the scales of the chosen expert",
  },
  { name: /^layers\.\d+\.expert\.still$/, why: "the body of a loop gives its condition under another name" },
];

/** Nodes that move or convert values without computing anything. */
function idle(graph: GraphProto): NodeProto[] {
  return allNodes(graph).filter(({ opType }) => /^(Cast|CastLike|Transpose|Identity)$/.test(opType));
}

/** The rows of a table that a graph's nodes fall under, every one under one. */
function expectKept(graph: GraphProto, table: readonly Kept[]): void {
  const names = idle(graph).map(({ name = "" }) => name);
  const unexplained = names.filter((name) => table.filter((row) => row.name.test(name)).length !== 1);
  expect(unexplained).toEqual([]);
  const unused = table.filter((row) => !names.some((name) => row.name.test(name)));
  expect(unused).toEqual([]);
}

const names = Object.keys(DTYPES) as DtypeName[];
const nano = await planned(NANO, names);
const graphOf = (graphs: readonly PlannedGraph[], graph: string, dtype: DtypeName): Uint8Array =>
  graphs.find((each) => each.graph === graph && each.dtype === dtype)!.bytes;

describe("in the graphs that ONNX Runtime makes of ours there are no casts but these", () => {
  it.each(names.map((dtype) => [dtype]))("%s", async (dtype) => {
    const embed = await optimized(graphOf(nano, "embed_tokens", dtype));
    expectKept(embed, dtype === "fp32" ? [] : TABLES);
    const decoder = await optimized(graphOf(nano, "decoder_model_merged", dtype));
    expectKept(decoder, [...PER_CALL, ...(DTYPES[dtype].internal === "FLOAT16" ? HALVES : [])]);
  });

  it("q4 of a mixture of experts", async () => {
    const folder = join(scratchFolder(), "experts-it");
    await makeCheckpoint(folder, { kind: "moe" });
    const graphs = await planned(folder, ["q4"]);
    const decoder = await optimized(graphOf(graphs, "decoder_model_merged", "q4"));
    expectKept(decoder, [...PER_CALL, ...EXPERTS]);
  });
});
