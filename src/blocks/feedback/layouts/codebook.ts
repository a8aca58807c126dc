import { half, nibble, u16 } from "../../decode/block.js";
import { e2m1Levels, iq4Levels, ue4m3 } from "../../decode/codebook.js";
import { packCodes } from "../../encode/codebook.js";
import type { Grid } from "../grid.js";
import { countedFrom, type Layout, storeHalf } from "./layout.js";

/** Stores 2·`count` levels by their places in a list: the low nibbles first, then the high ones. */
function storeNibbles(
  list: readonly number[],
  levels: Float32Array,
  from: number,
  count: number,
  out: Uint8Array,
  at: number,
): void {
  for (let j = 0; j < count; j++) {
    const low = list.indexOf(levels[from + j]!);
    out[at + j] = low | (list.indexOf(levels[from + count + j]!) << 4);
  }
}

const uneven = {
  size: 32,
  levels: { lowest: -127, highest: 113 },
  codebook: iq4Levels,
  leastScale: -65504,
  zeroPoints: false,
} satisfies Partial<Grid>;

export const iq4_nl: Layout = {
  bytes: 18,
  grid: { ...uneven, values: 32, nearScales: [-0.04, 0.04] },
  read(block, fields) {
    fields.scale = half(block, 0);
    fields.offset = 0;
    fields.zero = 0;
    fields.scaleCodes.fill(1);
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    storeHalf(fields.scale, block, 0);
    storeNibbles(iq4Levels, fields.levels, 0, 16, block, 2);
  },
};

export const iq4_xs: Layout = {
  bytes: 136,
  grid: { ...uneven, values: 256, scaleCodes: { lowest: -32, highest: 31 }, nearScales: [] },
  read(block, fields) {
    fields.scale = half(block, 0);
    fields.offset = 0;
    fields.zero = 0;
    const high = u16(block, 2);
    for (let s = 0; s < 8; s++) {
      fields.scaleCodes[s] = (nibble(block, 4, s) | (((high >> (2 * s)) & 3) << 4)) - 32;
    }
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    block.fill(0);
    storeHalf(fields.scale, block, 0);
    packCodes(countedFrom(-32, fields.scaleCodes, 8), block.subarray(2, 8));
    for (let s = 0; s < 8; s++) storeNibbles(iq4Levels, fields.levels, 32 * s, 16, block, 8 + 16 * s);
  },
};

/** The levels of E2M1, doubled, without its negative zero. */
const e2m1 = [...new Set(e2m1Levels.map((level) => level + 0))].toSorted((a, b) => a - b);

const floats4 = {
  levels: { lowest: -12, highest: 12 },
  codebook: e2m1,
  leastScale: 0,
  zeroPoints: false,
  nearScales: [],
} satisfies Partial<Grid>;

export const mxfp4: Layout = {
  bytes: 17,
  grid: {
    ...floats4,
    values: 32,
    size: 32,
    scaleCodes: { lowest: 0, highest: 254 },
    scales: Float32Array.from({ length: 256 }, (_, code) => 2 ** (code - 128)),
  },
  read(block, fields) {
    fields.scale = 1;
    fields.offset = 0;
    fields.zero = 0;
    fields.scaleCodes[0] = block[0]!;
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    block[0] = fields.scaleCodes[0]!;
    storeNibbles(e2m1Levels, fields.levels, 0, 16, block, 1);
  },
};

export const nvfp4: Layout = {
  bytes: 36,
  grid: {
    ...floats4,
    values: 64,
    size: 16,
    // 127 would be NaN.
    scaleCodes: { lowest: 0, highest: 126 },
    scales: Float32Array.from({ length: 256 }, (_, code) => ue4m3(code) / 2),
  },
  read(block, fields) {
    fields.scale = 1;
    fields.offset = 0;
    fields.zero = 0;
    for (let s = 0; s < 4; s++) fields.scaleCodes[s] = block[s]!;
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    for (let s = 0; s < 4; s++) {
      block[s] = fields.scaleCodes[s]!;
      storeNibbles(e2m1Levels, fields.levels, 16 * s, 8, block, 4 + 8 * s);
    }
  },
};
