import { expect, it } from "vitest";
import { multiplyRows } from "../../src/blocks/factors.js";
import { bfloatsToFloats, floatsToBfloats, floatsToHalves, halvesToFloats } from "../../src/blocks/floats.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { firstDifference, randomFrom } from "../support/weights.js";

const ROWS = 5;
/** One that leaves values over behind every vector. */
const ROW = 71;

const kernels = new Kernels(await compileKernels(), ROWS * ROW);

function random(count: number, seed: number): Float32Array {
  const next = randomFrom(seed);
  return Float32Array.from({ length: count }, () => (next() - 0.5) * 2 ** Math.floor(next() * 12 - 6));
}

function powers(count: number, seed: number): Float32Array {
  const next = randomFrom(seed);
  return Float32Array.from({ length: count }, () => 2 ** Math.floor(next() * 16 - 8));
}

/** The values as bytes of a type, and what those bytes stand for. */
function stored(type: BlockTypeName, values: Float32Array): [bytes: Uint8Array, read: Float32Array] {
  const read = new Float32Array(values.length);
  if (type === "F32") return [new Uint8Array(values.slice().buffer), values];
  const bytes = new Uint8Array(values.length * 2);
  if (type === "F16") {
    floatsToHalves(values, bytes);
    halvesToFloats(bytes, read);
  } else {
    floatsToBfloats(values, bytes);
    bfloatsToFloats(bytes, read);
  }
  return [bytes, read];
}

function multiplied(): Uint8Array {
  return kernels.input.slice(0, ROWS * ROW * 4);
}

it.each<BlockTypeName>(["F32", "F16", "BF16"])("multiplies rows of %s as the plain code does", (type) => {
  const [bytes, read] = stored(type, random(ROWS * ROW, 3));
  for (const [columns, rows] of [
    [powers(ROW, 5), undefined],
    [undefined, powers(ROWS, 7)],
    [powers(ROW, 9), powers(ROWS, 11)],
    // Factors that are no powers of two round once, and not twice.
    [random(ROW, 13), random(ROWS, 15)],
  ] as const) {
    kernels.input.set(bytes);
    expect(kernels.multiply(type, ROW, ROWS, { columns, rows })).toBe(-1);
    const expected = multiplyRows(read, ROW, columns, rows);
    expect(firstDifference(multiplied(), new Uint8Array(expected.buffer))).toBe(-1);
  }
});

it.each<BlockTypeName>(["F32", "F16", "BF16"])("stops at a value of %s that is not finite", (type) => {
  for (const value of [Infinity, Number.NaN]) {
    const values = random(ROWS * ROW, 17);
    values[2 * ROW + 70] = value;
    const [bytes] = stored(type, values);
    kernels.input.set(bytes);
    expect(kernels.multiply(type, ROW, ROWS, { columns: powers(ROW, 19) })).toBe(2 * ROW + 70);
    expect(kernels.lastProblem).toBe("non-finite");
    expect(firstDifference(kernels.input.slice(0, bytes.length), bytes)).toBe(-1);
  }
});

it("gives back what it was given when the factors are taken out again", () => {
  const [bytes, read] = stored("BF16", random(ROWS * ROW, 21));
  const columns = powers(ROW, 23);
  const rows = powers(ROWS, 25);
  kernels.input.set(bytes);
  kernels.multiply("BF16", ROW, ROWS, { columns, rows });
  kernels.multiply("F32", ROW, ROWS, { columns: columns.map((f) => 1 / f), rows: rows.map((f) => 1 / f) });
  expect(firstDifference(multiplied(), new Uint8Array(read.buffer))).toBe(-1);
});

it("refuses factors of another number, and more values than there is room for", () => {
  const columns = powers(ROW - 1, 27);
  expect(() => kernels.multiply("BF16", ROW, ROWS, { columns })).toThrow(/70 factors do not fit 5 rows/);
  expect(() => kernels.multiply("BF16", ROW, ROWS + 1, {})).toThrow(/more than the 355/);
  expect(() => kernels.multiply("Q4_0", ROW, ROWS, {})).toThrow(/Q4_0 cannot be multiplied/);
});
