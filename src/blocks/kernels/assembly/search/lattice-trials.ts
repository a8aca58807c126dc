// Trials of the sub-blocks of a block on a lattice, and the scales that follow from them.
//
// A sub-block that is placed at one scale has the error s²·B − 2·s·A at any other, beside a constant: with
// A = Σ w·x·g and B = Σ w·g². So a few trials a sub-block give a bound of its error at all scales, and with these
// the scale of the block and the codes of the sub-blocks are chosen together.

import { digitsOf, scales } from "../lattice/block";
import { leastLane } from "./lattice-block";

/** What the trials of the best scales gain. */
const gains: usize = memory.data(4 * 16, 16);
/** Trials of each sub-block, and their 2·A and B. */
const counts: usize = memory.data(4 * 16, 16);
const doubles: usize = memory.data(64 * 16, 16);
const squares: usize = memory.data(64 * 16, 16);
/** Codes of the scales for each of four scales of the block. */
export const codes: usize = memory.data(16 * 16, 16);
const lanes: usize = memory.data(32, 16);

/** Scales of the block that are tried, in terms of the largest scale of a sub-block. */
const CANDIDATES: i32 = 8;
const factors: usize = memory.data(4 * 8, 16);
/** The last code of a scale. */
let lastCode: i32 = 15;

/** Half of the least scale that is stored. */
export const LEAST_SCALE: f32 = 2.9802322387695312e-8;

/**
 * Sets the codes of scales that a type has, and as how many steps the largest scale of a sub-block is tried: eight
 * numbers from `first` on, `apart` from each other.
 */
export function setScales(last: i32, first: f32, apart: f32): void {
  lastCode = last;
  for (let i: i32 = 0; i < CANDIDATES; i++) store<f32>(factors + 4 * i, 1 / (first + <f32>i * apart));
}

/** Starts anew with a sub-block. */
// @ts-ignore: decorator
@inline export function beginTrials(s: usize): void {
  store<u32>(counts + 4 * s, 0);
  store<f32>(scales + 4 * s, 0);
  store<f32>(gains + 4 * s, 0);
}

/** Takes a placement of a sub-block as a trial. Returns what it gains. */
// @ts-ignore: decorator
@inline export function take(s: usize, product: f32, square: f32): f32 {
  const count = load<u32>(counts + 4 * s);
  const to: usize = 64 * s + 4 * <usize>count;
  store<u32>(counts + 4 * s, count + 1);
  store<f32>(doubles + to, product + product);
  store<f32>(squares + to, square);
  const own = max(product, 0) / square;
  const gain = own * product;
  if (own > 0 && gain > load<f32>(gains + 4 * s)) {
    store<f32>(gains + 4 * s, gain);
    store<f32>(scales + 4 * s, own);
  }
  return gain;
}

/**
 * The error of a block at four scales of it, each sub-block with the code that bounds its error best of the nearest
 * one and its neighbours.
 */
// @ts-ignore: decorator
@inline export function bound(scale: v128, count: usize): v128 {
  let sum = i32x4.splat(0);
  const one = i32x4.splat(1);
  const last = i32x4.splat(lastCode);
  for (let s: usize = 0; s < count; s++) {
    const ratio = f32x4.pmin(f32x4.div(v128.load32_splat(scales + 4 * s), scale), f32x4.splat(64));
    const nearest = digitsOf(ratio, lastCode);
    let least = f32x4.splat(Infinity);
    let chosen = nearest;
    const end: usize = 64 * s + 4 * <usize>load<u32>(counts + 4 * s);
    for (let side = -1; side <= 1; side++) {
      const code = i32x4.max_s(i32x4.min_s(i32x4.add(nearest, i32x4.splat(side)), last), i32x4.splat(0));
      const own = f32x4.mul(scale, f32x4.convert_i32x4_s(i32x4.add(i32x4.add(code, code), one)));
      const before = least;
      for (let at: usize = 64 * s; at < end; at += 4) {
        const error = f32x4.sub(f32x4.mul(own, v128.load32_splat(squares + at)), v128.load32_splat(doubles + at));
        least = f32x4.pmin(least, f32x4.mul(own, error));
      }
      chosen = v128.bitselect(code, chosen, f32x4.lt(least, before));
    }
    v128.store(codes + 16 * s, chosen);
    sum = f32x4.add(sum, least);
  }
  return sum;
}

/** The scale of the block with the least bound, before it is rounded to a half. 0 for a block of zeros. */
// @ts-ignore: decorator
@inline export function chooseScale(count: usize): f32 {
  let most: f32 = 0;
  for (let s: usize = 0; s < count; s++) most = max(most, load<f32>(scales + 4 * s));
  if (!(most >= LEAST_SCALE)) return 0;
  let least = f32x4.splat(Infinity);
  let best = i32x4.splat(0);
  for (let i: usize = 0; i < 4 * <usize>CANDIDATES; i += 16) {
    const scale = f32x4.mul(f32x4.splat(most), v128.load(factors + i));
    const error = bound(scale, count);
    best = v128.bitselect(scale, best, f32x4.lt(error, least));
    least = f32x4.pmin(least, error);
  }
  v128.store(lanes, best);
  const lane = ctz(i32x4.bitmask(f32x4.eq(least, leastLane(least)))) & 3;
  return load<f32>(lanes + 4 * <usize>lane);
}
