import { half } from "../../decode/block.js";
import { bytesOf, storeLevels } from "../../encode/legacy.js";
import { storeQ1_0, storeQ2_0, storeTQ1_0, storeTQ2_0 } from "../../encode/ternary.js";
import { countedFrom, type Fields, type Layout, storeHalf } from "./layout.js";

// Types with one scale a block, and maybe an offset: value = scale · level + offset.

/** Fills in the codes that do not differ: an offset that is added has the code −1. */
function readHalves(block: Uint8Array, fields: Fields, scaleAt: number, offsetAt?: number): void {
  fields.scale = half(block, scaleAt);
  fields.offset = offsetAt === undefined ? 0 : half(block, offsetAt);
  fields.zero = 0;
  fields.scaleCodes.fill(1);
  fields.offsetCodes.fill(offsetAt === undefined ? 0 : -1);
}

/** Scales beside the found one, a quarter and a half of a step at the outermost level away from it. */
function nearScalesOf(outermost: number): number[] {
  return [0.25, 0.5].flatMap((part) => [-part / outermost, part / outermost]);
}

/** Q4_0, Q4_1, Q5_0 and Q5_1. */
function thirtyTwo(fifth: boolean, offset: boolean): Layout {
  const top = fifth ? 31 : 15;
  const lowest = offset ? 0 : -(top + 1) / 2;
  const parts = { offset, fifth };
  return {
    bytes: bytesOf(parts),
    grid: {
      values: 32,
      size: 32,
      levels: { lowest, highest: lowest + top },
      ...(offset ? { offset: { least: -65504 } } : {}),
      leastScale: -65504,
      zeroPoints: false,
      nearScales: nearScalesOf((top + 1) / 2),
    },
    read: (block, fields) => readHalves(block, fields, 0, offset ? 2 : undefined),
    write(fields, block) {
      storeLevels(countedFrom(lowest, fields.levels, 32), fields, parts, block, 0);
    },
  };
}

export const q4_0 = thirtyTwo(false, false);
export const q4_1 = thirtyTwo(false, true);
export const q5_0 = thirtyTwo(true, false);
export const q5_1 = thirtyTwo(true, true);

/** Levels −127…127, of which some kernels of runtimes cannot bear a −128. */
export const q8_0: Layout = {
  bytes: 34,
  grid: {
    values: 32,
    size: 32,
    levels: { lowest: -127, highest: 127 },
    leastScale: -65504,
    zeroPoints: false,
    nearScales: nearScalesOf(127),
  },
  read: (block, fields) => readHalves(block, fields, 0),
  write(fields, block) {
    storeHalf(fields.scale, block, 0);
    for (let j = 0; j < 32; j++) block[2 + j] = fields.levels[j]!;
  },
};

type Store = (levels: Uint8Array, d: number, out: Uint8Array, at: number) => void;

/** Levels from −1 on; few levels bear larger changes of their scale. */
function trits(values: number, bytes: number, highest: number, scaleAt: number, store: Store): Layout {
  return {
    bytes,
    grid: {
      values,
      size: values,
      levels: { lowest: -1, highest },
      leastScale: -65504,
      zeroPoints: false,
      nearScales: [-0.08, 0.08],
    },
    read: (block, fields) => readHalves(block, fields, scaleAt),
    write: (fields, block) => store(countedFrom(-1, fields.levels, values), fields.scale, block, 0),
  };
}

export const q2_0 = trits(64, 18, 2, 0, storeQ2_0);
export const tq1_0 = trits(256, 54, 1, 52, storeTQ1_0);
export const tq2_0 = trits(256, 66, 1, 64, storeTQ2_0);

/** A sign for each of 128 values. */
export const q1_0: Layout = {
  bytes: 18,
  grid: {
    values: 128,
    size: 128,
    levels: { lowest: -1, highest: 1 },
    codebook: [-1, 1],
    leastScale: 0,
    zeroPoints: false,
    nearScales: [-0.08, 0.08],
  },
  read: (block, fields) => readHalves(block, fields, 0),
  write: (fields, block) => storeQ1_0(fields.levels.subarray(0, 128), fields.scale, block, 0),
};
