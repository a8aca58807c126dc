// The step in which a block keeps the scales of its sub-blocks, chosen by what levels already tried would lose.
//
// A fit says what levels of a sub-block come to: the error is least at its scale, in excess of the best fit by a
// constant, and grows with the square of the distance from that scale. Lanes are steps, so that sums over
// sub-blocks keep their order.

import { extremeOf16 } from "../extreme";
import { halves } from "../half";
import { widenHalves } from "../number";
import { shares } from "./symmetric-block";

/** Most fits of a sub-block. */
const MOST: usize = 8;

/** Scale, square and excess of the fits of each group, lanes by sub-block. */
export const fits: usize = memory.data(4 * 8 * 48, 16);
export const FIT: usize = 48;
export const GROUP: usize = MOST * FIT;

/** The codes of the scales, as float32. */
export const codes: usize = memory.data(4 * 16, 16);

/** Scales of the best fits of the sub-blocks that matter. */
const scales: usize = memory.data(4 * 16, 16);

/** The part of a gain that is no rounding: fits that do not differ by more count as equal. */
const CERTAIN: f32 = 1 - 1.0 / 1048576;

const INFINITY: f32 = f32.POSITIVE_INFINITY;

/** Forgets the fits of a group. */
// @ts-ignore: decorator
@inline export function clearFits(g: usize): void {
  memory.fill(fits + GROUP * g, 0, GROUP);
}

// @ts-ignore: decorator
@inline function scaleOf(product: v128, square: v128): v128 {
  return v128.and(f32x4.div(product, square), f32x4.gt(square, i32x4.splat(0)));
}

/**
 * Takes the best of four trials over as a fit where its levels gain more, with their best scale, than those before.
 * Of equal ones the first is better.
 *
 * @param productA Σ weight · value · level of the first
 * @param squareA Σ weight · level² of the first
 * @param mirrored whether the levels stand for their negatives
 */
// @ts-ignore: decorator
@inline export function offer(
  fit: usize,
  productA: v128,
  squareA: v128,
  productB: v128,
  squareB: v128,
  productC: v128,
  squareC: v128,
  productD: v128,
  squareD: v128,
  mirrored: bool,
): void {
  const scaleA = scaleOf(productA, squareA);
  const scaleB = scaleOf(productB, squareB);
  const scaleC = scaleOf(productC, squareC);
  const scaleD = scaleOf(productD, squareD);
  const gainA = f32x4.mul(scaleA, productA);
  const gainB = f32x4.mul(scaleB, productB);
  const gainC = f32x4.mul(scaleC, productC);
  const gainD = f32x4.mul(scaleD, productD);
  const second = f32x4.gt(gainB, gainA);
  const fourth = f32x4.gt(gainD, gainC);
  const gainAB = v128.bitselect(gainB, gainA, second);
  const gainCD = v128.bitselect(gainD, gainC, fourth);
  const later = f32x4.gt(gainCD, gainAB);
  const gain = v128.bitselect(gainCD, gainAB, later);
  const scaleAB = v128.bitselect(scaleB, scaleA, second);
  const scale = v128.bitselect(v128.bitselect(scaleD, scaleC, fourth), scaleAB, later);
  const squareAB = v128.bitselect(squareB, squareA, second);
  const square = v128.bitselect(v128.bitselect(squareD, squareC, fourth), squareAB, later);
  const best = v128.load(fit, 32);
  const more = f32x4.gt(gain, best);
  v128.store(fit, v128.bitselect(mirrored ? f32x4.neg(scale) : scale, v128.load(fit), more));
  v128.store(fit, v128.bitselect(square, v128.load(fit, 16), more), 16);
  v128.store(fit, v128.bitselect(gain, best, more), 32);
}

/** Turns the gains of a group's fits, which are where their excess belongs, into that; notes the best scales. */
// @ts-ignore: decorator
@inline export function settleFits(g: usize, count: usize): void {
  const from = fits + GROUP * g;
  let best = i32x4.splat(0);
  for (let at = from; at < from + FIT * count; at += FIT) best = f32x4.pmax(best, v128.load(at, 32));
  best = f32x4.mul(best, f32x4.splat(CERTAIN));
  let scale = i32x4.splat(0);
  // The first is the last that is taken.
  for (let at = from + FIT * (count - 1); at >= from; at -= FIT) {
    const excess = f32x4.pmax(i32x4.splat(0), f32x4.sub(best, v128.load(at, 32)));
    v128.store(at, excess, 32);
    scale = v128.bitselect(v128.load(at), scale, f32x4.eq(excess, i32x4.splat(0)));
  }
  const matter = f32x4.gt(v128.load(shares + 16 * g), i32x4.splat(0));
  v128.store(scales + 16 * g, v128.and(scale, matter));
}

/** Halves nearest to four steps, zero-extended; the least ones in place of zero. */
// @ts-ignore: decorator
@inline export function halfSteps(steps: v128): v128 {
  const found = halves(steps);
  const none = i32x4.eq(v128.and(found, i32x4.splat(0x7fff)), i32x4.splat(0));
  return v128.or(found, v128.and(none, i32x4.splat(1)));
}

/** The half nearest to a step, or the least one in place of zero. */
// @ts-ignore: decorator
@inline export function halfStep(step: f32): i32 {
  return i32x4.extract_lane(halfSteps(f32x4.splat(step)), 0);
}

/** The codes that bring multiples of steps nearest to scales. */
// @ts-ignore: decorator
@inline function codesOf(scale: v128, inverse: v128, bound: f32): v128 {
  const code = f32x4.nearest(f32x4.mul(scale, inverse));
  return f32x4.pmax(f32x4.pmin(code, f32x4.splat(bound - 1)), f32x4.splat(-bound));
}

/** How much more fits lose with other scales. */
// @ts-ignore: decorator
@inline export function lossOf(scale: v128, square: v128, excess: v128, other: v128): v128 {
  const off = f32x4.sub(scale, other);
  return f32x4.add(excess, f32x4.mul(f32x4.mul(square, off), off));
}

/** What four steps lose when every sub-block takes the fit and the code that lose least with it. */
// @ts-ignore: decorator
@inline function lossesOf(step: v128, groups: usize, count: usize, bound: f32): v128 {
  const inverse = f32x4.div(f32x4.splat(1), step);
  let loss = i32x4.splat(0);
  for (let s: usize = 0; s < 4 * groups; s++) {
    const from = fits + GROUP * (s >> 2) + 4 * (s & 3);
    let least = f32x4.splat(INFINITY);
    for (let at = from; at < from + FIT * count; at += FIT) {
      const scale = v128.load32_splat(at);
      const code = codesOf(scale, inverse, bound);
      const lost = lossOf(scale, v128.load32_splat(at, 16), v128.load32_splat(at, 32), f32x4.mul(step, code));
      least = f32x4.pmin(least, lost);
    }
    loss = f32x4.add(loss, f32x4.mul(v128.load32_splat(shares + 4 * s), least));
  }
  return loss;
}

/** What `fittedTo` found the steps to lose. */
let losses: v128 = i32x4.splat(0);

/** The steps that would be best for the fits and codes that four steps lead to. */
// @ts-ignore: decorator
@inline function fittedTo(step: v128, groups: usize, count: usize, bound: f32): v128 {
  const inverse = f32x4.div(f32x4.splat(1), step);
  let loss = i32x4.splat(0);
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  for (let s: usize = 0; s < 4 * groups; s++) {
    const from = fits + GROUP * (s >> 2) + 4 * (s & 3);
    let least = f32x4.splat(INFINITY);
    let ownProduct = i32x4.splat(0);
    let ownSquare = i32x4.splat(0);
    for (let at = from; at < from + FIT * count; at += FIT) {
      const scale = v128.load32_splat(at);
      const stiffness = v128.load32_splat(at, 16);
      const code = codesOf(scale, inverse, bound);
      const lost = lossOf(scale, stiffness, v128.load32_splat(at, 32), f32x4.mul(step, code));
      const less = f32x4.lt(lost, least);
      const weight = f32x4.mul(code, stiffness);
      ownProduct = v128.bitselect(f32x4.mul(weight, scale), ownProduct, less);
      ownSquare = v128.bitselect(f32x4.mul(weight, code), ownSquare, less);
      least = f32x4.pmin(least, lost);
    }
    const share = v128.load32_splat(shares + 4 * s);
    loss = f32x4.add(loss, f32x4.mul(share, least));
    product = f32x4.add(product, f32x4.mul(share, ownProduct));
    square = f32x4.add(square, f32x4.mul(share, ownSquare));
  }
  losses = loss;
  return v128.bitselect(f32x4.div(product, square), step, f32x4.gt(square, i32x4.splat(0)));
}

/** Stores the codes for a step. */
// @ts-ignore: decorator
@inline function setCodes(step: v128, groups: usize, count: usize, bound: f32): void {
  const inverse = f32x4.div(f32x4.splat(1), step);
  for (let g: usize = 0; g < groups; g++) {
    const from = fits + GROUP * g;
    let least = f32x4.splat(INFINITY);
    let chosen = i32x4.splat(0);
    for (let at = from; at < from + FIT * count; at += FIT) {
      const scale = v128.load(at);
      const code = codesOf(scale, inverse, bound);
      const lost = lossOf(scale, v128.load(at, 16), v128.load(at, 32), f32x4.mul(step, code));
      chosen = v128.bitselect(code, chosen, f32x4.lt(lost, least));
      least = f32x4.pmin(least, lost);
    }
    v128.store(codes + 16 * g, chosen);
  }
}

/** Steps of the four lanes, what they lose, and the halves that they are. */
const lanes: usize = memory.data(4 * 12, 16);

/** The lane that loses least. */
// @ts-ignore: decorator
@inline function bestLane(): usize {
  let best: usize = 0;
  for (let lane: usize = 1; lane < 4; lane++) {
    if (load<f32>(lanes + 4 * lane, 16) < load<f32>(lanes + 4 * best, 16)) best = lane;
  }
  return best;
}

/**
 * The step (as a half) with which the fits of all sub-blocks together lose least; their codes go to `codes`.
 *
 * @param groups four sub-blocks each
 * @param count fits of a sub-block
 * @param bound codes are -bound…bound - 1
 * @param first the steps that are tried are the one that makes the largest scale -bound, times `first`,
 *   `first` + `spacing` …
 * @param steps how many are tried; a multiple of 4
 * @returns 0 where nothing is gained by any scale
 */
// @ts-ignore: decorator
@inline export function chooseStep(
  groups: usize,
  count: usize,
  bound: f32,
  first: f32,
  spacing: f32,
  steps: i32,
): i32 {
  for (let g = groups; g < 4; g++) v128.store(scales + 16 * g, i32x4.splat(0));
  const start = extremeOf16(scales) / -bound;
  if (start === 0) return 0;
  let least = f32x4.splat(INFINITY);
  let step = i32x4.splat(0);
  let turn = f32x4(0, 1, 2, 3);
  for (let i = 0; i < steps; i += 4) {
    const factor = f32x4.add(f32x4.splat(first), f32x4.mul(f32x4.splat(spacing), turn));
    const tried = widenHalves(halfSteps(f32x4.mul(f32x4.splat(start), factor)));
    const loss = lossesOf(tried, groups, count, bound);
    step = v128.bitselect(tried, step, f32x4.lt(loss, least));
    least = f32x4.pmin(least, loss);
    turn = f32x4.add(turn, f32x4.splat(4));
  }
  let fitted = fittedTo(step, groups, count, bound);
  for (let fitting = 0; fitting < 2; fitting++) {
    const tried = widenHalves(halfSteps(fitted));
    fitted = fittedTo(tried, groups, count, bound);
    step = v128.bitselect(tried, step, f32x4.lt(losses, least));
    least = f32x4.pmin(least, losses);
  }
  v128.store(lanes, step);
  v128.store(lanes, least, 16);
  v128.store(lanes, halves(step), 32);
  const lane = bestLane();
  setCodes(v128.load32_splat(lanes + 4 * lane), groups, count, bound);
  return load<i32>(lanes + 4 * lane, 32);
}
