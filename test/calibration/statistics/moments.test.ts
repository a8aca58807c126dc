import { describe, expect, it } from "vitest";
import { MomentSum, piecesOf, planMoments } from "../../../calibration/statistics/moments.js";
import { makeBatches } from "../../../calibration/statistics/batches.js";

const lengths = new Set([512]);

describe("a plan of moments", () => {
  it("gives narrow inputs all they need, and wide ones what is left", () => {
    const demands = [
      { input: "wide", columns: 2048, count: 1 },
      { input: "narrow", columns: 512, count: 1 },
    ];
    const plans = planMoments(demands, { memory: 3 * 4 * (512 ** 2 + 2048 * 800), lengths });
    expect(plans.get("narrow")).toEqual({ columns: 512, blockWidth: 512, stride: 1 });
    expect(plans.get("wide")).toEqual({ columns: 2048, blockWidth: 768, stride: 1 });
    const least = planMoments(demands, { memory: 3 * 4 * (512 + 2048) * 256, lengths });
    expect([...least.values()].map(({ blockWidth }) => blockWidth)).toEqual([256, 256]);
    const enough = planMoments(demands, { memory: 3 * 4 * (512 ** 2 + 2048 ** 2), lengths });
    expect(enough.get("wide")?.blockWidth).toBe(2048);
  });

  it("looks at every so many rows of wide inputs, at each place of a window in turn", () => {
    const wide = [{ input: "wide", columns: 12288, count: 1 }];
    const strideFor = (lengths: number[], memory = 2 ** 40): number | undefined =>
      planMoments(wide, { memory, lengths: new Set(lengths) }).get("wide")?.stride;
    // Four times the cost of 6144 columns; 512 has no divisor in common with 5, and 510 none with 7.
    expect(strideFor([512])).toBe(5);
    expect(strideFor([510, 512])).toBe(7);
    // Blocks of 256 cost little.
    expect(strideFor([512], 3 * 4 * 12288 * 256)).toBe(1);
  });

  it("says how much memory it takes at least", () => {
    const demands = [
      { input: "layers.0.experts", columns: 2816, count: 128 },
      { input: "layers.0.router", columns: 200, count: 1 },
    ];
    expect(() => planMoments(demands, { memory: 2 ** 20, lengths })).toThrow(
      /1\.00 MiB .* layers\.0\.experts, layers\.0\.router .* expected 1\.03 GiB or more/,
    );
  });
});

describe("pieces", () => {
  it.each([
    [2500, 2500],
    [1600, 768],
    [700, 256],
    [1, 1],
  ])("of %d columns in blocks of %d make up the moments", (columns, blockWidth) => {
    const plan = { columns, blockWidth, stride: 1 };
    for (const symmetric of [true, false]) {
      const sum = new MomentSum(plan);
      for (const piece of piecesOf(plan, symmetric)) {
        const { row, column, columns: width } = piece;
        // The larger of both numbers says which value it is.
        const value = (_: unknown, at: number): number =>
          1 + Math.max(row + Math.floor(at / width), column + (at % width));
        sum.add(piece, Float32Array.from({ length: piece.rows * width }, value));
      }
      const { values } = sum.finish(symmetric);
      let at = 0;
      let wrong = 0;
      for (let start = 0; start < columns; start += blockWidth) {
        const end = Math.min(start + blockWidth, columns);
        for (let row = start; row < end; row++) {
          for (let column = start; column < end; column++) {
            if (values[at++] !== 1 + Math.max(row, column)) wrong++;
          }
        }
      }
      expect([wrong, at]).toEqual([0, values.length]);
    }
  });
});

describe("batches", () => {
  const window = (length: number): Int32Array => new Int32Array(length);

  it("hold neighbours of one length, up to 4096 tokens", () => {
    const windows = [...Array.from({ length: 9 }, () => window(512)), window(3), window(512), window(9000)];
    expect(makeBatches(windows, 10).map(({ dims }) => dims)).toEqual([
      [8, 512],
      [1, 512],
      [1, 3],
      [1, 512],
      [1, 9000],
    ]);
  });
});
