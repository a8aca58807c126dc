import { floatToHalf } from "../../floats.js";
import { coarseScale } from "./coarse.js";
import { largest, scaleCodes, split, weigh, type Split } from "./block.js";
import { lattice } from "./points.js";
import { numerators, search, type Method, type Placement } from "./search.js";

const { fround } = Math;

/** Sub-blocks of IQ2_XXS and IQ2_XS below this are stored as zero, and those of IQ2_S. */
const negligible = fround(1e-15);
const negligibleInS = fround(1e-8);

function putHalf(out: Uint8Array, at: number, value: number): void {
  const half = floatToHalf(value);
  out[at] = half;
  out[at + 1] = half >>> 8;
}

/** Makes a negative scale positive, which takes the other sign of every value. */
function unsigned(found: Placement, signs: Uint8Array, first: number): number {
  if (!(found.scale < 0)) return found.scale;
  const groups = found.points.length;
  for (let group = first; group < first + groups; group++) signs[group]! ^= 255;
  return -found.scale;
}

/** IQ2_XXS of whole blocks: eight sub-blocks of 32, points of 256, signs even in each eight. */
export function encodeIQ2_XXS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const method: Method = {
    lattice: lattice("iq2xxs"),
    size: 32,
    numerators: numerators(5, 0.1, 6),
    onGridAtFirst: true,
    placesAgain: () => true,
  };
  for (let o = 0, at = 0; o < values.length; o += 256, at += 66) {
    out.fill(0, at, at + 66);
    const block = split(values, o, weigh(values, o, importance, 1), true);
    const scales: number[] = [];
    const words: number[] = [];
    for (let start = 0; start < 256; start += 32) {
      const sub = { ...block, start };
      const coarse = largest(block.sizes, start, 32) < negligible ? 0 : coarseScale(sub);
      const extreme = fround(coarse * 3);
      if (!(extreme > 0)) {
        scales.push(0);
        words.push(0);
        continue;
      }
      const found = search(method, sub, extreme, coarse);
      scales.push(unsigned(found, block.signs, start / 8));
      let word = 0;
      for (let l = 0; l < 4; l++) {
        out[at + 2 + start / 4 + l] = found.points[l]!;
        word |= (block.signs[start / 8 + l]! & 127) << (7 * l);
      }
      words.push(word);
    }
    const most = Math.max(...scales);
    if (most === 0) {
      out.fill(0, at, at + 66);
      continue;
    }
    putHalf(out, at, fround(most / 31));
    for (const [s, code] of scaleCodes(scales, most).entries()) {
      const word = words[s]! | (code << 28);
      for (let byte = 0; byte < 4; byte++) out[at + 6 + 8 * s + byte] = word >>> (8 * byte);
    }
  }
}

const numeratorsOf16 = numerators(5, 0.1, 9);

/** What a method finds in the 16 sub-blocks of a block whose largest size is not below `least`. */
function searchSixteens(
  method: Method,
  block: Split,
  least: number,
  store: (group: number, point: number) => void,
): number[] {
  return Array.from({ length: 16 }, (_, s) => {
    const extreme = largest(block.sizes, 16 * s, 16);
    if (extreme < least) return 0;
    const found = search(method, { ...block, start: 16 * s }, extreme, fround(extreme / 5));
    const scale = unsigned(found, block.signs, 2 * s);
    for (const [group, point] of found.points.entries()) store(2 * s + group, point);
    return scale;
  });
}

function putNibbles(out: Uint8Array, at: number, codes: readonly number[]): void {
  for (const [s, code] of codes.entries()) out[at + (s >> 1)]! |= code << (4 * (s & 1));
}

/** IQ2_XS of whole blocks: 16 sub-blocks of 16, points of 512, signs even in each eight. */
export function encodeIQ2_XS(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const method: Method = {
    lattice: lattice("iq2xs"),
    size: 16,
    numerators: numeratorsOf16,
    onGridAtFirst: true,
    placesAgain: (onGrid, group) => !onGrid[group],
  };
  for (let o = 0, at = 0; o < values.length; o += 256, at += 74) {
    out.fill(0, at, at + 74);
    const block = split(values, o, weigh(values, o, importance, 1), true);
    const scales = searchSixteens(method, block, negligible, (group, point) => {
      out[at + 2 + 2 * group] = point;
      out[at + 3 + 2 * group] = (point >> 8) | (block.signs[group]! << 1);
    });
    const most = Math.max(...scales);
    if (most === 0) {
      out.fill(0, at, at + 74);
      continue;
    }
    putHalf(out, at, fround(most / 31));
    putNibbles(out, at + 66, scaleCodes(scales, most));
  }
}

/** What weighs a value of IQ2_S without an importance. */
function plainWeight(variance: number, square: number): number {
  return fround(fround(0.25 * variance) + square);
}

/** IQ2_S of whole blocks: 16 sub-blocks of 16, points of 1024, all signs. */
export function encodeIQ2_S(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const method: Method = {
    lattice: lattice("iq2s"),
    size: 16,
    numerators: numeratorsOf16,
    onGridAtFirst: true,
    placesAgain: (onGrid, group) => !onGrid[group],
  };
  for (let o = 0, at = 0; o < values.length; o += 256, at += 82) {
    out.fill(0, at, at + 82);
    const block = split(values, o, weigh(values, o, importance, 2, plainWeight), false);
    // What is stored here stays, also when all scales turn out to be zero.
    const scales = searchSixteens(method, block, negligibleInS, (group, point) => {
      out[at + 2 + group] = point;
      out[at + 34 + group] = block.signs[group]!;
      out[at + 66 + (group >> 2)]! |= (point >> 8) << (2 * (group & 3));
    });
    const most = Math.max(...scales);
    if (most === 0) continue;
    putHalf(out, at, fround(fround(most / 31) * fround(0.9875)));
    putNibbles(out, at + 74, scaleCodes(scales, most));
  }
}
