// The search of IQ2_XXS (16), IQ2_XS (17), IQ3_XXS (18), IQ3_S (21) and IQ2_S (22).

import { signs } from "../lattice/block";
import { readBlock } from "./lattice-block";
import { setSteps } from "./lattice-place";
import { bestCodes, bestPoints, EIGHTS, FOURS, searchBlock, setTrials } from "./lattice-search";
import { useCandidates } from "./lattice-tables";
import { setScales } from "./lattice-trials";

/** How each type guesses its scales and what it tries. */
function setTrialsOf(target: i32): void {
  switch (target) {
    case 16:
      return setTrials(1, 2, 1, 0.13, 0.22, 0.06);
    case 17:
      return setTrials(2, 2, 2, 0.11, 0.22, 0.05);
    case 18:
      return setTrials(2, 2, 2, 0.09, 0.045, 0.045);
    case 21:
      return setTrials(1, 2, 1, 0.13, 0.045, 0.045);
  }
  setTrials(1, 0, 1, 0.15, 0.2, 0.07);
}

/** Codes of the scales, two to a byte. */
// @ts-ignore: decorator
@inline function putCodes(to: usize, count: usize): void {
  for (let s: usize = 0; s < count; s += 2) {
    store<u8>(to + (s >> 1), load<u8>(bestCodes + s) | (load<u8>(bestCodes + s, 1) << 4));
  }
}

/** Signs of seven of each eight values of a sub-block of 32, and the code of its scale. */
// @ts-ignore: decorator
@inline function wordOf(s: usize): i32 {
  let word = <i32>load<u8>(bestCodes + s) << 28;
  for (let l: usize = 0; l < 4; l++) word |= (load<u8>(signs + 4 * s + l) & 127) << (7 * <i32>l);
  return word;
}

function putIQ2_XXS(output: usize): void {
  for (let s: usize = 0; s < 8; s++) {
    for (let l: usize = 0; l < 4; l++) store<u8>(output + 8 * s + l, load<u16>(bestPoints + 8 * s + 2 * l), 2);
    store<u32>(output + 8 * s, wordOf(s), 6);
  }
}

function putIQ2_XS(output: usize): void {
  for (let group: usize = 0; group < 32; group++) {
    const point = <i32>load<u16>(bestPoints + 2 * group);
    store<u16>(output + 2 * group, point | (<i32>load<u8>(signs + group) << 9), 2);
  }
  putCodes(output + 66, 16);
}

function putIQ2_S(output: usize): void {
  for (let group: usize = 0; group < 32; group++) {
    const point = <i32>load<u16>(bestPoints + 2 * group);
    store<u8>(output + group, point, 2);
    store<u8>(output + group, load<u8>(signs + group), 34);
    const high = output + 66 + (group >> 2);
    store<u8>(high, load<u8>(high) | ((point >> 8) << (2 * (<i32>group & 3))));
  }
  putCodes(output + 74, 16);
}

function putIQ3_XXS(output: usize): void {
  for (let group: usize = 0; group < 64; group++) store<u8>(output + group, load<u16>(bestPoints + 2 * group), 2);
  for (let s: usize = 0; s < 8; s++) store<u32>(output + 4 * s, wordOf(s), 66);
}

function putIQ3_S(output: usize): void {
  for (let group: usize = 0; group < 64; group++) {
    const point = <i32>load<u16>(bestPoints + 2 * group);
    store<u8>(output + group, point, 2);
    const high = output + 66 + (group >> 3);
    store<u8>(high, load<u8>(high) | ((point >> 8) << (<i32>group & 7)));
  }
  memory.copy(output + 74, signs, 32);
  putCodes(output + 106, 8);
}

/** Bytes of a block. */
function bytesOf(target: i32): i32 {
  switch (target) {
    case 16:
      return 66;
    case 17:
      return 74;
    case 18:
      return 98;
    case 21:
      return 110;
  }
  return 82;
}

function searchEights(x: usize, even: bool): i32 {
  return searchBlock(x, 16, EIGHTS, even);
}

function searchLongEights(x: usize): i32 {
  return searchBlock(x, 32, EIGHTS, true);
}

function searchFours(x: usize, even: bool): i32 {
  return searchBlock(x, 32, FOURS, even);
}

/** Encodes whole blocks: see `searchBlocks`. */
export function searchLattice(target: i32, x: usize, importance: usize, output: usize, values: i32): void {
  useCandidates(target);
  setSteps(target);
  setTrialsOf(target);
  setScales(15, 22, 1.5);
  const bytes = bytesOf(target);
  for (let j = 0; j < values; j += 256) {
    readBlock(x, importance, false);
    let half: i32;
    if (target === 16) half = searchLongEights(x);
    else if (target === 18 || target === 21) half = searchFours(x, target === 18);
    else half = searchEights(x, target === 17);
    memory.fill(output, 0, bytes);
    if (half !== 0) {
      store<u16>(output, half);
      if (target === 16) putIQ2_XXS(output);
      else if (target === 17) putIQ2_XS(output);
      else if (target === 18) putIQ3_XXS(output);
      else if (target === 21) putIQ3_S(output);
      else putIQ2_S(output);
    }
    x += 1024;
    if (importance !== 0) importance += 1024;
    output += bytes;
  }
}
