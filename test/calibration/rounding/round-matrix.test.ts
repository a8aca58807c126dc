import { mkdtemp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Crew } from "../../../calibration/rounding/crew.js";
import { divideMatrix } from "../../../calibration/rounding/memory.js";
import { inputMetric } from "../../../calibration/rounding/metric.js";
import { factorMetric, roundMatrix } from "../../../calibration/rounding/round-matrix.js";
import type { MatrixSource } from "../../../calibration/rounding/source.js";
import type { Moments } from "../../../calibration/statistics/types.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { bfloatsToFloats, floatsToBfloats } from "../../../src/blocks/floats.js";
import { scratchFolder } from "../../support/convert.js";
import { correlatedMoments, normals } from "../../support/matrices.js";

const rows = 24;
const columns = 288;
const memory = 2 ** 30;

let crew: Crew;
let folder: string;
let source: MatrixSource;

beforeAll(async () => {
  folder = await mkdtemp(join(scratchFolder(), "matrix-"));
  source = await matrixFile("w.bin", Float32Array.from(normals(11, rows * columns)));
  crew = await Crew.start({ threads: 2 });
});

afterAll(async () => {
  await crew.close();
});

/** A matrix in a file, behind some bytes of something else. */
async function matrixFile(name: string, values: Float32Array): Promise<MatrixSource> {
  const path = join(folder, name);
  const bytes = new Uint8Array(2 * values.length);
  floatsToBfloats(values, bytes);
  await writeFile(path, Buffer.concat([Buffer.alloc(6, 255), bytes]));
  return { name: "w", path, offset: 6, type: "BF16", rows, columns };
}

function moments(size: number, seed: number): Moments {
  const values = Float32Array.from(correlatedMoments(seed, size));
  return { columns: size, blockWidth: size, values, tokens: 1000 };
}

describe("roundMatrix", () => {
  it("gives the same bytes whatever the number of threads", async () => {
    const form = await factorMetric(crew, inputMetric(moments(columns, 1), null));
    const job = { source, target: "Q4_0", effort: 1, form, gradients: null, memory } as const;
    const [two, one] = await Promise.all([
      roundMatrix(crew, job),
      roundMatrix(crew, { ...job, memory: 2 ** 27 }),
    ]);
    expect(one.outputs).toEqual(two.outputs);
    expect(one.loss / two.loss).toBeCloseTo(1, 12);
    expect(two).toMatchObject({ damping: { columns: 0.01, rows: null }, groupRows: 1 });
    expect(one.outputs[0]!.some((byte) => byte !== 0)).toBe(true);
  });

  it("heeds gradients, and token weights", async () => {
    const plain = moments(columns, 1);
    const half = await factorMetric(crew, inputMetric(plain, moments(columns, 2)));
    const whole = await factorMetric(crew, inputMetric(plain, null));
    const job = { source, target: "Q4_0", effort: 0, gradients: null, memory } as const;
    const [byHalf, byWhole] = [
      await roundMatrix(crew, { ...job, form: half }),
      await roundMatrix(crew, { ...job, form: whole }),
    ];
    expect(byHalf.outputs).not.toEqual(byWhole.outputs);
    const byRows = await roundMatrix(crew, { ...job, form: whole, gradients: moments(rows, 3) });
    expect(byRows.outputs).not.toEqual(byWhole.outputs);
    expect(byRows.damping.rows).toBe(0.07);
    expect(byRows.groupRows).toBe(rows);
  });

  it("multiplies columns and rows by their scales first", async () => {
    const form = await factorMetric(crew, inputMetric(moments(columns, 1), null));
    const columnScales = powers(columns, (index) => (index % 3) - 1);
    const rowScales = powers(rows, (index) => (index % 5) - 2);
    const values = Float32Array.from(normals(11, rows * columns));
    const halves = new Uint8Array(2 * values.length);
    floatsToBfloats(values, halves);
    const scaled = new Float32Array(values.length);
    bfloatsToFloats(halves, scaled);
    for (const index of scaled.keys()) {
      scaled[index]! *= columnScales[index % columns]! * rowScales[Math.floor(index / columns)]!;
    }
    const job = { target: "Q8_0", effort: 0, form, gradients: null, memory } as const;
    const found = await roundMatrix(crew, { ...job, source: { ...source, columnScales, rowScales } });
    const expected = await roundMatrix(crew, { ...job, source: await matrixFile("scaled.bin", scaled) });
    expect(found.outputs).toEqual(expected.outputs);
    const decoded = new Float32Array(rows * columns);
    decode("Q8_0", found.outputs[0]!, decoded);
    const worst = decoded.reduce((most, value, at) => Math.max(most, Math.abs(value - scaled[at]!)), 0);
    expect(worst).toBeLessThan(0.2);
  });

  it("names a value that is not finite, and a file that ends", async () => {
    const form = await factorMetric(crew, inputMetric(moments(columns, 1), null));
    const job = { target: "Q4_0", effort: 0, form, gradients: null, memory } as const;
    const bad = Float32Array.from(normals(12, rows * columns));
    bad[5 * columns + 7] = Number.POSITIVE_INFINITY;
    await expect(
      roundMatrix(crew, { ...job, source: await matrixFile("bad.bin", bad) }),
    ).rejects.toMatchObject({
      code: "non-finite",
      message: expect.stringContaining("row 5, column 7 is Infinity") as string,
    });
    await expect(roundMatrix(crew, { ...job, source: { ...source, offset: 600 } })).rejects.toMatchObject({
      code: "input-truncated",
    });
  });

  it("needs some memory, and says how much", async () => {
    const shape = { rows: 4096, columns: 6144, blockWidth: 6144, byteLength: 2 ** 24 };
    const all = divideMatrix("w", shape, { memory: 2 ** 31, threads: 4 });
    expect(all).toMatchObject({ rows: 1024, threads: 4 });
    expect(all.bytes).toBeLessThanOrEqual(2 ** 31);
    const less = divideMatrix("w", shape, { memory: 500 * 2 ** 20, threads: 4 });
    expect(less.threads * less.rows).toBeLessThan(4096);
    expect(() => divideMatrix("w", shape, { memory: 2 ** 28, threads: 4 })).toThrow(
      /256\.0 MiB do not suffice to round w with feedback, expected \d+\.\d MiB or more/,
    );
  });

  it("stops, and says why", async () => {
    const own = await Crew.start({ threads: 1 });
    const result = own.factor(new Float32Array(512 ** 2).fill(0));
    const reason = new Error("enough");
    const closed = own.close(reason);
    await expect(result).rejects.toBe(reason);
    await closed;
    await expect(own.factor(new Float32Array(1))).rejects.toBe(reason);
  });
});

function powers(count: number, power: (index: number) => number): Float32Array<SharedArrayBuffer> {
  const shared = new Float32Array(new SharedArrayBuffer(4 * count));
  for (const index of shared.keys()) shared[index] = 2 ** power(index);
  return shared;
}
