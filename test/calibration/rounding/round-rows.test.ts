import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KernelRounder } from "../../../calibration/rounding/kernel-rounder.js";
import { Products } from "../../../calibration/rounding/products.js";
import { type Factor, reverseLdl, sharedFactor } from "../../../calibration/rounding/reverse-ldl.js";
import { outputBytes, roundRows } from "../../../calibration/rounding/round-rows.js";
import type { Effort } from "../../../calibration/rounding/types.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { Kernels } from "../../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import type { TargetType } from "../../../src/pool/tiles.js";
import { loadRuntime, RUNTIME_PACKAGE } from "../../../src/engines/onnx/runtime.js";
import { correlatedMoments, normals } from "../../support/matrices.js";

let products: Products;
let rounder: KernelRounder;
let kernels: Kernels;

beforeAll(async () => {
  const module = await compileKernels();
  rounder = new KernelRounder(module);
  kernels = new Kernels(module, 2 ** 17);
  products = await Products.open(await loadRuntime(RUNTIME_PACKAGE.name), 1);
});

afterAll(async () => {
  await products.release();
});

/** What a reader makes of the outputs. */
function read(target: TargetType, columns: number, outputs: readonly Uint8Array[], out: Float32Array): void {
  const [codes, scales, zeroPoints = new Uint8Array()] = outputs as [Uint8Array, Uint8Array, Uint8Array?];
  if (typeof target === "string") decode(target, codes, out);
  else decodeNBits(target, columns, { codes, scales, zeroPoints }, out);
}

/** What the search makes of a matrix. */
function search(
  target: TargetType,
  columns: number,
  values: Float32Array,
  importance: Float32Array,
): readonly Uint8Array[] {
  kernels.input.set(new Uint8Array(values.buffer));
  if (typeof target === "string") {
    kernels.convert("F32", target, values.length, importance, "search");
    return [kernels.output];
  }
  kernels.convertNBits("F32", target, columns, values.length / columns, importance, "search");
  return kernels.outputs;
}

/** Σ G[i][k] · E[i] · H · E[k] */
function lossOf(errors: Float64Array, h: Float64Array, g: Float64Array | null, columns: number): number {
  const rows = errors.length / columns;
  const weighted = new Float64Array(errors.length);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++) {
      const error = errors[row * columns + k]!;
      for (let j = 0; j < columns; j++) weighted[row * columns + j]! += error * h[k * columns + j]!;
    }
  }
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < rows; k++) {
      const factor = g === null ? Number(i === k) : g[i * rows + k]!;
      if (factor === 0) continue;
      for (let j = 0; j < columns; j++)
        loss += factor * weighted[i * columns + j]! * errors[k * columns + j]!;
    }
  }
  return loss;
}

interface Problem {
  readonly target: TargetType;
  readonly rows: number;
  readonly columns: number;
  readonly effort?: Effort;
  /** Width of the squares on the diagonal of the form over the columns. */
  readonly blockWidth?: number;
  readonly withRows?: boolean;
}

/** With a damping that is added to the diagonal. */
function damp(matrix: Float64Array, size: number, part: number): void {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += matrix[i * size + i]!;
  for (let i = 0; i < size; i++) matrix[i * size + i]! += (part * sum) / size;
}

/** A form over columns with its factors. */
interface Form {
  readonly factors: readonly Factor[];
  /** The form itself, with the damping, in full. */
  readonly damped: Float64Array;
}

const forms = new Map<string, Form>();

async function formOf(columns: number, blockWidth: number): Promise<Form> {
  const key = `${columns} ${blockWidth}`;
  const known = forms.get(key);
  if (known !== undefined) return known;
  const h = correlatedMoments(columns, columns, { rows: columns / 2 });
  const factors: Factor[] = [];
  const damped = new Float64Array(columns ** 2);
  for (let start = 0; start < columns; start += blockWidth) {
    const size = Math.min(blockWidth, columns - start);
    const square = new Float64Array(size * size);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) square[i * size + j] = h[(start + i) * columns + start + j]!;
    }
    factors.push(await reverseLdl(products, Float32Array.from(square), sharedFactor(size)));
    damp(square, size, 0.01);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) damped[(start + i) * columns + start + j] = square[i * size + j]!;
    }
  }
  forms.set(key, { factors, damped });
  return { factors, damped };
}

async function solve({ target, rows, columns, effort = 1, blockWidth = columns, withRows = false }: Problem) {
  const values = Float32Array.from(normals(7, rows * columns), (value) => 0.05 * value);
  const { factors, damped } = await formOf(columns, blockWidth);
  const g = withRows ? correlatedMoments(rows, rows, { rank: 3, spread: 0.3, rows: 100 }) : null;
  const rowFactor = g && (await reverseLdl(products, Float32Array.from(g), sharedFactor(rows), 0.07));
  if (g !== null) damp(g, rows, 0.07);
  const outputs = outputBytes(target, columns, rows).map((bytes) => new Uint8Array(bytes));
  const errors = values.slice();
  const job = { target, effort, rows, columns, values: errors, columnFactors: factors, rowFactor, outputs };
  const loss = await roundRows(products, rounder, job);
  const stored = new Float32Array(values.length);
  read(target, columns, outputs, stored);
  const expected = Float64Array.from(values, (value, index) => value - stored[index]!);

  const searched = new Float32Array(values.length);
  const importance = Float32Array.from({ length: columns }, (_, i) => damped[i * columns + i]!);
  read(target, columns, search(target, columns, values, importance), searched);
  const others = Float64Array.from(values, (value, index) => value - searched[index]!);
  return {
    loss,
    errors,
    expected,
    exact: lossOf(expected, damped, g, columns),
    search: lossOf(others, damped, g, columns),
  };
}

function expectSound({ loss, errors, expected, exact }: Awaited<ReturnType<typeof solve>>): void {
  // The blocks hold what the errors say, bit for bit.
  expect(errors).toEqual(Float32Array.from(expected));
  expect(Math.abs(loss / exact - 1)).toBeLessThan(1e-3);
}

describe("roundRows", () => {
  it.each<[TargetType, number]>([
    ["Q4_0", 288],
    ["Q5_1", 288],
    ["Q8_0", 288],
    ["Q2_0", 320],
    ["TQ2_0", 512],
    ["Q2_K", 512],
    ["Q3_K", 512],
    ["Q4_K", 512],
    ["Q6_K", 512],
    ["IQ4_NL", 288],
    ["IQ4_XS", 512],
    ["NVFP4", 320],
    ["IQ3_S", 512],
    ["IQ2_XS", 512],
    [{ bits: 4, block: 32, zeroPoints: true }, 288],
    [{ bits: 2, block: 128, zeroPoints: true }, 288],
    [{ bits: 4, block: 64, zeroPoints: false }, 288],
  ])("loses less than the search, %j", async (target, columns) => {
    const result = await solve({ target, rows: 4, columns });
    expectSound(result);
    expect(result.loss).toBeLessThan(0.9 * result.search);
  });

  it("loses still less with regard to the gradients", async () => {
    const shape = { target: "Q4_0", rows: 262, columns: 64, effort: 0 } as const;
    const result = await solve({ ...shape, withRows: true });
    expectSound(result);
    expect(result.loss).toBeLessThan(0.9 * result.search);
  });

  it("takes squares on the diagonal one by one", async () => {
    const result = await solve({ target: "Q4_0", rows: 8, columns: 544, blockWidth: 256 });
    expectSound(result);
    expect(result.loss).toBeLessThan(0.9 * result.search);
  });

  it("fills up rows that are no multiple of four", async () => {
    for (const rows of [1, 3, 5]) expectSound(await solve({ target: "Q4_0", rows, columns: 96 }));
    expectSound(await solve({ target: "Q4_0", rows: 7, columns: 96, withRows: true }));
  });

  it("refuses factors of other columns", async () => {
    const columnFactors = [await reverseLdl(products, new Float32Array(64 ** 2), sharedFactor(64))];
    const job = { target: "Q4_0", effort: 0, rows: 4, columns: 96, rowFactor: null, columnFactors } as const;
    await expect(
      roundRows(products, rounder, { ...job, values: new Float32Array(384), outputs: [] }),
    ).rejects.toThrow(/factors of 64 columns for a matrix of 96/);
  });
});
