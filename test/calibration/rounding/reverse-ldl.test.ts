import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Products } from "../../../calibration/rounding/products.js";
import {
  type Factor,
  NotDefinite,
  panelsOf,
  reverseLdl,
  sharedFactor,
} from "../../../calibration/rounding/reverse-ldl.js";
import { loadRuntime, RUNTIME_PACKAGE } from "../../../src/engines/onnx/runtime.js";
import { correlatedMoments, normals } from "../../support/matrices.js";

let products: Products;

beforeAll(async () => {
  products = await Products.open(await loadRuntime(RUNTIME_PACKAGE.name), 1);
});

afterAll(async () => {
  await products.release();
});

/** A in full. */
function unpacked({ size, panels }: Factor): Float64Array {
  const full = new Float64Array(size * size);
  for (const { start, end, at } of panelsOf(size)) {
    const width = end - start;
    for (let row = 0; row < end; row++) {
      for (let column = 0; column < width; column++) {
        full[row * size + start + column] = panels[at + row * width + column]!;
      }
    }
  }
  return full;
}

/** The same factor, one index after the other in float64. */
function naive(matrix: Float64Array, size: number): { a: Float64Array; d: Float64Array } {
  const m = matrix.slice();
  const a = new Float64Array(size * size);
  const d = new Float64Array(size);
  for (let j = size - 1; j >= 0; j--) {
    d[j] = m[j * size + j]!;
    for (let i = 0; i <= j; i++) a[i * size + j] = m[i * size + j]! / d[j]!;
    for (let i = 0; i < j; i++) {
      const factor = a[i * size + j]! * d[j]!;
      for (let k = 0; k < j; k++) m[i * size + k]! -= factor * a[k * size + j]!;
    }
  }
  return { a, d };
}

function damped(matrix: Float64Array, size: number, part: number): Float64Array {
  const result = matrix.slice();
  let sum = 0;
  for (let i = 0; i < size; i++) sum += matrix[i * size + i]!;
  for (let i = 0; i < size; i++) result[i * size + i]! += (part * sum) / size;
  return result;
}

/** Largest |found − expected| in units of √(Hᵢᵢ·Hⱼⱼ) of what A·D·Aᵀ gives. */
function residual(factor: Factor, expected: Float64Array): number {
  const { size, pivots } = factor;
  const a = unpacked(factor);
  let worst = 0;
  for (let i = 0; i < size; i++) {
    for (let j = i; j < size; j++) {
      let sum = 0;
      for (let k = j; k < size; k++) sum += a[i * size + k]! * pivots[k]! * a[j * size + k]!;
      const unit = Math.sqrt(expected[i * size + i]! * expected[j * size + j]!);
      worst = Math.max(worst, Math.abs(sum - expected[i * size + j]!) / unit);
    }
  }
  return worst;
}

describe("reverseLdl", () => {
  it.each([1, 96, 256, 257, 520])("factors %i columns as the naive form does", async (size) => {
    const moments = correlatedMoments(size, size, { rows: 100 });
    const factor = await reverseLdl(products, Float32Array.from(moments), sharedFactor(size));
    expect(factor.damping).toBe(0.01);
    const expected = naive(damped(moments, size, 0.01), size);
    const a = unpacked(factor);
    const worst = a.reduce((most, value, index) => Math.max(most, Math.abs(value - expected.a[index]!)), 0);
    const largest = expected.a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(worst / largest).toBeLessThan(2e-4);
    for (const [index, value] of factor.pivots.entries()) {
      expect(Math.abs(value / expected.d[index]! - 1)).toBeLessThan(2e-3);
    }
  });

  it("stays exact where columns are of very different sizes and rows are few", async () => {
    const size = 520;
    const moments = correlatedMoments(3, size, { rows: 40, spread: 3 });
    const factor = await reverseLdl(products, Float32Array.from(moments), sharedFactor(size), 1e-3);
    expect(residual(factor, damped(moments, size, factor.damping))).toBeLessThan(2e-6);
  });

  it("gives dead columns the damping and nothing to do with the others", async () => {
    const size = 300;
    const moments = correlatedMoments(4, size);
    const dead = [0, 17, 255, 256, 299];
    for (const column of dead) {
      for (let i = 0; i < size; i++) moments[i * size + column] = moments[column * size + i] = 0;
    }
    const factor = await reverseLdl(products, Float32Array.from(moments), sharedFactor(size));
    const a = unpacked(factor);
    let mean = 0;
    for (let i = 0; i < size; i++) mean += moments[i * size + i]! / size;
    for (const column of dead) {
      expect(factor.pivots[column]! / (0.01 * mean)).toBeCloseTo(1, 5);
      for (let i = 0; i < size; i++) {
        expect(Math.abs(a[i * size + column]!)).toBe(Number(i === column));
        expect(Math.abs(a[column * size + i]!)).toBe(Number(i === column));
      }
    }
  });

  it("takes a matrix of zeros for one without preferences", async () => {
    const factor = await reverseLdl(products, new Float32Array(260 ** 2), sharedFactor(260));
    expect(new Set(factor.pivots)).toEqual(new Set([Math.fround(0.01)]));
  });

  it("raises the damping of a matrix that is not positive definite", async () => {
    const size = 400;
    const values = normals(5, size * size);
    const matrix = new Float64Array(size * size);
    for (let i = 0; i < size; i++) {
      // Eigenvalues of the random part reach ±2·√size, here ±0.8.
      for (let j = 0; j <= i; j++) {
        matrix[i * size + j] = matrix[j * size + i] = 0.02 * values[i * size + j]! + Number(i === j);
      }
    }
    for (let i = 0; i < size; i += 2) matrix[i * size + i]! -= 0.5;
    const factor = await reverseLdl(products, Float32Array.from(matrix), sharedFactor(size));
    expect(factor.damping).toBe(1);
    expect(residual(factor, damped(matrix, size, 1))).toBeLessThan(2e-6);
  });

  it("refuses a matrix that no damping helps", async () => {
    const matrix = new Float32Array(4).fill(100);
    matrix[0] = matrix[3] = 1;
    await expect(reverseLdl(products, matrix, sharedFactor(2))).rejects.toThrow(NotDefinite);
  });
});
