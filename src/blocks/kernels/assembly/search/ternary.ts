// The search of IQ1_S (19) and IQ1_M (29): that of all lattices, and ggml's block where that loses less.

import { encodeTernaryLattice } from "../lattice/ternary";
import { readBlock } from "./lattice-block";
import { bestCodes, bestPoints, searchBlock, setTrials, TERNARY_APART, TERNARY_TOGETHER } from "./lattice-search";
import { setScales } from "./lattice-trials";
import { lossApart, lossTogether } from "./ternary-loss";

/** What the search finds for a block. */
const found: usize = memory.data(56, 16);

/** Stores a block of IQ1_S. */
// @ts-ignore: decorator
@inline function putTogether(half: i32): void {
  store<u16>(found, half);
  for (let s: usize = 0; s < 8; s++) {
    let field = <i32>load<u8>(bestCodes + s) << 12;
    // The mark of a shift down is the same for all four.
    field |= (<i32>load<u16>(bestPoints + 8 * s) >> 11) << 15;
    for (let group: usize = 0; group < 4; group++) {
      const point = <i32>load<u16>(bestPoints + 8 * s + 2 * group);
      store<u8>(found + 4 * s + group, point, 2);
      field |= ((point >> 8) & 7) << (3 * <i32>group);
    }
    store<u16>(found + 2 * s, field, 34);
  }
}

/** Stores a block of IQ1_M. */
// @ts-ignore: decorator
@inline function putApart(half: i32): void {
  for (let s: usize = 0; s < 16; s++) {
    const first = <i32>load<u16>(bestPoints + 4 * s);
    const second = <i32>load<u16>(bestPoints + 4 * s, 2);
    store<u8>(found + 2 * s, first);
    store<u8>(found + 2 * s, second, 1);
    // Three bits of each point and the mark of its shift.
    store<u8>(found + s, (first >> 8) | ((second >> 8) << 4), 32);
  }
  for (let word: usize = 0; word < 4; word++) {
    let field = ((half >> (4 * <i32>word)) & 15) << 12;
    for (let s: usize = 0; s < 4; s++) field |= <i32>load<u8>(bestCodes + 4 * word + s) << (3 * <i32>s);
    store<u16>(found + 2 * word, field, 48);
  }
}

/** IQ1_S: see `searchBlocks`. */
function searchTogether(x: usize, weights: usize, output: usize, values: i32): void {
  for (let j = 0; j < values; j += 256) {
    readBlock(x, weights, true);
    const half = searchBlock(x, 32, TERNARY_TOGETHER, false);
    if (half === 0) memory.fill(found, 0, 50);
    else putTogether(half);
    if (!(lossTogether(x, weights, output) < lossTogether(x, weights, found))) memory.copy(output, found, 50);
    x += 1024;
    if (weights !== 0) weights += 1024;
    output += 50;
  }
}

/** IQ1_M: see `searchBlocks`. */
function searchApart(x: usize, weights: usize, output: usize, values: i32): void {
  for (let j = 0; j < values; j += 256) {
    readBlock(x, weights, true);
    const half = searchBlock(x, 16, TERNARY_APART, false);
    if (half === 0) memory.fill(found, 0, 56);
    else putApart(half);
    if (!(lossApart(x, weights, output) < lossApart(x, weights, found))) memory.copy(output, found, 56);
    x += 1024;
    if (weights !== 0) weights += 1024;
    output += 56;
  }
}

/** IQ1_S (19) and IQ1_M (29): see `searchBlocks`. */
export function searchTernary(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  encodeTernaryLattice(target, x, weights, output, values);
  setScales(7, 10, 1);
  setTrials(1, 2, 1, 0.18, 1, 0.1);
  if (target === 19) searchTogether(x, weights, output, values);
  else searchApart(x, weights, output, values);
}
