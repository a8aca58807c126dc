import { openOnnx, type OnnxModel, TensorReader } from "../../formats/onnx/read.js";
import type { GraphProto, NodeProto } from "../../formats/onnx/types.js";
import { halvesToFloats, halfToFloat, floatToHalf } from "../../src/blocks/floats.js";
import { decodeNBits } from "../../src/blocks/nbits/decode.js";
import type { NBitsTensors, NBitsType } from "../../src/blocks/nbits/types.js";
import { exportOnnx, type ExportReport, type ExportRequest } from "../../src/pipeline/export.js";
import { silent } from "../../src/pipeline/progress.js";
import type { DtypeName } from "../../src/plan/onnx/dtypes.js";
import { nanoCheckpoint, scratchFolder } from "./convert.js";

/** Every dtype, and what stands behind the names of its graphs: transformers.js's table. */
export const SUFFIXES: Readonly<Record<DtypeName, string>> = {
  fp32: "",
  fp16: "_fp16",
  q8: "_quantized",
  q4: "_q4",
  q4f16: "_q4f16",
  q2: "_q2",
  q2f16: "_q2f16",
};

export const ALL_DTYPES = Object.keys(SUFFIXES) as DtypeName[];

/** A request for the miniature, with exact products and everything small. */
export function exportRequest(request: Partial<ExportRequest> = {}): ExportRequest {
  return {
    source: nanoCheckpoint,
    out: scratchFolder(),
    dtypes: ["q4"],
    layout: "transformers.js",
    accuracyLevel: 0,
    threads: 2,
    memory: 256 * 1024 ** 2,
    dryRun: false,
    force: false,
    // It starts both runtimes, and says nothing of what is written.
    checkRange: false,
    ...request,
  };
}

export function exportPackage(
  request: Partial<ExportRequest> = {},
  signal = new AbortController().signal,
): Promise<ExportReport> {
  return exportOnnx(exportRequest(request), silent, signal);
}

let nano: Promise<string> | undefined;

/** Folder of the miniature in all dtypes; made once in a test process. Nobody may change it. */
export function nanoPackage(): Promise<string> {
  nano ??= (async () => {
    const out = scratchFolder();
    await exportPackage({ out, dtypes: ALL_DTYPES });
    return out;
  })();
  return nano;
}

/** Paths of the graphs of a dtype. */
export function graphPaths(
  folder: string,
  dtype: DtypeName,
): { readonly embed: string; readonly decoder: string } {
  const path = (graph: string): string => `${folder}/onnx/${graph}${SUFFIXES[dtype]}.onnx`;
  return { embed: path("embed_tokens"), decoder: path("decoder_model_merged") };
}

/** A weight as a graph file holds it, or a cut of one. */
export interface StoredWeight {
  /** Name of the tensor of its values, or of its codes without `.codes`. */
  readonly name: string;
  /** Null for values as they are. */
  readonly type: NBitsType | null;
  readonly element: "FLOAT" | "FLOAT16" | "UINT8";
  /** Values of a row. */
  readonly row: number;
  readonly values: Float32Array;
  /** Empty for values as they are. */
  readonly parts: NBitsTensors;
}

/** All nodes, those in the bodies of loops included. */
function allNodes({ node }: GraphProto): NodeProto[] {
  return node.flatMap((each) => [
    each,
    ...each.attribute.flatMap(({ g }) => (g === undefined ? [] : allNodes(g))),
  ]);
}

/** Operators that hand a stored tensor on: to another type, or one matrix of a stack. */
const HANDING_ON = new Set(["Cast", "Gather"]);

function integer(node: NodeProto, name: string): number {
  return Number(node.attribute.find((attribute) => attribute.name === name)?.i);
}

/**
 * What a graph's nodes make of the bytes in its data files: forms come from the operators that read the codes, not from
 * a plan.
 */
export async function storedWeights(path: string): Promise<StoredWeight[]> {
  const model = await openOnnx(path);
  const reader = new TensorReader(model.dataFiles);
  try {
    return await readWeights(model, reader);
  } finally {
    await reader.close();
  }
}

async function readWeights({ model, tensors }: OnnxModel, reader: TensorReader): Promise<StoredWeight[]> {
  const external = new Map(
    tensors.filter(({ place }) => place.kind === "external").map((tensor) => [tensor.name, tensor]),
  );
  const nodes = allNodes(model.graph);
  const producers = new Map(nodes.flatMap((node) => node.output.map((output) => [output, node] as const)));
  const origin = (name: string): string => {
    const producer = external.has(name) ? undefined : producers.get(name);
    return producer !== undefined && HANDING_ON.has(producer.opType) ? origin(producer.input[0]!) : name;
  };
  const bytesOf = async (name: string): Promise<Uint8Array<ArrayBuffer>> => {
    const tensor = external.get(name);
    if (tensor === undefined) return new Uint8Array(0);
    const bytes = new Uint8Array(tensor.byteLength);
    await reader.read(tensor, bytes);
    return bytes;
  };
  const weights: StoredWeight[] = [];
  const seen = new Set<string>();
  for (const node of nodes) {
    const product = node.opType === "MatMulNBits";
    if (!product && node.opType !== "GatherBlockQuantized") continue;
    const [codes, scales, zeros] = [product ? 1 : 0, 2, 3].map((at) => origin(node.input[at] ?? ""));
    const dims = external.get(codes!)!.dims;
    const bits = integer(node, "bits") as NBitsType["bits"];
    const type = { bits, block: integer(node, "block_size"), zeroPoints: zeros !== "" };
    const row = product ? integer(node, "K") : (dims.at(-1)! * 8) / bits;
    const rows = (product ? dims.slice(0, -2) : dims.slice(0, -1)).reduce((a, b) => a * b, 1);
    const values = new Float32Array(rows * row);
    const [codeBytes, scaleBytes, zeroBytes] = await Promise.all([codes!, scales!, zeros!].map(bytesOf));
    const parts = { codes: codeBytes!, scales: scaleBytes!, zeroPoints: zeroBytes! };
    decodeNBits(type, row, parts, values);
    for (const name of [codes!, scales!, zeros!]) seen.add(name);
    weights.push({ name: codes!.replace(/\.codes$/, ""), type, element: "UINT8", row, values, parts });
  }
  const empty = new Uint8Array(0);
  const parts = { codes: empty, scales: empty, zeroPoints: empty };
  for (const [name, { type, dims }] of external) {
    if (seen.has(name)) continue;
    if (type !== "FLOAT" && type !== "FLOAT16") throw new Error(`Nothing reads ${name} of type ${type}.`);
    const bytes = await bytesOf(name);
    const values = type === "FLOAT" ? new Float32Array(bytes.buffer) : new Float32Array(bytes.length / 2);
    if (type === "FLOAT16") halvesToFloats(bytes, values);
    weights.push({ name, type: null, element: type, row: dims.at(-1) ?? 1, values, parts });
  }
  return weights;
}

/** Rounds to half, which is what an N-bits table gives. */
export function asHalves(values: Float32Array): Float32Array {
  return values.map((value) => halfToFloat(floatToHalf(value)));
}

/** Values of all weights of the two graphs of a dtype, as the graphs compute with them; no weight may be cut. */
export async function storedModel(
  folder: string,
  dtype: DtypeName,
): Promise<ReadonlyMap<string, Float32Array>> {
  const { embed, decoder } = graphPaths(folder, dtype);
  const values = new Map<string, Float32Array>();
  for (const weight of await storedWeights(decoder)) values.set(weight.name, weight.values);
  for (const { name, type, values: table } of await storedWeights(embed)) {
    values.set(name, type === null ? table : asHalves(table));
  }
  return values;
}
