// IQ1_S and IQ1_M: groups of eight values on a lattice of ternary digits, with 3-bit scales and a shift of
// the levels by an eighth. IQ1_S has a scale and a shift for 32 values; IQ1_M a scale for 16 and a shift for
// 8.
//
// Lanes are sub-blocks where values are sorted and summed, and cuts or points where these are compared; every
// float32 sum is taken in ggml's order.

import { halfOf } from "../half";
import { searchApart } from "./ternary-apart";
import { high, low, scale, shifts } from "./ternary-best";
import {
  BLOCK,
  fitGroup,
  fitProducts,
  fitSquares,
  products,
  shiftOf,
  sumFour,
  weigh,
  weighted,
} from "./ternary-fit";
import { nearestVector } from "./ternary-point";
import { guessFour, guessesOf, rankFour, ranks, sumApart, sumTogether, sumsOf } from "./ternary-rank";
import { entryOf } from "./ternary-tables";
import { searchTogether } from "./ternary-together";

export { makeTernaryTables, ternaryTableBytes } from "./ternary-tables";

const IQ1_S: i32 = 19;

/** Of the sub-blocks of a block: scales, and shifts of their groups as bits. */
const scales: usize = memory.data(4 * 16, 16);
const down: usize = memory.data(16, 16);
/** Point of each group of a block. */
const points: usize = memory.data(2 * 32, 16);

/** Products and squares of the fits of four blocks, or of four sub-blocks. */
const four: usize = memory.data(2 * 16, 16);

/** Cuts of four sub-blocks. */
const lows: usize = memory.data(16, 16);
const highs: usize = memory.data(16, 16);
const flips: usize = memory.data(16, 16);
/** Vectors of digits of the groups of four sub-blocks: a vector for each group, lanes by sub-block. */
const vectors: usize = memory.data(4 * 16, 16);

/**
 * Digits of a value of four sub-blocks: 0 below the first cut, 2 from the second on, or the other way round.
 */
// @ts-ignore: decorator
@inline function digitsOf(j: usize, low: v128, high: v128, flip: v128): v128 {
  const rank = v128.load(ranks + 16 * j);
  // -2, -1 or 0, and 0, 1 or 2 in the end.
  const digit = i32x4.add(i32x4.lt_s(rank, low), i32x4.lt_s(rank, high));
  return v128.bitselect(i32x4.neg(digit), i32x4.add(digit, i32x4.splat(2)), flip);
}

/** Vectors of digits of all groups of four sub-blocks. */
// @ts-ignore: decorator
@inline function findVectors(size: usize): void {
  const low = v128.load(lows);
  const high = v128.load(highs);
  const flip = v128.load(flips);
  for (let group: usize = 0; group < size >> 3; group++) {
    let vector = i32x4.splat(0);
    for (let j: usize = 8; j > 0; j--) {
      vector = i32x4.add(i32x4.add(vector, vector), vector);
      vector = i32x4.add(vector, digitsOf((group << 3) + j - 1, low, high, flip));
    }
    v128.store(vectors + 16 * group, vector);
  }
}

/**
 * Rounds four sub-blocks, `s` to `s + 3` of a block: their scales, shifts and points. They stay 0 where
 * nothing is found.
 *
 * @param x first value of the four
 * @param offset of the same among the weights
 */
// @ts-ignore: decorator
@inline function roundFour(x: usize, offset: usize, s: i32, size: usize, negligible: f32): void {
  const groups = <i32>size >> 3;
  const all = (1 << groups) - 1;
  rankFour(x, size);
  if (size === 32) sumTogether(products + offset, weighted + offset);
  else sumApart(products + offset, weighted + offset);
  const nothing = i32x4.bitmask(f32x4.lt(guessFour(size), f32x4.splat(negligible)));
  let found = 0;
  for (let i = 0; i < 4; i++) {
    store<f32>(scales + 4 * (s + i), 0);
    store<u8>(down + s + i, 0);
    if (((nothing >> i) & 1) !== 0) continue;
    if (size === 32) searchTogether(sumsOf(i), guessesOf(i));
    else searchApart(sumsOf(i), guessesOf(i));
    if (shifts < 0) continue;
    found |= 1 << i;
    const flip = scale < 0;
    store<i32>(lows + 4 * i, low);
    store<i32>(highs + 4 * i, high);
    store<i32>(flips + 4 * i, flip ? -1 : 0);
    store<f32>(scales + 4 * (s + i), flip ? -scale : scale);
    store<u8>(down + s + i, flip ? shifts ^ all : shifts);
  }
  findVectors(size);
  let moved = 0;
  for (let i = 0; i < 4; i++) {
    const at = points + 2 * groups * (s + i);
    if (((found >> i) & 1) === 0) {
      for (let group = 0; group < groups; group++) store<u16>(at + 2 * group, 0);
      continue;
    }
    for (let group = 0; group < groups; group++) {
      const shift = shiftOf(load<u8>(down + s + i), group);
      const from: usize = 4 * (size * i + 8 * group);
      let entry = entryOf(load<i32>(vectors + 16 * group + 4 * i));
      if (entry < 0) {
        moved |= 1 << i;
        const scale = load<f32>(scales + 4 * (s + i));
        entry = entryOf(nearestVector(x + from, weighted + offset + from, scale, shift, entry));
      }
      store<u16>(at + 2 * group, entry);
      fitGroup(x + from, offset + from, entry, shift, 1);
    }
  }
  if (moved === 0) return;
  sumFour(fitProducts + offset, 4 * size, <i32>size, four);
  sumFour(fitSquares + offset, 4 * size, <i32>size, four + 16);
  for (let i = 0; i < 4; i++) {
    const product = load<f32>(four + 4 * i);
    const square = load<f32>(four + 4 * i, 16);
    if (((moved >> i) & 1) !== 0 && product > 0 && square > 0) {
      store<f32>(scales + 4 * (s + i), product / square);
    }
  }
}

/** The largest of a block's `count` scales. */
// @ts-ignore: decorator
@inline function largestScale(count: i32): f32 {
  let most: f32 = 0;
  for (let s = 0; s < count; s++) most = max(most, load<f32>(scales + 4 * s));
  return most;
}

/** 3-bit code of a scale: 2·code + 1 steps. */
// @ts-ignore: decorator
@inline function codeOf(inverse: f32, scale: f32): i32 {
  const steps = <f32>0.5 * (inverse * scale - 1);
  return max(0, min(7, (reinterpret<i32>(steps + 12582912) & 0x7fffff) - 0x400000));
}

/** Encodes a block of IQ1_S. */
// @ts-ignore: decorator
@inline function together(x: usize, offset: usize, output: usize): void {
  for (let s = 0; s < 8; s += 4) roundFour(x + 128 * s, offset + 128 * s, s, 32, 1e-12);
  const most = largestScale(8);
  const step = most / 15;
  const inverse: f32 = 1 / step;
  store<u16>(output, most > 0 ? halfOf(step * <f32>1.125) : 0);
  for (let s = 0; s < 8; s++) {
    let field = 0;
    for (let group = 0; group < 4; group++) {
      const point = <i32>load<u16>(points + 8 * s + 2 * group);
      store<u8>(output + 4 * s + group, point, 2);
      field |= (point >> 8) << (3 * group);
    }
    if (most > 0) {
      field |= codeOf(inverse, load<f32>(scales + 4 * s)) << 12;
      if (load<u8>(down + s) !== 0) field |= 0x8000;
    }
    store<u16>(output + 2 * s, field, 34);
  }
}

/** The largest scale of each of four blocks of IQ1_M. */
const largestScales: usize = memory.data(16, 16);

/** All of a block of IQ1_M but its half, and the terms of the fit that gives it. */
// @ts-ignore: decorator
@inline function apart(x: usize, offset: usize, output: usize, block: i32): void {
  for (let s = 0; s < 16; s += 4) roundFour(x + 64 * s, offset + 64 * s, s, 16, 1e-7);
  const most = largestScale(16);
  const inverse: f32 = 1 / (most / 15);
  store<f32>(largestScales + 4 * block, most);
  let codes: u64 = 0;
  for (let s = 0; s < 16; s++) {
    const first = <i32>load<u16>(points + 4 * s);
    const second = <i32>load<u16>(points + 4 * s, 2);
    let field = (first >> 8) | ((second >> 8) << 4);
    if (most > 0) {
      const code = codeOf(inverse, load<f32>(scales + 4 * s));
      const shifts = <i32>load<u8>(down + s);
      codes |= (<u64>code) << (16 * (s >> 2) + 3 * (s & 3));
      field |= ((shifts & 1) << 3) | ((shifts >> 1) << 7);
      const from = 64 * s;
      const by = <f32>((code << 1) + 1);
      fitGroup(x + from, offset + from, first, shiftOf(shifts, 0), by);
      fitGroup(x + from + 32, offset + from + 32, second, shiftOf(shifts, 1), by);
    }
    store<u8>(output + 2 * s, first);
    store<u8>(output + 2 * s, second, 1);
    store<u8>(output + s, field, 32);
  }
  store<u64>(output, codes, 48);
}

/** Puts the halves of up to four blocks of IQ1_M into the top nibbles of their scales. */
// @ts-ignore: decorator
@inline function finishApart(output: usize, count: i32): void {
  sumFour(fitProducts, BLOCK, 256, four);
  sumFour(fitSquares, BLOCK, 256, four + 16);
  for (let block = 0; block < count; block++) {
    const most = load<f32>(largestScales + 4 * block);
    if (most === 0) continue;
    const square = load<f32>(four + 4 * block, 16);
    const scale = square > 0 ? load<f32>(four + 4 * block) / square : most / 15;
    const half = halfOf(scale * <f32>1.1125);
    for (let j = 0; j < 4; j++) {
      const at = output + 56 * block + 2 * j;
      store<u16>(at, load<u16>(at, 48) | (((half >> (4 * j)) & 15) << 12), 48);
    }
  }
}

/** Encodes IQ1_S (19) and IQ1_M (29): see `encodeBlocks`. */
export function encodeTernaryLattice(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 1024) {
    const count = min(4, (values - i) >> 8);
    const from = x + 4 * i;
    weigh(from, weights === 0 ? 0 : weights + 4 * i, count);
    for (let block = 0; block < count; block++) {
      const offset = BLOCK * block;
      if (target === IQ1_S) {
        together(from + offset, offset, output + 50 * block);
      } else {
        apart(from + offset, offset, output + 56 * block, block);
      }
    }
    if (target === IQ1_S) {
      output += 200;
    } else {
      finishApart(output, count);
      output += 224;
    }
  }
}
