import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { nbitsRow } from "../../src/blocks/nbits/types.js";
import { MIN_MEMORY_BYTES, splitMemory } from "../../src/pool/memory.js";
import { rangesOf, type Tile, TILE_QUANTUM, type TensorJob, Tiling } from "../../src/pool/tiles.js";

function job(row: number, rows: number): TensorJob {
  return {
    name: "t",
    input: "i",
    inputOffset: 0,
    outputs: [{ path: "o", offset: 0 }],
    source: "BF16",
    target: "F16",
    row,
    rows,
  };
}

describe("tiles", () => {
  it("cover every value of every job once, in order, in whole rows or whole blocks of one row", () => {
    const shapes = fc.array(fc.tuple(fc.integer({ min: 1, max: 2000 }), fc.integer({ min: 1, max: 40 })), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(shapes, fc.integer({ min: TILE_QUANTUM, max: 5000 }), (sizes, tileValues) => {
        const jobs = sizes.map(([row, rows]) => job(row, rows));
        const tiling = new Tiling(jobs, tileValues);
        const next = jobs.map(() => 0);
        for (let number = 0; number < tiling.total; number++) {
          const tile = tiling.at(number);
          const { row, rows } = jobs[tile.job]!;
          const column = tile.first % row;
          const end = tile.first + tile.values;
          const wholeRows = column === 0 && tile.values % row === 0;
          const insideRow = column % TILE_QUANTUM === 0 && column + tile.values <= row;
          expect({
            first: tile.first,
            size: tile.values > 0 && tile.values <= tileValues,
            inside: end <= row * rows,
            cut: row <= tileValues ? wholeRows : insideRow,
          }).toEqual({ first: next[tile.job], size: true, inside: true, cut: true });
          next[tile.job] = end;
        }
        expect(next).toEqual(jobs.map(({ row, rows }) => row * rows));
        expect(jobs.reduce((sum, _, index) => sum + tiling.tilesOf(index), 0)).toBe(tiling.total);
      }),
      { seed: 7, numRuns: 200 },
    );
  });

  it("of codes and of columns are whole rows, and take no more room than the kernels have", () => {
    const types = fc.record({
      bits: fc.constantFrom(2 as const, 4 as const, 8 as const),
      block: fc.constantFrom(16, 32, 64, 128, 256),
      zeroPoints: fc.boolean(),
    });
    const shapes = fc.tuple(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 3000 }));
    fc.assert(
      fc.property(types, shapes, fc.integer({ min: 768, max: 5000 }), (target, [row, rows], tileValues) => {
        const places = ["codes", "scales", "zeroPoints"].slice(0, target.zeroPoints ? 3 : 2);
        const outputs = places.map((path) => ({ path, offset: 7 }));
        const codes: TensorJob = { ...job(row, rows), target, outputs };
        const tiling = new Tiling([codes], tileValues);
        const next = places.map(() => 7);
        const wrong: Tile[] = [];
        for (let number = 0; number < tiling.total; number++) {
          const tile = tiling.at(number);
          const ranges = rangesOf(codes, tile);
          const bytes = ranges.reduce((sum, range) => sum + range.bytes, 0);
          const fits = Math.max(tile.values, bytes / 4) <= tileValues && tile.values % row === 0;
          if (!fits || ranges.some(({ offset }, index) => offset !== next[index])) wrong.push(tile);
          for (const [index, range] of ranges.entries()) next[index] = range.offset + range.bytes;
        }
        expect(wrong).toEqual([]);
        const sizes = nbitsRow(target, row);
        expect(next).toEqual(
          [sizes.codes, sizes.scales, sizes.zeroPoints]
            .slice(0, places.length)
            .map((size) => 7 + rows * size),
        );
      }),
      { seed: 7, numRuns: 200 },
    );
  });

  it("never cut a row of codes, of columns or with an importance", () => {
    const outputs = ["codes", "scales"].map((path) => ({ path, offset: 0 }));
    const importance = new Float32Array(new SharedArrayBuffer(4 * 1000));
    const special: readonly Partial<TensorJob>[] = [
      { target: { bits: 4, block: 32, zeroPoints: false }, outputs },
      { inputRow: 1001 },
      { importance },
    ];
    for (const each of special) {
      expect(() => new Tiling([{ ...job(1000, 2), ...each }], 999)).toThrow(
        expect.objectContaining({
          code: "memory-too-small",
          message: "tensor t has rows of 1000 values, and a worker has memory for 999 at a time",
        }),
      );
      expect(new Tiling([{ ...job(1000, 2), ...each }], 1024).total).toBe(2);
    }
  });

  it("are not made of a job that would read or write what is not its own", () => {
    const target = { bits: 4, block: 32, zeroPoints: true } as const;
    const two = ["codes", "scales"].map((path) => ({ path, offset: 0 }));
    for (const [wrong, message] of [
      [{ target }, "1 outputs, expected 3"],
      [{ target, outputs: two }, "2 outputs, expected 3"],
      [{ outputs: two }, "2 outputs, expected 1"],
      [{ inputRow: 12, inputColumn: 5 }, "rows of 12 values, and 8 from 5 on"],
      [{ inputColumn: 1 }, "rows of 8 values, and 8 from 1 on"],
      [{ inputRow: 12, inputColumn: -1 }, "8 from -1 on"],
    ] as const) {
      expect(() => new Tiling([{ ...job(8, 2), ...wrong }], 256)).toThrow(message);
    }
  });

  it("know no number past the last", () => {
    expect(() => new Tiling([job(8, 2)], 256).at(1)).toThrow(RangeError);
  });
});

describe("memory", () => {
  const MiB = 2 ** 20;

  it("gives as many of the threads asked for as fit, with tiles inside the ceiling", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: MIN_MEMORY_BYTES, max: 2 ** 33 }),
        fc.integer({ min: 1, max: 1024 }),
        (memoryBytes, wanted) => {
          const { threads, tileValues } = splitMemory({ memoryBytes, threads: wanted });
          expect(threads).toBeGreaterThanOrEqual(1);
          expect(threads).toBeLessThanOrEqual(wanted);
          expect(tileValues % TILE_QUANTUM).toBe(0);
          expect(tileValues).toBeGreaterThanOrEqual(2 ** 16);
          // The worst case on either side is F32.
          expect(threads * tileValues * 8).toBeLessThanOrEqual(memoryBytes);
        },
      ),
      { seed: 7 },
    );
  });

  it("needs fewer threads under a low ceiling, and refuses one that not even one fits under", () => {
    expect(splitMemory({ memoryBytes: 128 * MiB, threads: 64 }).threads).toBeLessThan(64);
    expect(splitMemory({ memoryBytes: 1024 * MiB, threads: 16 }).threads).toBe(16);
    expect(() => splitMemory({ memoryBytes: MIN_MEMORY_BYTES - 1, threads: 1 })).toThrow(/is too low/);
  });
});
