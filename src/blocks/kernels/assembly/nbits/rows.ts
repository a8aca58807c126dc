// Rows of a matrix as MatMulNBits and GatherBlockQuantized read them: see `src/blocks/nbits/types.ts`.

import { firstFrom, float, infinity, magnitude } from "../number";
import { NON_FINITE, OVERFLOW, stop } from "../problem";
import { CHUNK, chunk, LIMIT, widen } from "../rows";
import { encodeBlocks } from "./blocks";
import { packPoints } from "./pack";

/** Importance of the values in `chunk`. */
const chunkWeights: usize = memory.data(4 * 4096, 16);
/** Zero points of the blocks in `chunk`, a byte each: as many as the shortest blocks are. */
const points: usize = memory.data(256);

/** Index of a bad value among some that lie at `input`, or −1; their float32 values and zeros go to `to`. */
function widenPadded<S>(input: usize, count: i32, padded: i32, to: usize): i32 {
  const whole = count & ~7;
  let bad = widen<S>(input, whole, to) >= LIMIT;
  for (let i = whole; i < count; i++) {
    const at = input + <usize>i * sizeof<S>();
    store<f32>(to + 4 * <usize>i, float<S>(at));
    bad = bad || magnitude<f32>(to + 4 * <usize>i) >= LIMIT;
  }
  memory.fill(to + 4 * <usize>count, 0, 4 * <usize>(padded - count));
  return bad ? firstFrom<f32>(to, count, LIMIT) : -1;
}

/** The importance of `count` columns and zeros, at `to`. */
function padWeights(weights: usize, count: i32, padded: i32, to: usize): void {
  memory.copy(to, weights, 4 * <usize>count);
  memory.fill(to + 4 * <usize>count, 0, 4 * <usize>(padded - count));
}

function blame<S>(input: usize, index: i32, before: i32): i32 {
  const finite = magnitude<S>(input + <usize>index * sizeof<S>()) < infinity<S>();
  return stop(finite ? OVERFLOW : NON_FINITE, before + index);
}

/** Converts rows of which several fit into a chunk. See `convertNBits`. */
function shortRows<S>(
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
  const blocks = (row + block - 1) / block;
  const padded = blocks * block;
  const most = CHUNK / padded;
  const zeroBytes = <usize>((blocks * bits + 7) / 8);
  if (weights !== 0) {
    for (let r = 0; r < min(most, rows); r++) {
      padWeights(weights, row, padded, chunkWeights + 4 * <usize>(r * padded));
    }
  }
  const own = weights === 0 ? <usize>0 : chunkWeights;
  for (let first = 0; first < rows; first += most) {
    const group = min(most, rows - first);
    for (let r = 0; r < group; r++) {
      const bad = widenPadded<S>(input, row, padded, chunk + 4 * <usize>(r * padded));
      if (bad >= 0) return blame<S>(input, bad, (first + r) * row);
      input += <usize>row * sizeof<S>();
    }
    encodeBlocks(bits, block, zeroPoints, searched, chunk, own, group * blocks, codes, scales, points);
    codes += <usize>((group * padded * bits) / 8);
    scales += 2 * <usize>(group * blocks);
    if (!zeroPoints) continue;
    for (let r = 0; r < group; r++) {
      packPoints(bits, points + <usize>(r * blocks), blocks, zeros);
      zeros += zeroBytes;
    }
  }
  return -1;
}

/** Converts rows that are longer than a chunk. A chunk holds whole blocks, and whole bytes of zero points. */
function longRows<S>(
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
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < row; i += CHUNK) {
      const count = min(CHUNK, row - i);
      const blocks = (count + block - 1) / block;
      const bad = widenPadded<S>(input, count, blocks * block, chunk);
      if (bad >= 0) return blame<S>(input, bad, r * row + i);
      let own: usize = 0;
      if (weights !== 0) {
        padWeights(weights + 4 * <usize>i, count, blocks * block, chunkWeights);
        own = chunkWeights;
      }
      encodeBlocks(bits, block, zeroPoints, searched, chunk, own, blocks, codes, scales, points);
      input += <usize>count * sizeof<S>();
      codes += <usize>((blocks * block * bits) / 8);
      scales += 2 * <usize>blocks;
      if (!zeroPoints) continue;
      packPoints(bits, points, blocks, zeros);
      zeros += <usize>((blocks * bits + 7) / 8);
    }
  }
  return -1;
}

/** See `convertNBits`. */
// @ts-ignore: decorator
@inline export function nbitsRows<S>(
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
  return row <= CHUNK
    ? shortRows<S>(bits, block, zeroPoints, searched, input, rows, row, weights, codes, scales, zeros)
    : longRows<S>(bits, block, zeroPoints, searched, input, rows, row, weights, codes, scales, zeros);
}
