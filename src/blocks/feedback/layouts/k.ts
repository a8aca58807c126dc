import { half, i8 } from "../../decode/block.js";
import { type AffineLayout, layoutQ2_K, layoutQ4_K, layoutQ5_K } from "../../encode/k-affine.js";
import { packCodes, packLevels as packQ3_K } from "../../encode/q3_k.js";
import { packLevels as packQ6_K } from "../../encode/q6_k.js";
import { countedFrom, type Layout, storeHalf } from "./layout.js";

/** Q2_K, Q4_K and Q5_K: a scale and a minimum for every group, each in steps of a half. */
function affine({
  bytes,
  count,
  top,
  scaleTop,
  halves,
  packScales,
  scaleLevels,
  pack,
}: AffineLayout): Layout {
  const codes = { lowest: 0, highest: scaleTop };
  return {
    bytes,
    grid: {
      values: 256,
      size: count,
      levels: { lowest: 0, highest: top },
      scaleCodes: codes,
      offsetCodes: codes,
      offset: { least: 0 },
      leastScale: 0,
      zeroPoints: false,
      nearScales: [],
    },
    read(block, fields) {
      fields.scale = half(block, halves);
      fields.offset = half(block, halves + 2);
      fields.zero = 0;
      for (let s = 0; s < 256 / count; s++) {
        [fields.scaleCodes[s], fields.offsetCodes[s]] = scaleLevels(block, s);
      }
    },
    write(fields, block) {
      block.fill(0);
      storeHalf(fields.scale, block, halves);
      storeHalf(fields.offset, block, halves + 2);
      packScales(block, Uint8Array.from(fields.scaleCodes), Uint8Array.from(fields.offsetCodes));
      pack(block, countedFrom(0, fields.levels, 256));
    },
  };
}

export const q2_k = affine(layoutQ2_K);
export const q4_k = affine(layoutQ4_K);
export const q5_k = affine(layoutQ5_K);

/** What Q3_K and Q6_K have in common: a scale for every 16 values in steps of a half, which may be negative. */
const symmetric = { values: 256, size: 16, leastScale: -65504, zeroPoints: false, nearScales: [] } as const;

export const q3_k: Layout = {
  bytes: 110,
  grid: { ...symmetric, levels: { lowest: -4, highest: 3 }, scaleCodes: { lowest: -32, highest: 31 } },
  read(block, fields) {
    fields.scale = half(block, 108);
    fields.offset = 0;
    fields.zero = 0;
    for (let s = 0; s < 16; s++) {
      const low = (block[96 + (s & 7)]! >> (4 * (s >> 3))) & 15;
      fields.scaleCodes[s] = (low | (((block[104 + (s & 3)]! >> (2 * (s >> 2))) & 3) << 4)) - 32;
    }
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    block.fill(0);
    storeHalf(fields.scale, block, 108);
    packCodes(countedFrom(-32, fields.scaleCodes, 16), block.subarray(96, 108));
    packQ3_K(countedFrom(-4, fields.levels, 256), block);
  },
};

export const q6_k: Layout = {
  bytes: 210,
  grid: { ...symmetric, levels: { lowest: -32, highest: 31 }, scaleCodes: { lowest: -128, highest: 127 } },
  read(block, fields) {
    fields.scale = half(block, 208);
    fields.offset = 0;
    fields.zero = 0;
    for (let s = 0; s < 16; s++) fields.scaleCodes[s] = i8(block, 192 + s);
    fields.offsetCodes.fill(0);
  },
  write(fields, block) {
    block.fill(0);
    storeHalf(fields.scale, block, 208);
    for (let s = 0; s < 16; s++) block[192 + s] = fields.scaleCodes[s]!;
    packQ6_K(countedFrom(-32, fields.levels, 256), block);
  },
};
