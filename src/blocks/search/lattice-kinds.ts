import type { Found } from "./lattice.js";

/** A type whose groups are points of a lattice and whose sub-blocks have scales of 2·code + 1 steps. */
export interface PointKind {
  /** Elements of a group, and values of a sub-block. */
  readonly width: 4 | 8;
  readonly size: 16 | 32;
  /** How signs are stored: in the points, or beside them, all or an even number of minus signs in each eight values. */
  readonly signs: "points" | "all" | "even";
  /** The last code of a scale. */
  readonly lastCode: 7 | 15;
  /** Steps that the largest scale of a sub-block is tried as: eight numbers from the first on, so far apart. */
  readonly firstSteps: number;
  readonly stepsApart: number;
  /** What of the weighted root mean square and of the largest value makes the first guess of a scale. */
  readonly ofMean: number;
  readonly ofLargest: number;
  /** Scales that are tried to either side of the guess, and by how much of it they differ. */
  readonly reach: number;
  readonly step: number;
  /** How many more are tried beyond the last of these, as long as it gets better. */
  readonly further: number;
  /** Levels on which more trials put the largest value, where that makes their scales larger than all of those. */
  readonly reaches: readonly number[];
  /** How often the whole block is placed at the scales to be stored. */
  readonly rounds: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Stores what was found in a block of zeros. */
  store(block: Uint8Array, found: Found, signs: Uint8Array): void;
}

/** A type whose points are magnitudes. */
export interface LatticeKind extends PointKind {
  readonly grid: "iq2xxs" | "iq2xs" | "iq2s" | "iq3xxs" | "iq3s";
  readonly signs: "all" | "even";
  /** What a level of the decoder is in steps of the scale. */
  readonly unit: number;
}

const { fround } = Math;

/** What the scales of all these types have in common. */
const scales = { lastCode: 15, firstSteps: 22, stepsApart: 1.5 } as const;

function putHalf(block: Uint8Array, half: number): void {
  block[0] = half;
  block[1] = half >>> 8;
}

function putNibbles(block: Uint8Array, at: number, codes: readonly number[]): void {
  for (const [s, code] of codes.entries()) block[at + (s >> 1)]! |= code << (4 * (s & 1));
}

/** Seven of each eight signs of a sub-block of 32, and its code. */
function putWord(block: Uint8Array, at: number, s: number, { codes }: Found, signs: Uint8Array): void {
  let word = codes[s]! << 28;
  for (let l = 0; l < 4; l++) word |= (signs[4 * s + l]! & 127) << (7 * l);
  for (let byte = 0; byte < 4; byte++) block[at + byte] = word >>> (8 * byte);
}

/** IQ2_XXS: eight sub-blocks of 32, points of 256, signs even in each eight. */
export const iq2_xxs: LatticeKind = {
  grid: "iq2xxs",
  width: 8,
  size: 32,
  unit: 1 / 8,
  signs: "even",
  ...scales,
  ofMean: fround(0.22),
  ofLargest: fround(0.06),
  reach: 1,
  further: 2,
  reaches: [],
  rounds: 1,
  step: fround(0.13),
  bytes: 66,
  store(block, found, signs) {
    putHalf(block, found.half);
    for (let s = 0; s < 8; s++) {
      block.set(found.points.slice(4 * s, 4 * s + 4), 2 + 8 * s);
      putWord(block, 6 + 8 * s, s, found, signs);
    }
  },
};

/** IQ2_XS: 16 sub-blocks of 16, points of 512, signs even in each eight. */
export const iq2_xs: LatticeKind = {
  grid: "iq2xs",
  width: 8,
  size: 16,
  unit: 1 / 8,
  signs: "even",
  ...scales,
  ofMean: fround(0.22),
  ofLargest: fround(0.05),
  reach: 2,
  further: 2,
  reaches: [],
  rounds: 2,
  step: fround(0.11),
  bytes: 74,
  store(block, { half, points, codes }, signs) {
    putHalf(block, half);
    for (const [group, point] of points.entries()) {
      block[2 + 2 * group] = point;
      block[3 + 2 * group] = (point >> 8) | (signs[group]! << 1);
    }
    putNibbles(block, 66, codes);
  },
};

/** IQ2_S: 16 sub-blocks of 16, points of 1024, all signs. */
export const iq2_s: LatticeKind = {
  grid: "iq2s",
  width: 8,
  size: 16,
  unit: 1 / 8,
  signs: "all",
  ...scales,
  ofMean: fround(0.2),
  ofLargest: fround(0.07),
  reach: 1,
  further: 0,
  reaches: [],
  rounds: 1,
  step: fround(0.15),
  bytes: 82,
  store(block, { half, points, codes }, signs) {
    putHalf(block, half);
    for (const [group, point] of points.entries()) {
      block[2 + group] = point;
      block[66 + (group >> 2)]! |= (point >> 8) << (2 * (group & 3));
    }
    block.set(signs, 34);
    putNibbles(block, 74, codes);
  },
};

/** IQ3_XXS: eight sub-blocks of 32, points of 256, signs even in each eight. */
export const iq3_xxs: LatticeKind = {
  grid: "iq3xxs",
  width: 4,
  size: 32,
  unit: 1 / 4,
  signs: "even",
  ...scales,
  ofMean: fround(0.045),
  ofLargest: fround(0.045),
  reach: 2,
  further: 2,
  reaches: [17, 15, 13],
  rounds: 2,
  step: fround(0.09),
  bytes: 98,
  store(block, found, signs) {
    putHalf(block, found.half);
    block.set(found.points, 2);
    for (let s = 0; s < 8; s++) putWord(block, 66 + 4 * s, s, found, signs);
  },
};

/** IQ3_S: eight sub-blocks of 32, points of 512, all signs. */
export const iq3_s: LatticeKind = {
  grid: "iq3s",
  width: 4,
  size: 32,
  unit: 1,
  signs: "all",
  ...scales,
  ofMean: fround(0.045),
  ofLargest: fround(0.045),
  reach: 1,
  further: 2,
  reaches: [17, 15, 13],
  rounds: 1,
  step: fround(0.13),
  bytes: 110,
  store(block, { half, points, codes }, signs) {
    putHalf(block, half);
    for (const [group, point] of points.entries()) {
      block[2 + group] = point;
      block[66 + (group >> 3)]! |= (point >> 8) << (group & 7);
    }
    block.set(signs, 74);
    putNibbles(block, 106, codes);
  },
};
