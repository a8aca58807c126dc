// Entry points of the kernels. Types are numbered as in GGUF files; see `table.ts`.

import { multiplyRows } from "./factors";
import { latticeTableBytes, makeLatticeTables } from "./lattice/index";
import { makeTernaryTables, ternaryTableBytes } from "./lattice/ternary";
import { nbitsRows } from "./nbits/rows";
import { check, plain } from "./plain";
import { clearProblem } from "./problem";
import { q4_0 } from "./q4_0";
import { q6_k } from "./q6_k";
import { q8_0 } from "./q8_0";
import { rows } from "./rows";

export { checksum } from "./checksum";
export {
  feedbackBegin,
  feedbackEnd,
  feedbackLanes,
  feedbackPrepare,
  feedbackRound,
  feedbackSearch,
  feedbackSearchNBits,
  feedbackSettings,
  feedbackTables,
  feedbackTake,
} from "./feedback/index";
export { problem } from "./problem";

/** First byte that is free for the input and output of conversions. */
export function base(): usize {
  return __heap_base;
}

/**
 * Bytes of the tables that a target needs; 0 for most. Types that share a grid share no tables: who writes two
 * of them in one run is rare.
 */
export function tableBytes(target: i32): i32 {
  if (target === 19 || target === 29) return ternaryTableBytes();
  return latticeTableBytes(target);
}

/**
 * Makes a target's tables. Their first bytes hold the points of its grid as `grid` in `decode/grids.ts` gives
 * them, and `tableBytes` bytes are free there, aligned to 64.
 */
export function makeTables(target: i32, at: usize): void {
  if (target === 19 || target === 29) makeTernaryTables(at);
  else makeLatticeTables(target, at);
}

/** Reads bfloat16 (u16), half (i16) or float32 (f32): see `number.ts`. */
function from<S>(
  target: i32,
  input: usize,
  output: usize,
  values: i32,
  weights: usize,
  row: i32,
  blockValues: i32,
  blockBytes: i32,
  search: bool,
): i32 {
  if (search) return rows<S>(target, input, output, values, weights, row, blockValues, blockBytes, true);
  switch (target) {
    case 0:
      return isFloat<S>() ? check<S>(input, values) : plain<S, f32>(input, output, values);
    case 1:
      return !isFloat<S>() && isSigned<S>() ? check<S>(input, values) : plain<S, i16>(input, output, values);
    case 30:
      return !isFloat<S>() && !isSigned<S>() ? check<S>(input, values) : plain<S, u16>(input, output, values);
    case 8:
      return q8_0<S>(input, output, values);
    case 2:
      if (weights === 0) return q4_0<S>(input, output, values);
      break;
    case 14:
      if (weights === 0) return q6_k<S>(input, output, values);
      break;
  }
  return rows<S>(target, input, output, values, weights, row, blockValues, blockBytes, false);
}

/**
 * Converts `values` values, whole blocks of the target. Equal types are only checked: nothing is written.
 *
 * @param weights float32 importance of each column of a row, or 0 for none
 * @param row values in a row; `values` is whole rows when there are weights
 * @param blockValues values in a block of the target
 * @param blockBytes bytes of a block of the target
 * @param search whether to search (see `searchBlocks`) in place of ggml's method
 * @returns index of the value that stopped it (see `problem`), or -1
 */
export function convert(
  source: i32,
  target: i32,
  input: usize,
  output: usize,
  values: i32,
  weights: usize,
  row: i32,
  blockValues: i32,
  blockBytes: i32,
  search: bool,
): i32 {
  clearProblem();
  switch (source) {
    case 0:
      return from<f32>(target, input, output, values, weights, row, blockValues, blockBytes, search);
    case 1:
      return from<i16>(target, input, output, values, weights, row, blockValues, blockBytes, search);
    case 30:
      return from<u16>(target, input, output, values, weights, row, blockValues, blockBytes, search);
  }
  return unreachable();
}

/**
 * Converts rows to codes of a few bits with a scale, and maybe a zero point, for each block.
 *
 * @param bits 2, 4 or 8
 * @param block values in a block: 16, 32, 64, 128 or 256
 * @param searched whether to search in place of rounding to the nearest
 * @param row values in a row
 * @param weights float32 importance of each column of a row, or 0 for none
 * @returns index of the value that stopped it (see `problem`), or -1
 */
export function convertNBits(
  source: i32,
  bits: i32,
  block: i32,
  zeroPoints: bool,
  searched: bool,
  input: usize,
  rows: i32,
  row: i32,
  weights: usize,
  codes: usize,
  scales: usize,
  zeros: usize,
): i32 {
  clearProblem();
  switch (source) {
    case 0:
      return nbitsRows<f32>(bits, block, zeroPoints, searched, input, rows, row, weights, codes, scales, zeros);
    case 1:
      return nbitsRows<i16>(bits, block, zeroPoints, searched, input, rows, row, weights, codes, scales, zeros);
    case 30:
      return nbitsRows<u16>(bits, block, zeroPoints, searched, input, rows, row, weights, codes, scales, zeros);
  }
  return unreachable();
}

/**
 * Puts float32 values in the place of the input's, each times the factors of its column and its row.
 *
 * @param columns float32 factor of each column of a row, or 0 for none
 * @param scales float32 factor of each row, or 0 for none
 * @returns index of the first value that was not finite (see `problem`), or -1
 */
export function multiply(
  source: i32,
  input: usize,
  rows: i32,
  row: i32,
  columns: usize,
  scales: usize,
): i32 {
  clearProblem();
  switch (source) {
    case 0:
      return multiplyRows<f32>(input, rows, row, columns, scales);
    case 1:
      return multiplyRows<i16>(input, rows, row, columns, scales);
    case 30:
      return multiplyRows<u16>(input, rows, row, columns, scales);
  }
  return unreachable();
}
