import { floatToHalf } from "../../floats.js";
import { largest, scaleCodes, split, weigh } from "./block.js";
import { lattice } from "./points.js";
import { numerators, search, type Method } from "./search.js";

const { fround } = Math;

/** Sub-blocks of IQ3_XXS below this are stored as zero. */
const negligible = fround(1e-8);

/** Without an importance both types weigh a value by its square. */
const plain = (_: number, square: number): number => square;

function putHalf(out: Uint8Array, at: number, value: number): void {
  const half = floatToHalf(value);
  out[at] = half;
  out[at + 1] = half >>> 8;
}

/** IQ3_XXS of whole blocks: eight sub-blocks of 32, points of 256, signs even in each eight. */
export function encodeIQ3_XXS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const method: Method = {
    lattice: lattice("iq3xxs"),
    size: 32,
    numerators: numerators(15, 0.2, 15),
    onGridAtFirst: true,
    placesAgain: (onGrid, group) => !onGrid[group],
  };
  for (let o = 0, at = 0; o < values.length; o += 256, at += 98) {
    out.fill(0, at, at + 98);
    const block = split(values, o, weigh(values, o, importance, 2, plain), true);
    const words = new Int32Array(8);
    const scales = Array.from({ length: 8 }, (_, s) => {
      const extreme = largest(block.sizes, 32 * s, 32);
      if (extreme < negligible) return 0;
      const found = search(method, { ...block, start: 32 * s }, extreme, fround(extreme / 15));
      out.set(found.points, at + 2 + 8 * s);
      const flip = found.scale < 0 ? 127 : 0;
      for (let l = 0; l < 4; l++) words[s]! |= ((block.signs[4 * s + l]! & 127) ^ flip) << (7 * l);
      return Math.abs(found.scale);
    });
    const most = Math.max(...scales);
    if (most === 0) {
      out.fill(0, at, at + 98);
      continue;
    }
    putHalf(out, at, fround(fround(most / 31) * fround(1.0125)));
    for (const [s, code] of scaleCodes(scales, most).entries()) {
      const word = words[s]! | (code << 28);
      for (let byte = 0; byte < 4; byte++) out[at + 66 + 4 * s + byte] = word >>> (8 * byte);
    }
  }
}

/** IQ3_S of whole blocks: eight sub-blocks of 32, points of 512, all signs. */
export function encodeIQ3_S(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const method: Method = {
    lattice: lattice("iq3s"),
    size: 32,
    numerators: numerators(15, 0.2, 9),
    onGridAtFirst: false,
    placesAgain: (onGrid) => onGrid.includes(false),
  };
  for (let o = 0, at = 0; o < values.length; o += 256, at += 110) {
    out.fill(0, at, at + 110);
    const block = split(values, o, weigh(values, o, importance, 2, plain), false);
    // As in ggml, a sub-block of zeros takes no place among the indices and signs, though readers look for those
    // of the sub-blocks behind it where they would be with it; the high bits and the scales stay in place.
    let next = 0;
    // What is stored here stays, also when all scales turn out to be zero.
    const scales = Array.from({ length: 8 }, (_, s) => {
      const extreme = largest(block.sizes, 32 * s, 32);
      if (extreme === 0) return 0;
      const found = search(method, { ...block, start: 32 * s }, extreme, fround(extreme / 15));
      for (const [group, point] of found.points.entries()) {
        out[at + 2 + 8 * next + group] = point;
        out[at + 66 + s]! |= (point >> 8) << group;
      }
      const flip = found.scale < 0 ? 255 : 0;
      for (let l = 0; l < 4; l++) out[at + 74 + 4 * next + l] = block.signs[4 * s + l]! ^ flip;
      next++;
      return Math.abs(found.scale);
    });
    const most = Math.max(...scales);
    if (most === 0) continue;
    putHalf(out, at, fround(fround(most / 31) * fround(1.033)));
    for (const [s, code] of scaleCodes(scales, most).entries()) {
      out[at + 106 + (s >> 1)]! |= code << (4 * (s & 1));
    }
  }
}
