import { mkdtempSync, rmSync } from "node:fs";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { encode } from "../../src/blocks/encode/encode.js";
import { multiplyRows } from "../../src/blocks/factors.js";
import { bfloatsToFloats } from "../../src/blocks/floats.js";
import { encodeNBits } from "../../src/blocks/nbits/encode.js";
import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { MIN_MEMORY_BYTES } from "../../src/pool/memory.js";
import { runTiles } from "../../src/pool/pool.js";
import type { TensorJob } from "../../src/pool/tiles.js";
import { randomFrom } from "../support/weights.js";

const folder = mkdtempSync(join(tmpdir(), "lapidary-factors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const memoryBytes = 2 * MIN_MEMORY_BYTES;
/** Three matrices of 200 rows: two tiles each at the smallest ceiling. */
const MATRICES = 3;
const ROWS = 600;
const ROW = 512;

function shared(count: number, value: (index: number) => number): Float32Array<SharedArrayBuffer> {
  const floats = new Float32Array(new SharedArrayBuffer(count * 4));
  for (let index = 0; index < count; index++) floats[index] = value(index);
  return floats;
}

const random = randomFrom(9);
const power = (): number => 2 ** Math.floor(random() * 8 - 4);
const columns = shared(MATRICES * ROW, power);
const scales = shared(ROWS, power);
const source = new Uint8Array(ROWS * ROW * 2);
encode(
  "BF16",
  Float32Array.from({ length: ROWS * ROW }, () => random() - 0.5),
  source,
);
const input = join(folder, "in");
await writeFile(input, source);

/** All rows times their factors, matrix by matrix. */
function multiplied(withRows: boolean): Float32Array {
  const values = new Float32Array(ROWS * ROW);
  bfloatsToFloats(source, values);
  const size = values.length / MATRICES;
  const rows = ROWS / MATRICES;
  for (let matrix = 0; matrix < MATRICES; matrix++) {
    const own = values.subarray(matrix * size, (matrix + 1) * size);
    const factors = columns.subarray(matrix * ROW, (matrix + 1) * ROW);
    own.set(
      multiplyRows(
        own.slice(),
        ROW,
        factors.slice(),
        withRows ? scales.slice(matrix * rows, (matrix + 1) * rows) : undefined,
      ),
    );
  }
  return values;
}

function job(overrides: Partial<TensorJob>): TensorJob {
  return {
    name: "t",
    input,
    inputOffset: 0,
    outputs: [],
    source: "BF16",
    target: "F32",
    row: ROW,
    rows: ROWS,
    ...overrides,
  };
}

async function run(jobs: TensorJob, sizes: readonly number[]): Promise<Uint8Array[]> {
  const outputs = sizes.map((_, index) => ({ path: join(folder, `out-${index}`), offset: 0 }));
  for (const [index, size] of sizes.entries()) {
    await writeFile(outputs[index]!.path, "");
    await truncate(outputs[index]!.path, size);
  }
  await runTiles({ jobs: [{ ...jobs, outputs }], threads: 2, memoryBytes });
  return Promise.all(outputs.map(async ({ path }) => new Uint8Array(await readFile(path))));
}

it.each<BlockTypeName>(["F32", "BF16", "Q8_0", "Q4_K"])(
  "writes rows times factors of columns and rows as %s",
  async (target) => {
    for (const withRows of [false, true]) {
      const factors = withRows ? { columns, rows: scales } : { columns };
      const size = rowBytes(target, ROWS * ROW);
      const [written] = await run(job({ target, factors }), [size]);
      const expected = new Uint8Array(size);
      encode(target, multiplied(withRows), expected);
      expect(Buffer.compare(written!, expected)).toBe(0);
    }
  },
);

it("writes codes of them", async () => {
  const type = { bits: 4, block: 32, zeroPoints: false } as const;
  const written = await run(job({ target: type, method: "nearest", factors: { columns, rows: scales } }), [
    (ROWS * ROW) / 2,
    (ROWS * ROW) / 16,
  ]);
  const expected = encodeNBits(type, ROW, multiplied(true), undefined, "nearest");
  expect(Buffer.compare(written[0]!, expected.codes)).toBe(0);
  expect(Buffer.compare(written[1]!, expected.scales)).toBe(0);
});

it("heeds an importance of the same matrices beside the factors", async () => {
  const importance = shared(MATRICES * ROW, () => random());
  const size = rowBytes("Q4_0", ROWS * ROW);
  const [written] = await run(job({ target: "Q4_0", importance, factors: { columns } }), [size]);
  const expected = new Uint8Array(size);
  const values = multiplied(false);
  for (let row = 0; row < ROWS; row++) {
    const matrix = Math.floor((row * MATRICES) / ROWS);
    encode(
      "Q4_0",
      values.subarray(row * ROW, (row + 1) * ROW),
      expected.subarray(rowBytes("Q4_0", row * ROW), rowBytes("Q4_0", (row + 1) * ROW)),
      importance.slice(matrix * ROW, (matrix + 1) * ROW),
    );
  }
  expect(Buffer.compare(written!, expected)).toBe(0);
});

it("names the value that is not finite as the file has it", async () => {
  const bad = join(folder, "bad");
  const bytes = source.slice();
  new DataView(bytes.buffer).setUint16((7 * ROW + 3) * 2, 0xff80, true);
  await writeFile(bad, bytes);
  await expect(run(job({ input: bad, factors: { columns } }), [ROWS * ROW * 4])).rejects.toThrow(
    /row 7, column 3 is -Infinity/,
  );
});

it("tells of a block that is on no lattice where all were to be", async () => {
  await expect(
    run(job({ target: "Q4_0", method: "lattice" }), [rowBytes("Q4_0", ROWS * ROW)]),
  ).rejects.toThrow(/begins a block that lies on no lattice/);
  const asFloats = job({ target: "F32", method: "lattice" });
  await expect(run(asFloats, [ROWS * ROW * 4])).rejects.toThrow(/from BF16 to Q4_0 only/);
});

it("refuses factors that do not fit the tensor", async () => {
  const few = shared(ROW + 1, () => 1);
  await expect(run(job({ factors: { columns: few } }), [4])).rejects.toThrow(/513 factors of columns/);
  await expect(run(job({ factors: { rows: few } }), [4])).rejects.toThrow(/600 rows and 513 factors/);
});
