// IQ4_NL and IQ4_XS: 32 values on uneven levels with a searched scale, which IQ4_XS keeps in 6-bit steps of one
// half for 256 values.

import { extremeOf16 } from "../extreme";
import { halfOf } from "../half";
import { nearestInteger } from "../rounding";
import { squareSums } from "../turn";
import { indices } from "./levels";
import { searchFour } from "./search";

const IQ4_NL: i32 = 20;

/** Scales of four or eight sub-blocks; the others stay zero. */
const scales: usize = memory.data(4 * 16, 16);
/** Twice the mean squares: of four blocks, and of each sub-block that is searched. */
const spreads: usize = memory.data(4 * 4, 16);
const ownSpreads: usize = memory.data(4 * 4, 16);
/** Importance of the last blocks of IQ4_NL. */
const rest: usize = memory.data(4 * 128, 16);

/** Packs the indices of 32 values for a scale: value j with value j + 16. */
// @ts-ignore: decorator
@inline export function pack(x: usize, scale: f32, output: usize): void {
  const inverse = f32x4.splat(scale == 0 ? 0 : 1 / scale);
  for (let j: usize = 0; j < 16; j += 4) {
    store<u32>(output + j, indices(x + 4 * j, inverse) | (indices(x + 4 * j + 64, inverse) << 4));
  }
}

/** The scales of four blocks of IQ4_NL. */
// @ts-ignore: decorator
@inline export function scalesOfNL(x: usize, weights: usize): v128 {
  if (weights !== 0) v128.store(spreads, f32x4.mul(squareSums(x, 128, 32), f32x4.splat(2.0 / 32)));
  searchFour(x, weights, spreads, scales);
  return v128.load(scales);
}

/** Lanes are blocks; where fewer than four are left, the other lanes hold what does not matter. */
function iq4_nl(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 128) {
    const blocks = <usize>min(4, (values - i) >> 5);
    let own = weights;
    if (weights !== 0) {
      weights += 4 * 128;
      if (blocks < 4) {
        memory.copy(rest, own, 128 * blocks);
        own = rest;
      }
    }
    scalesOfNL(x, own);
    for (let b: usize = 0; b < blocks; b++) {
      const scale = load<f32>(scales + 4 * b);
      store<u16>(output, halfOf(scale));
      pack(x, scale, output + 2);
      x += 128;
      output += 18;
    }
  }
}

/** The codes of the scales of a block of IQ4_XS, -32…31, as bytes. */
export const codes: usize = memory.data(8, 16);

/** Writes a block of IQ4_XS with the scales that `codes` make of a step. */
// @ts-ignore: decorator
@inline export function packXS(x: usize, step: f32, half: i32, output: usize): void {
  store<u16>(output, half);
  let low: u32 = 0;
  let high: u32 = 0;
  for (let s: u32 = 0; s < 8; s++) {
    const code = <i32>load<i8>(codes + s);
    pack(x + 128 * s, step * <f32>code, output + 8 + 16 * s);
    const stored = <u32>(code + 32);
    low |= (stored & 15) << (4 * s);
    high |= (stored >> 4) << (2 * s);
  }
  store<u16>(output, high, 2);
  store<u32>(output, low, 4);
}

/**
 * Searches the scales of a block of IQ4_XS, whose codes go to `codes`; returns the step. Lanes are sub-blocks.
 *
 * @param i where the block stands among the values; every block from 0 on has its turn, since what smooths the
 *   weights is made for four at a time
 */
// @ts-ignore: decorator
@inline export function stepOfXS(x: usize, weights: usize, i: i32): f32 {
  if (weights !== 0) {
    if ((i & 1023) === 0) {
      v128.store(spreads, f32x4.mul(squareSums(x, 1024, 256), f32x4.splat(2.0 / 256)));
    }
    v128.store(ownSpreads, v128.load32_splat(spreads + 4 * <usize>((i >> 8) & 3)));
  }
  searchFour(x, weights, ownSpreads, scales);
  searchFour(x + 512, weights === 0 ? 0 : weights + 512, ownSpreads, scales + 16);
  const step: f32 = -extremeOf16(scales) / 32;
  const inverse: f32 = step == 0 ? 0 : 1 / step;
  for (let s: usize = 0; s < 8; s++) {
    store<i8>(codes + s, max(-32, min(31, nearestInteger(inverse * load<f32>(scales + 4 * s)))));
  }
  return step;
}

function iq4_xs(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 256) {
    const step = stepOfXS(x, weights, i);
    // The step itself, not its half: ggml assigns the levels before it rounds.
    packXS(x, step, halfOf(step), output);
    x += 1024;
    if (weights !== 0) weights += 1024;
    output += 136;
  }
}

/** Encodes IQ4_NL (20) and IQ4_XS (23): see `encodeBlocks`. */
export function encodeCodebook(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  if (target === IQ4_NL) iq4_nl(x, weights, output, values);
  else iq4_xs(x, weights, output, values);
}
