import { floatToHalf, halfToFloat } from "../floats.js";
import { assignLevels, extremeOf, levelOf, negligible, searchScale } from "./symmetric.js";

const { abs, fround, sqrt } = Math;

/** Most passes over the levels of a sub-block. */
const passes = 5;

/**
 * The scale of 16 values on levels −4…3 with errors weighted by x², found by changing one level at a time while
 * that helps. Sums are float32 in the order of the values. The levels plus 4 go to `levels`, or zeros where all
 * values are negligible.
 */
function descend(values: Float32Array, levels: Uint8Array): number {
  const extreme = extremeOf(values);
  levels.fill(0);
  if (abs(extreme) < negligible) return 0;
  const inverse = fround(-4 / extreme);
  let product = 0;
  let square = 0;
  const productOf = (x: number, level: number): number => fround(fround(fround(x * x) * x) * level);
  const squareOf = (x: number, level: number): number => fround(fround(fround(x * x) * level) * level);
  for (const [j, x] of values.entries()) {
    const level = levelOf(inverse * x, 4);
    levels[j] = level + 4;
    product = fround(product + productOf(x, level));
    square = fround(square + squareOf(x, level));
  }
  for (let pass = 0, changed = true; pass < passes && changed; pass++) {
    changed = false;
    for (const [j, x] of values.entries()) {
      const old = levels[j]! - 4;
      const otherProduct = fround(product - productOf(x, old));
      const otherSquare = fround(square - squareOf(x, old));
      if (!(otherProduct > 0)) continue;
      const level = levelOf(fround(x * otherSquare) / otherProduct, 4);
      if (level === old) continue;
      const newProduct = fround(otherProduct + productOf(x, level));
      const newSquare = fround(otherSquare + squareOf(x, level));
      const gain = fround(fround(newProduct * newProduct) * square);
      const loss = fround(fround(product * product) * newSquare);
      if (!(newSquare > 0 && gain > loss)) continue;
      levels[j] = level + 4;
      product = newProduct;
      square = newSquare;
      changed = true;
    }
  }
  return square > 0 ? fround(product / square) : 0;
}

/** Packs 16 codes 0…63: their nibbles, eight sub-blocks apart, then their two high bits, four apart. */
export function packCodes(codes: Uint8Array, out: Uint8Array): void {
  for (const [s, code] of codes.entries()) {
    out[s & 7]! |= (code & 15) << (4 * (s >> 3));
    out[8 + (s & 3)]! |= (code >> 4) << (2 * (s >> 2));
  }
}

/** Packs 256 levels 0…7: the high bits of values 32 apart, then the two low bits of each. */
export function packLevels(levels: Uint8Array, out: Uint8Array): void {
  for (const [e, level] of levels.entries()) {
    out[e & 31]! |= (level >> 2) << (e >> 5);
    out[32 + 32 * (e >> 7) + (e & 31)]! |= (level & 3) << (2 * ((e >> 5) & 3));
  }
}

/** Codes (plus 32) of scales in steps of the one returned, which is the step that makes the largest −32. */
function stepOf(scales: Float32Array, codes: Uint8Array): number {
  const largest = extremeOf(scales);
  if (largest === 0) {
    codes.fill(0);
    return 0;
  }
  const inverse = fround(-32 / largest);
  for (const [s, scale] of scales.entries()) codes[s] = levelOf(inverse * scale, 32) + 32;
  return fround(1 / inverse);
}

/** What belongs to a sub-block. */
function part<T extends Float32Array | Uint8Array>(all: T, s: number): T {
  return all.subarray(16 * s, 16 * s + 16) as T;
}

/**
 * The step that ggml's method finds for a block, with the codes of its scales (plus 32) and the levels that led to
 * them (plus 4). Without an importance the levels are improved one by one and the largest scale sets the step; with
 * one, both are searched by the weighted error.
 */
export function findScales(
  values: Float32Array,
  importance: Float32Array | undefined,
  codes: Uint8Array,
  levels: Uint8Array,
): number {
  const scales = new Float32Array(16);
  if (importance === undefined) {
    for (let s = 0; s < 16; s++) scales[s] = descend(part(values, s), part(levels, s));
    return stepOf(scales, codes);
  }
  const weights = new Float32Array(16);
  const totals = new Float32Array(16);
  let squares = 0;
  for (const x of values) squares = fround(squares + fround(x * x));
  const spread = fround(fround(2 * squares) / 256);
  for (let s = 0; s < 16; s++) {
    let total = 0;
    for (const [j, x] of part(values, s).entries()) {
      const root = fround(sqrt(fround(spread + fround(x * x))));
      const weight = fround(importance[16 * s + j]! * root);
      weights[j] = weight;
      total = fround(total + weight);
    }
    totals[s] = total;
    scales[s] = searchScale(part(values, s), weights, 4, part(levels, s));
  }
  return searchScale(scales, totals, 32, codes);
}

/** Q3_K of whole blocks: a scale for every 16 values, in 6-bit steps of one half for all 256. */
export function encodeQ3_K(values: Float32Array, out: Uint8Array, importance?: Float32Array): void {
  const levels = new Uint8Array(256);
  const codes = new Uint8Array(16);
  for (let o = 0, at = 0; o < values.length; o += 256, at += 110) {
    const step = findScales(values.subarray(o, o + 256), importance?.subarray(o, o + 256), codes, levels);
    const block = out.subarray(at, at + 110).fill(0);
    const half = floatToHalf(step);
    block[108] = half;
    block[109] = half >>> 8;
    for (let s = 0; s < 16; s++) {
      const from = o + 16 * s;
      const scale = fround(halfToFloat(half) * (codes[s]! - 32));
      assignLevels(values.subarray(from, from + 16), scale, 4, levels.subarray(16 * s, 16 * s + 16));
    }
    packCodes(codes, block.subarray(96, 108));
    packLevels(levels, block);
  }
}
