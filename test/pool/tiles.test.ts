import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MIN_MEMORY_BYTES, splitMemory } from "../../src/pool/memory.js";
import { TILE_QUANTUM, type TensorJob, Tiling } from "../../src/pool/tiles.js";

function job(row: number, rows: number): TensorJob {
  return {
    name: "t",
    input: "i",
    inputOffset: 0,
    output: "o",
    outputOffset: 0,
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
