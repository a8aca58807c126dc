// IQ4_NL and IQ4_XS: a scale for every 32 values on the 16 uneven levels, which IQ4_XS keeps in steps of one half
// for 256 values.

import { codes as codesOfXS, pack, packXS, scalesOfNL, stepOfXS } from "../codebook/index";
import { floatOf, halfOf, halves } from "../half";
import { widenHalves } from "../number";
import { FITS, SIZE, tryGroup, VECTORS } from "./codebook-trials";
import { block, PRODUCTS, turnBlock, WEIGHTS } from "./symmetric-block";
import { beginRefining, compare, inversesOf, levelsOf, refine, refined } from "./symmetric-refine";
import { chooseStep, codes, FIT, fits, halfSteps, lossOf } from "./symmetric-steps";

const XS_BYTES: usize = 136;
const NL_BYTES: usize = 18;

/** Times that the scale of a block of IQ4_NL is fitted to the levels nearest to its values. */
const FITTINGS = 3;

/** IQ4_XS: see `searchBlocks`. */
export function searchIQ4_XS(x: usize, weights: usize, output: usize, values: i32): void {
  for (let i = 0; i < values; i += 256) {
    const theirs = halfOf(stepOfXS(x, weights, i));
    turnBlock(x, weights, SIZE, 2, false);
    tryGroup(0);
    tryGroup(1);
    const start = chooseStep(2, FITS, 32, 0.953125, 0.015625, 24);
    if (start === 0) {
      memory.fill(output, 0, XS_BYTES);
    } else {
      beginRefining();
      refine(start, SIZE, 2, 32, 0, 2);
      for (let s: usize = 0; s < 8; s++) store<f32>(codes + 4 * s, <f32>load<i8>(codesOfXS + s));
      compare(theirs, SIZE, 2, 0);
      const half = refined();
      for (let s: usize = 0; s < 8; s++) store<i8>(codesOfXS + s, <i32>load<f32>(codes + 4 * s));
      packXS(x, floatOf(half), half, output);
    }
    x += 1024;
    if (weights !== 0) weights += 1024;
    output += XS_BYTES;
  }
}

/** The scales of the fits that lose least with a half, one for each lane. */
// @ts-ignore: decorator
@inline function bestScales(): v128 {
  let least = f32x4.splat(f32.POSITIVE_INFINITY);
  let chosen = i32x4.splat(0);
  for (let at = fits; at < fits + FIT * FITS; at += FIT) {
    const fitted = v128.load(at);
    const scale = widenHalves(halfSteps(fitted));
    const loss = lossOf(fitted, v128.load(at, 16), v128.load(at, 32), scale);
    chosen = v128.bitselect(scale, chosen, f32x4.lt(loss, least));
    least = f32x4.pmin(least, loss);
  }
  return chosen;
}

/** Sums over four blocks whose values are stored with scales, lanes by block; see `measure`. */
let error: v128 = i32x4.splat(0);
let product: v128 = i32x4.splat(0);
let square: v128 = i32x4.splat(0);

/** Takes the error and what the best scales for the levels nearest to the values follow from. */
// @ts-ignore: decorator
@inline function measure(scale: v128): void {
  const inverse = inversesOf(scale);
  let sumError = i32x4.splat(0);
  let sumProduct = i32x4.splat(0);
  let sumSquare = i32x4.splat(0);
  for (let at = block; at < block + VECTORS; at += 16) {
    const x = v128.load(at);
    const weight = v128.load(at, WEIGHTS);
    const level = levelsOf(f32x4.mul(x, inverse), 0);
    const off = f32x4.sub(x, f32x4.mul(scale, level));
    const weighted = f32x4.mul(weight, level);
    sumError = f32x4.add(sumError, f32x4.mul(f32x4.mul(weight, off), off));
    sumProduct = f32x4.add(sumProduct, f32x4.mul(weighted, x));
    sumSquare = f32x4.add(sumSquare, f32x4.mul(weighted, level));
  }
  error = sumError;
  product = sumProduct;
  square = sumSquare;
}

/** The scales of four blocks, each of which is a lane, given those that ggml's method finds. */
// @ts-ignore: decorator
@inline function searchScales(theirs: v128): v128 {
  const half = halves(theirs);
  // An infinite scale is none: zero stands for it.
  const finite = i32x4.ne(v128.and(half, i32x4.splat(0x7fff)), i32x4.splat(0x7c00));
  let chosen = widenHalves(v128.and(half, finite));
  measure(chosen);
  let best = error;
  let scale = bestScales();
  for (let fitting = 0; fitting < FITTINGS; fitting++) {
    measure(scale);
    chosen = v128.bitselect(scale, chosen, f32x4.lt(error, best));
    best = f32x4.pmin(best, error);
    const fitted = widenHalves(halfSteps(f32x4.div(product, square)));
    scale = v128.bitselect(fitted, scale, f32x4.gt(square, i32x4.splat(0)));
  }
  return chosen;
}

/** Scales that were found, and their halves. */
const found: usize = memory.data(2 * 16, 16);
/** Importance of the last blocks of IQ4_NL. */
const rest: usize = memory.data(4 * 128, 16);

/**
 * IQ4_NL: see `searchBlocks`. Lanes are blocks; where fewer than four are left, the other lanes hold what does not
 * matter.
 */
export function searchIQ4_NL(x: usize, weights: usize, output: usize, values: i32): void {
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
    turnBlock(x, own, SIZE, 1, true);
    tryGroup(0);
    const scales = searchScales(scalesOfNL(x, own));
    v128.store(found, scales);
    v128.store(found, halves(scales), 16);
    for (let b: usize = 0; b < blocks; b++) {
      store<u16>(output, load<i32>(found + 4 * b, 16));
      pack(x, load<f32>(found + 4 * b), output + 2);
      x += 128;
      output += NL_BYTES;
    }
  }
}
