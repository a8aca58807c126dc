// IQ3_XXS and IQ3_S: groups of four values on a lattice of eight steps.

import { halfOf } from "../half";
import {
  codeScales,
  largestScale,
  largestSize,
  readBlock,
  scales,
  signs,
  SQUARE,
  sumSquares,
} from "./block";
import { ALL_OR_NONE, chosenPoint, OFF_GRID, searchFours } from "./search";
import { setTrials } from "./trials";

/** Sub-blocks of IQ3_XXS below this are stored as zero. */
const NEGLIGIBLE: f32 = 1e-8;

/** Eight sub-blocks of 32, points of 256, signs even in each eight. */
function encodeXXS(output: usize): void {
  for (let s: usize = 0; s < 8; s++) {
    const extreme = largestSize(128 * s, 128);
    if (!(extreme >= NEGLIGIBLE)) {
      store<f32>(scales + 4 * s, 0);
      store<u64>(output + 8 * s, 0, 2);
      store<u32>(output + 4 * s, 0, 66);
      continue;
    }
    const scale = searchFours(128 * s, 8, extreme, extreme / 15, OFF_GRID);
    store<f32>(scales + 4 * s, abs(scale));
    for (let group: usize = 0; group < 8; group++) {
      store<u8>(output + 8 * s + group, chosenPoint(group, false), 2);
    }
    const flip = scale < 0 ? 127 : 0;
    let word: i32 = 0;
    for (let l: usize = 0; l < 4; l++) {
      word |= ((load<u8>(signs + 4 * s + l) & 127) ^ flip) << (7 * <i32>l);
    }
    store<u32>(output + 4 * s, word, 66);
  }
  const largest = largestScale(8);
  if (largest == 0) return memory.fill(output, 0, 98);
  store<u16>(output, halfOf((largest / 31) * <f32>1.0125));
  codeScales(8, largest);
  for (let s: usize = 0; s < 8; s++) {
    const to = output + 66 + 4 * s;
    store<u32>(to, load<u32>(to) | (load<u32>(scales + 4 * s) << 28));
  }
}

/**
 * Eight sub-blocks of 32, points of 512, all signs. What is stored for one stays, also when all scales are 0.
 *
 * As in ggml, a sub-block of zeros takes no place among the indices and signs; see `encode/lattice/iq3.ts`.
 */
function encodeS(output: usize): void {
  memory.fill(output, 0, 110);
  let next: usize = 0;
  for (let s: usize = 0; s < 8; s++) {
    const extreme = largestSize(128 * s, 128);
    if (extreme == 0) {
      store<f32>(scales + 4 * s, 0);
      continue;
    }
    const scale = searchFours(128 * s, 8, extreme, extreme / 15, ALL_OR_NONE);
    store<f32>(scales + 4 * s, abs(scale));
    let high: i32 = 0;
    for (let group: usize = 0; group < 8; group++) {
      const point = chosenPoint(group, false);
      store<u8>(output + 8 * next + group, point, 2);
      high |= (point >> 8) << <i32>group;
    }
    store<u8>(output + s, high, 66);
    store<u32>(output + 4 * next, load<u32>(signs + 4 * s) ^ (scale < 0 ? -1 : 0), 74);
    next++;
  }
  const largest = largestScale(8);
  if (largest == 0) return;
  store<u16>(output, halfOf((largest / 31) * <f32>1.033));
  codeScales(8, largest);
  for (let s: usize = 0; s < 8; s += 2) {
    const low = load<i32>(scales + 4 * s);
    const high = load<i32>(scales + 4 * s, 4);
    store<u8>(output + (s >> 1), low | (high << 4), 106);
  }
}

/** Encodes whole blocks: see `encodeBlocks`. */
export function encodeIQ3(target: i32, x: usize, importance: usize, output: usize, values: i32): void {
  setTrials(15, 0.2, target === 18 ? 15 : 9);
  sumSquares(x, values);
  for (let block: usize = 0; block < <usize>values >> 8; block++) {
    readBlock(x, importance, block, 2, SQUARE, target === 18);
    if (target === 18) encodeXXS(output + 98 * block);
    else encodeS(output + 110 * block);
  }
}
