import { half } from "../../decode/block.js";
import { packCodes } from "../../nbits/pack.js";
import { middleOf, type NBitsType, topOf } from "../../nbits/types.js";
import { type Layout, storeHalf } from "./layout.js";

/** Scales beside the found one, as parts of it: with more levels they lie closer together. */
const nearScales = { 2: [-0.08, 0.08], 4: [-0.06, -0.03, 0.03, 0.06], 8: [-0.004, -0.002, 0.002, 0.004] };

/** Bytes of a block before its codes: the half of its scale and its zero point. */
export const NBITS_HEADER = 3;

/**
 * Codes of a few bits. Their tensors lie apart; here a block is its scale, a byte for its zero point, whether the type
 * has one or not, and its codes.
 */
export function nbitsLayout(type: NBitsType): Layout {
  const { bits, block: values, zeroPoints } = type;
  const top = topOf(type);
  const middle = middleOf(type);
  return {
    bytes: NBITS_HEADER + (values * bits) / 8,
    grid: {
      values,
      size: values,
      levels: zeroPoints ? { lowest: 0, highest: top } : { lowest: -middle, highest: top - middle },
      leastScale: -65504,
      zeroPoints,
      nearScales: nearScales[bits],
    },
    read(block, fields) {
      fields.scale = half(block, 0);
      fields.offset = 0;
      fields.zero = zeroPoints ? block[2]! : 0;
      fields.scaleCodes.fill(1);
      fields.offsetCodes.fill(0);
    },
    write({ scale, zero, levels }, block) {
      const point = zeroPoints ? zero : middle;
      // The sum makes one zero of two.
      storeHalf(scale + 0, block, 0);
      block[2] = point;
      packCodes(
        Uint8Array.from({ length: values }, (_, j) => levels[j]! + point),
        bits,
        block.subarray(NBITS_HEADER),
      );
    },
  };
}
