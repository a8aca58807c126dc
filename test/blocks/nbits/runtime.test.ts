import type { InferenceSession, Tensor as AnyTensor } from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { attr, graph, model, node, valueInfo } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { elementType, type ElementTypeName } from "../../../formats/onnx/element-types.js";
import type { NodeProto, TensorProto } from "../../../formats/onnx/types.js";
import { MICROSOFT_DOMAIN } from "../../../formats/onnx/versions.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";
import { nbitsRow, type NBitsTensors, type NBitsType } from "../../../src/blocks/nbits/types.js";
import { randomFrom } from "../../support/weights.js";
import { nameOf, types } from "./support.js";

/** An optional dependency; it has no library for some systems. */
const runtime = await import("onnxruntime-node").then(
  ({ default: module }) => module,
  () => undefined,
);

const ROWS = 6;

/** A tensor in the graph file, however long: a graph without data files can be loaded from memory. */
function inside(
  name: string,
  type: ElementTypeName,
  dims: readonly number[],
  rawData: Uint8Array,
): TensorProto {
  return { name, dataType: elementType(type).id, dims, rawData };
}

/** Rows whose means differ, so that zero points do, with a block of zeros and one that is next to nothing. */
function rowsOf(row: number): Float32Array {
  const random = randomFrom(row);
  return Float32Array.from({ length: ROWS * row }, (_, at) => {
    const r = Math.floor(at / row);
    if (r === 4) return 0;
    return (random() - 0.5 + (r - 2) / 4) * (r === 5 ? 2 ** -30 : 1);
  });
}

function tensorsOf(type: NBitsType, row: number, { codes, scales, zeroPoints }: NBitsTensors) {
  const sizes = nbitsRow(type, row);
  const blocks = sizes.scales / 2;
  return {
    codes: { bytes: codes, row: sizes.codes, blocks },
    others: [
      inside("scales", "FLOAT16", [ROWS, blocks], scales),
      ...(type.zeroPoints ? [inside("points", "UINT8", [ROWS, sizes.zeroPoints], zeroPoints)] : []),
    ],
    names: ["wide", ...(type.zeroPoints ? ["points"] : [])],
  };
}

/** Runs one node of a graph whose scales are widened from halves. */
async function run(
  product: NodeProto,
  initializers: readonly TensorProto[],
  input: readonly [name: string, type: "FLOAT" | "INT64", shape: readonly number[], tensor: AnyTensor],
  columns: number,
): Promise<Float32Array> {
  const [name, type, shape, tensor] = input;
  const widen = node("Cast", { inputs: ["scales"], outputs: ["wide"], attributes: { to: attr.int(1) } });
  const whole = graph("g", [widen, product], {
    inputs: [valueInfo(name, type, shape)],
    outputs: [valueInfo("y", "FLOAT", [shape[0]!, columns])],
    initializers,
  });
  const bytes = await encodeModel(model(whole, { opset: 21, domains: { [MICROSOFT_DOMAIN]: 1 } }));
  const session: InferenceSession = await runtime!.InferenceSession.create(bytes, { intraOpNumThreads: 1 });
  const { y } = await session.run({ [name]: tensor });
  await session.release();
  return y!.data as Float32Array;
}

/** The weights that MatMulNBits multiplies with: the products of the rows of an identity. */
async function byProduct(type: NBitsType, row: number, tensors: NBitsTensors): Promise<Float32Array> {
  const { codes, others, names } = tensorsOf(type, row, tensors);
  const dims = [ROWS, codes.blocks, codes.row / codes.blocks];
  const attributes = {
    K: attr.int(row),
    N: attr.int(ROWS),
    bits: attr.int(type.bits),
    block_size: attr.int(type.block),
    accuracy_level: attr.int(0),
  };
  const inputs = ["x", "codes", ...names];
  const parts = { inputs, outputs: ["y"], domain: MICROSOFT_DOMAIN, attributes };
  const identity = Float32Array.from({ length: row * row }, (_, at) => (at % (row + 1) === 0 ? 1 : 0));
  const initializers = [inside("codes", "UINT8", dims, codes.bytes), ...others];
  const x = new runtime!.Tensor("float32", identity, [row, row]);
  const found = await run(node("MatMulNBits", parts), initializers, ["x", "FLOAT", [row, row], x], ROWS);
  return Float32Array.from(
    { length: ROWS * row },
    (_, at) => found[(at % row) * ROWS + Math.floor(at / row)]!,
  );
}

/** The rows that GatherBlockQuantized gathers, with their padding. */
async function byGather(type: NBitsType, row: number, tensors: NBitsTensors): Promise<Float32Array> {
  const { codes, others, names } = tensorsOf(type, row, tensors);
  const attributes = {
    bits: attr.int(type.bits),
    block_size: attr.int(type.block),
    gather_axis: attr.int(0),
    quantize_axis: attr.int(1),
  };
  const inputs = ["codes", "rows", ...names];
  const parts = { inputs, outputs: ["y"], domain: MICROSOFT_DOMAIN, attributes };
  const initializers = [inside("codes", "UINT8", [ROWS, codes.row], codes.bytes), ...others];
  const rows = new runtime!.Tensor(
    "int64",
    BigInt64Array.from({ length: ROWS }, (_, r) => BigInt(r)),
    [ROWS],
  );
  const columns = codes.blocks * type.block;
  return run(node("GatherBlockQuantized", parts), initializers, ["rows", "INT64", [ROWS], rows], columns);
}

describe.skipIf(runtime === undefined)("ONNX Runtime", () => {
  test.each(types.map((type) => [nameOf(type), type] as const))("reads %s as we do", async (_, type) => {
    // The last block of a row is cut short, and the last byte of zero points too.
    const row = 2 * type.block + type.block / 2 + 3;
    const values = rowsOf(row);
    for (const method of ["nearest", "search"] as const) {
      const tensors = encodeNBits(type, row, values, undefined, method);
      const ours = new Float32Array(values.length);
      decodeNBits(type, row, tensors, ours);
      expect(await byProduct(type, row, tensors)).toEqual(ours.map((value) => value + 0));
      const padded = 3 * type.block;
      const gathered = await byGather(type, row, tensors);
      for (let r = 0; r < ROWS; r++) {
        const found = gathered.subarray(r * padded, (r + 1) * padded);
        expect(found.subarray(0, row)).toEqual(ours.subarray(r * row, (r + 1) * row));
        expect(found.subarray(row).every((value) => value === 0)).toBe(true);
      }
    }
  });
});
