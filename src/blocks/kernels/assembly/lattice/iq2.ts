// IQ2_XXS, IQ2_XS and IQ2_S: groups of eight values on a lattice of three steps.

import { halfOf } from "../half";
import {
  codeScales,
  EVEN,
  largestScale,
  largestSize,
  QUARTER,
  readBlock,
  scales,
  signs,
  sumSquares,
} from "./block";
import { coarseScale } from "./coarse";
import { ALL, chosenPoint, OFF_GRID, searchEights } from "./search";
import { setTrials } from "./trials";

/** Sub-blocks of IQ2_XXS and IQ2_XS below this are stored as zero, and those of IQ2_S. */
const NEGLIGIBLE: f32 = 1e-15;
const NEGLIGIBLE_IN_S: f32 = 1e-8;

/** Stores the magnitude of a sub-block's scale. Returns what turns the signs of its groups around, if needed. */
// @ts-ignore: decorator
@inline function takeScale(s: usize, scale: f32): i32 {
  store<f32>(scales + 4 * s, abs(scale));
  return scale < 0 ? 0xff : 0;
}

// @ts-ignore: decorator
@inline function signsOf(group: usize, flip: i32): i32 {
  return load<u8>(signs + group) ^ flip;
}

/** Codes of the scales, two to a byte. */
// @ts-ignore: decorator
@inline function storeScales(to: usize): void {
  for (let s: usize = 0; s < 16; s += 2) {
    const low = load<i32>(scales + 4 * s);
    const high = load<i32>(scales + 4 * s, 4);
    store<u8>(to + (s >> 1), low | (high << 4));
  }
}

/** Eight sub-blocks of 32, points of 256, signs even in each eight. */
function encodeXXS(output: usize): void {
  for (let s: usize = 0; s < 8; s++) {
    const at: usize = 128 * s;
    const coarse = coarseScale(at);
    const extreme = coarse * 3;
    const to = output + 2 + 8 * s;
    if (!(extreme > 0)) {
      store<f32>(scales + 4 * s, 0);
      store<u64>(to, 0);
      continue;
    }
    const flip = takeScale(s, searchEights(at, 4, extreme, coarse, ALL)) & 127;
    let word: i32 = 0;
    for (let l: usize = 0; l < 4; l++) {
      store<u8>(to + l, chosenPoint(l, true));
      word |= ((load<u8>(signs + 4 * s + l) & 127) ^ flip) << (7 * <i32>l);
    }
    store<u32>(to, word, 4);
  }
  const largest = largestScale(8);
  if (largest == 0) return memory.fill(output, 0, 66);
  store<u16>(output, halfOf(largest / 31));
  codeScales(8, largest);
  for (let s: usize = 0; s < 8; s++) {
    const to = output + 6 + 8 * s;
    store<u32>(to, load<u32>(to) | (load<u32>(scales + 4 * s) << 28));
  }
}

/** Searches sub-block `s` of 16; see `takeScale`. Sub-blocks below `least` get the scale 0 and give −1. */
// @ts-ignore: decorator
@inline function searchSixteen(s: usize, least: f32): i32 {
  const extreme = largestSize(64 * s, 64);
  if (!(extreme >= least)) {
    store<f32>(scales + 4 * s, 0);
    return -1;
  }
  return takeScale(s, searchEights(64 * s, 2, extreme, extreme / 5, OFF_GRID));
}

/** Sixteen sub-blocks of 16, points of 512, signs even in each eight. */
function encodeXS(output: usize): void {
  for (let s: usize = 0; s < 16; s++) {
    const flip = searchSixteen(s, NEGLIGIBLE);
    const to = output + 2 + 4 * s;
    if (flip < 0) {
      store<u32>(to, 0);
      continue;
    }
    store<u16>(to, chosenPoint(0, true) | (signsOf(2 * s, flip) << 9));
    store<u16>(to, chosenPoint(1, true) | (signsOf(2 * s + 1, flip) << 9), 2);
  }
  const largest = largestScale(16);
  if (largest == 0) return memory.fill(output, 0, 74);
  store<u16>(output, halfOf(largest / 31));
  codeScales(16, largest);
  storeScales(output + 66);
}

/** Sixteen sub-blocks of 16, points of 1024, all signs. What is stored for one stays, also when all scales are 0. */
function encodeS(output: usize): void {
  memory.fill(output, 0, 82);
  for (let s: usize = 0; s < 16; s++) {
    const flip = searchSixteen(s, NEGLIGIBLE_IN_S);
    if (flip < 0) continue;
    for (let group: usize = 2 * s; group < 2 * s + 2; group++) {
      const point = chosenPoint(group & 1, true);
      store<u8>(output + group, point, 2);
      store<u8>(output + group, signsOf(group, flip), 34);
      const high = output + 66 + (group >> 2);
      store<u8>(high, load<u8>(high) | ((point >> 8) << (2 * (<i32>group & 3))));
    }
  }
  const largest = largestScale(16);
  if (largest == 0) return;
  store<u16>(output, halfOf((largest / 31) * <f32>0.9875));
  codeScales(16, largest);
  storeScales(output + 74);
}

/** Encodes whole blocks: see `encodeBlocks`. */
export function encodeIQ2(target: i32, x: usize, importance: usize, output: usize, values: i32): void {
  setTrials(5, 0.1, target === 16 ? 6 : 9);
  sumSquares(x, values);
  for (let block: usize = 0; block < <usize>values >> 8; block++) {
    if (target === 22) {
      readBlock(x, importance, block, 2, QUARTER, false);
      encodeS(output + 82 * block);
    } else {
      readBlock(x, importance, block, 1, EVEN, true);
      if (target === 16) encodeXXS(output + 66 * block);
      else encodeXS(output + 74 * block);
    }
  }
}
