import type { PointKind } from "./lattice-kinds.js";

/** A type of ternary points, whose levels are shifted by an eighth up or down: see `makeTernaryPlacer` for marks. */
export interface TernaryKind extends PointKind {
  readonly width: 8;
  readonly signs: "points";
  /** Values with a shift in common. */
  readonly unit: 8 | 32;
}

const { fround } = Math;

/** What both types have in common. */
const common = {
  width: 8,
  signs: "points",
  lastCode: 7,
  firstSteps: 10,
  stepsApart: 1,
  ofMean: 1,
  ofLargest: fround(0.1),
  reach: 1,
  further: 2,
  reaches: [],
  step: fround(0.18),
  rounds: 1,
} as const;

/** IQ1_S: eight sub-blocks of 32, each with a shift. */
export const iq1_s: TernaryKind = {
  ...common,
  size: 32,
  unit: 32,
  bytes: 50,
  store(block, { half, codes, points }) {
    block[0] = half;
    block[1] = half >>> 8;
    for (const [s, code] of codes.entries()) {
      let field = code << 12;
      for (const [group, point] of points.slice(4 * s, 4 * s + 4).entries()) {
        block[2 + 4 * s + group] = point;
        field |= ((point >> 8) & 7) << (3 * group);
        // The mark of a shift down is the same for all four.
        field |= (point >> 11) << 15;
      }
      block[34 + 2 * s] = field;
      block[35 + 2 * s] = field >> 8;
    }
  },
};

/** IQ1_M: 16 sub-blocks of 16, a shift for each group of eight. */
export const iq1_m: TernaryKind = {
  ...common,
  size: 16,
  unit: 8,
  bytes: 56,
  store(block, { half, codes, points }) {
    for (const [group, point] of points.entries()) {
      block[group] = point;
      // Three bits of the point and the mark of its shift.
      block[32 + (group >> 1)]! |= (point >> 8) << (4 * (group & 1));
    }
    for (let word = 0; word < 4; word++) {
      let field = ((half >> (4 * word)) & 15) << 12;
      for (let s = 0; s < 4; s++) field |= codes[4 * word + s]! << (3 * s);
      block[48 + 2 * word] = field;
      block[49 + 2 * word] = field >> 8;
    }
  },
};
