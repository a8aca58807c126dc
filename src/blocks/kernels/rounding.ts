import { floatToHalf, halfToFloat } from "../floats.js";
import { nbitsRow, type NBitsType } from "../nbits/types.js";

/** Largest finite half. */
const LARGEST_SCALE = 65_504;

/** What a matrix is stored as; `zeroPoints` is empty for a type without them. */
export interface RoundedRows {
  readonly codes: Uint8Array;
  readonly scales: Uint8Array;
  readonly zeroPoints: Uint8Array;
}

/** Adds a code to bytes of zeros, lowest bits first. */
function put(bytes: Uint8Array, bits: number, index: number, code: number): void {
  const bit = index * bits;
  bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (code << (bit & 7));
}

/** Scale and zero point by the signed extreme of a block, or by its range where there are zero points. */
function scaleOf({ bits, zeroPoints }: NBitsType, block: Float32Array): [scale: number, zero: number] {
  const middle = 2 ** (bits - 1);
  if (!zeroPoints) {
    const extreme = block.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0);
    return [-extreme / middle + 0, middle];
  }
  const low = Math.min(0, ...block);
  const top = 2 ** bits - 1;
  const scale = (Math.max(0, ...block) - low) / top;
  return [scale, scale === 0 ? 0 : Math.min(top, Math.round(-low / scale))];
}

/**
 * Rounds rows to the nearest codes.
 *
 * @param row values in a row
 * @param into as long as `nbitsRow` says, for all rows
 * @returns index of the first value that is not finite, or too large for a scale that is a half; −1 for none
 */
export function roundRows(type: NBitsType, row: number, values: Float32Array, into: RoundedRows): number {
  const { bits, block, zeroPoints } = type;
  const top = 2 ** bits - 1;
  const blocks = Math.ceil(row / block);
  const sizes = nbitsRow(type, row);
  for (const bytes of [into.codes, into.scales, into.zeroPoints]) bytes.fill(0);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) return bad;
  for (let at = 0; at < (values.length / row) * blocks; at++) {
    const r = Math.floor(at / blocks);
    const b = at % blocks;
    const first = r * row + b * block;
    const own = values.subarray(first, Math.min(first + block, (r + 1) * row));
    const [exact, zero] = scaleOf(type, own);
    if (Math.abs(exact) > LARGEST_SCALE) return first;
    const half = floatToHalf(exact);
    const scale = halfToFloat(half);
    into.scales[2 * at] = half;
    into.scales[2 * at + 1] = half >> 8;
    if (zeroPoints) put(into.zeroPoints.subarray(r * sizes.zeroPoints), bits, b, zero);
    const codes = into.codes.subarray((at * block * bits) / 8);
    for (let j = 0; j < block; j++) {
      const level = scale === 0 ? 0 : Math.round((own[j] ?? 0) / scale);
      put(codes, bits, j, Math.max(0, Math.min(top, level + zero)));
    }
  }
  return -1;
}
