// What the searches on a lattice read of a block of 256 values.

// Weights, products and sizes are what their names say here too, but sizes and products have the signs of the values
// where points have signs; shares are the weights in units of 2^-8 of the largest of their group.
import { products, roots as shares, signs, sizes, weights } from "../lattice/block";

/** What all weights have at least, of the largest of the block: values that do not matter still get their places. */
const LEAST_WEIGHT: f32 = 9.313225746154785e-10;

/** First guesses of the scales of the sub-blocks. */
export const guesses: usize = memory.data(4 * 16, 16);

// @ts-ignore: decorator
@inline export function leastLane(v: v128): v128 {
  const pairs = f32x4.pmin(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.pmin(pairs, v128.shuffle<i32>(pairs, pairs, 1, 0, 3, 2));
}

/**
 * Reads weights, brought to a largest between 1 and 2, and products and signs of a block.
 *
 * @param signed whether points have signs
 */
// @ts-ignore: decorator
@inline export function readBlock(x: usize, importance: usize, signed: bool): void {
  let scale = f32x4.splat(1);
  if (importance !== 0) {
    let most = v128.load(importance);
    for (let j: usize = 16; j < 1024; j += 16) most = i32x4.max_s(most, v128.load(importance + j));
    most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 2, 3, 0, 1));
    most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
    const exponent = i32x4.min_s(i32x4.max_s(i32x4.shr_u(most, 23), i32x4.splat(1)), i32x4.splat(253));
    scale = i32x4.shl(i32x4.sub(i32x4.splat(254), exponent), 23);
  }
  const zero = i32x4.splat(0);
  const least = f32x4.splat(LEAST_WEIGHT);
  for (let group: usize = 0; group < 32; group++) {
    let code = 0;
    for (let j: usize = 32 * group; j < 32 * group + 32; j += 16) {
      const value = v128.load(x + j);
      let weight = f32x4.splat(1);
      if (importance !== 0) weight = f32x4.pmax(least, f32x4.mul(v128.load(importance + j), scale));
      v128.store(weights + j, weight);
      const size = signed ? value : f32x4.abs(value);
      v128.store(sizes + j, size);
      v128.store(products + j, f32x4.mul(weight, size));
      code |= i32x4.bitmask(f32x4.lt(value, zero)) << (<i32>(j & 16) >> 2);
    }
    store<u8>(signs + group, code);
  }
}

/** What is lost by the wrong signs of four values: see `lossOfSign` in `src/blocks/search/lattice-block.ts`. */
// @ts-ignore: decorator
@inline function lossesOfSigns(at: usize, step: v128): v128 {
  const size = v128.load(sizes + at);
  const wrong = f32x4.add(size, step);
  const right = f32x4.pmax(i32x4.splat(0), f32x4.sub(step, size));
  const more = f32x4.sub(f32x4.mul(wrong, wrong), f32x4.mul(right, right));
  return f32x4.mul(v128.load(weights + at), more);
}

/**
 * Turns the sign around that matters least of each eight with an odd number of minus signs, given a step of their
 * sub-block.
 *
 * @param size values of a sub-block
 */
// @ts-ignore: decorator
@inline export function evenOut(size: usize): void {
  for (let group: usize = 0; group < 32; group++) {
    const step = v128.load32_splat(guesses + 4 * ((8 * group) / size));
    const code = load<u8>(signs + group);
    const odd = popcnt(<u32>code) & 1;
    const a = lossesOfSigns(32 * group, step);
    const b = lossesOfSigns(32 * group + 16, step);
    const least = leastLane(f32x4.pmin(a, b));
    const k = ctz(i32x4.bitmask(f32x4.eq(a, least)) | (i32x4.bitmask(f32x4.eq(b, least)) << 4)) & 7;
    store<u8>(signs + group, code ^ (odd << k));
    const at: usize = 32 * group + 4 * <usize>k;
    store<u32>(products + at, load<u32>(products + at) ^ (odd << 31));
    store<u32>(sizes + at, load<u32>(sizes + at) ^ (odd << 31));
  }
}

/** Weights in units of 2^-8 of the largest of their group. */
// @ts-ignore: decorator
@inline export function share(eight: bool): void {
  for (let j: usize = 0; j < 1024; j += eight ? 32 : 16) {
    const a = v128.load(weights + j);
    const b = eight ? v128.load(weights + j, 16) : a;
    const most = f32x4.neg(leastLane(f32x4.pmin(f32x4.neg(a), f32x4.neg(b))));
    const factor = f32x4.div(f32x4.splat(256), most);
    v128.store(shares + j, f32x4.mul(a, factor));
    if (eight) v128.store(shares + j, f32x4.mul(b, factor), 16);
  }
}
