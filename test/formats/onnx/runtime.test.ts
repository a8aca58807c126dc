import { join } from "node:path";
import type { InferenceSession } from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import {
  attr,
  externalTensor,
  graph,
  inlineTensor,
  model,
  node,
  valueInfo,
} from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import type { ElementTypeName } from "../../../formats/onnx/element-types.js";
import { MICROSOFT_DOMAIN } from "../../../formats/onnx/versions.js";
import { createOnnx, planExternalData } from "../../../formats/onnx/write.js";
import { temporaryFolder } from "../gguf/support.js";

/** An optional dependency; it has no library for some systems. */
const runtime = await import("onnxruntime-node").then(
  ({ default: module }) => module,
  () => undefined,
);

const K = 64;
const N = 8;
const BLOCK = 32;
const BLOCKS = K / BLOCK;

/** Bytes at random, the same on every run. */
function noise(length: number, seed: number): Uint8Array {
  let state = seed;
  return Uint8Array.from(
    { length },
    () => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 24,
  );
}

function floats(length: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(noise(length, seed), (byte) => (byte - 128) / 128);
}

const asBytes = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer);

/** Value `index` of a list of 4-bit numbers, low bits first. */
const nibble = (bytes: Uint8Array, index: number): number => (bytes[index >> 1]! >> (4 * (index & 1))) & 15;

const x = floats(3 * K, 1);
/** [N, BLOCKS, BLOCK / 2] for MatMulNBits, [K, N] for DequantizeLinear. */
const packed = noise((N * K) / 2, 2);
const scales = floats(N * BLOCKS, 3);
const int4 = noise((K * N) / 2, 4);
/** [BLOCKS, N], as the blocks run along the rows. */
const int4Scales = floats(BLOCKS * N, 5);

/** x · w for w by its element in row k and column n. */
function product(weight: (k: number, n: number) => number): number[] {
  return Array.from({ length: 3 * N }, (_, at) => {
    const [row, n] = [Math.floor(at / N), at % N];
    let sum = 0;
    for (let k = 0; k < K; k++) sum += x[row * K + k]! * weight(k, n);
    return sum;
  });
}

async function writeModel(path: string): Promise<number> {
  const data: Record<string, readonly [ElementTypeName, readonly number[], Uint8Array]> = {
    packed: ["UINT8", [N, BLOCKS, BLOCK / 2], packed],
    scales: ["FLOAT", [N, BLOCKS], asBytes(scales)],
    int4: ["INT4", [K, N], int4],
    int4Scales: ["FLOAT", [BLOCKS, N], asBytes(int4Scales)],
  };
  const plans = Object.entries(data).map(([name, [, , { byteLength }]]) => ({ name, byteLength }));
  const layout = planExternalData("m.onnx", plans, { maxFileBytes: 400 });
  const initializers = layout.tensors.map((place) => {
    const [type, dims] = data[place.name]!;
    return externalTensor(place.name, type, dims, place);
  });
  const bits = node("MatMulNBits", {
    inputs: ["x", "packed", "scales"],
    outputs: ["bits"],
    domain: MICROSOFT_DOMAIN,
    attributes: { K: attr.int(K), N: attr.int(N), bits: attr.int(4), block_size: attr.int(BLOCK) },
  });
  const blocks = { axis: attr.int(0), block_size: attr.int(BLOCK) };
  const nodes = [
    bits,
    node("DequantizeLinear", { inputs: ["int4", "int4Scales"], outputs: ["w"], attributes: blocks }),
    node("MatMul", { inputs: ["x", "w"], outputs: ["product"] }),
    node("Mul", { inputs: ["product", "two"], outputs: ["twice"] }),
  ];
  const whole = graph("g", nodes, {
    inputs: [valueInfo("x", "FLOAT", ["rows", K])],
    outputs: [valueInfo("bits", "FLOAT", ["rows", N]), valueInfo("twice", "FLOAT", ["rows", N])],
    initializers: [...initializers, inlineTensor("two", "FLOAT", [], asBytes(Float32Array.of(2)))],
    values: [valueInfo("w", "FLOAT", [K, N])],
  });
  const parts = {
    opset: 21,
    domains: { [MICROSOFT_DOMAIN]: 1 },
    producer: { name: "lapidary", version: "1" },
  };
  const output = await createOnnx(path, await encodeModel(model(whole, parts)), layout);
  for (const tensor of layout.tensors) await output.writeTensorRange(tensor, 0, data[tensor.name]![2]);
  await output.commit();
  return layout.files.length;
}

describe.skipIf(runtime === undefined)("ONNX Runtime", () => {
  test("runs what is written, with 4-bit weights in two data files", async () => {
    const path = join(temporaryFolder(), "m.onnx");
    expect(await writeModel(path)).toBe(2);
    const { InferenceSession, Tensor } = runtime!;
    // So that the fused product is exact too; by default it rounds the activations to 8 bits.
    const extra = { session: { qdq_matmulnbits_accuracy_level: "0" } };
    const session: InferenceSession = await InferenceSession.create(path, { intraOpNumThreads: 1, extra });
    expect(session.inputMetadata).toMatchObject([{ name: "x", shape: ["rows", K] }]);
    const { bits, twice } = await session.run({ x: new Tensor("float32", x, [3, K]) });
    await session.release();
    const expectedBits = product(
      (k, n) => (nibble(packed, n * K + k) - 8) * scales[n * BLOCKS + Math.floor(k / BLOCK)]!,
    );
    const signed = (value: number): number => (value > 7 ? value - 16 : value);
    const expectedTwice = product(
      (k, n) => 2 * signed(nibble(int4, k * N + n)) * int4Scales[Math.floor(k / BLOCK) * N + n]!,
    );
    for (const [found, expected] of [
      [bits, expectedBits],
      [twice, expectedTwice],
    ] as const) {
      expect(found!.dims).toEqual([3, N]);
      for (const [index, value] of expected.entries()) {
        expect((found!.data as Float32Array)[index]).toBeCloseTo(value, 3);
      }
    }
  });
});
