// The search of IQ2_XXS (16), IQ2_XS (17), IQ3_XXS (18), IQ3_S (21) and IQ2_S (22).
//
// A sub-block that is placed at one scale has the error s²·B − 2·s·A at any other, beside a constant: with
// A = Σ w·|x|·g and B = Σ w·g². So a few trials a sub-block give a bound of its error at all scales, and with these
// the scale of the block and the codes of the sub-blocks are chosen together, before all groups are placed again at
// the scales that will be stored. What that gives joins the trials, the scale of the block is fitted anew, and so on.

import { halfOf, floatOf } from "../half";
// Weights, products and sizes are what their names say here too; shares are the weights in units of 2^-8 of the largest
// of their group.
import { digitsOf, products, roots as shares, scales, signs, sizes, weights } from "../lattice/block";
import { base } from "../lattice/tables";
import { placeAll, product, setSteps, square, sumOf } from "./lattice-place";
import { useCandidates } from "./lattice-tables";

/** First guesses of the scales of the sub-blocks, and the largest magnitudes. */
const guesses: usize = memory.data(4 * 16, 16);
const largest: usize = memory.data(4 * 16, 16);
/** What the trials of the best scales gain. */
const gains: usize = memory.data(4 * 16, 16);
/** Trials of each sub-block, and their 2·A and B. */
const counts: usize = memory.data(4 * 16, 16);
const doubles: usize = memory.data(64 * 16, 16);
const squares: usize = memory.data(64 * 16, 16);
/** Codes of the scales for each of four scales of the block. */
const codes: usize = memory.data(16 * 16, 16);
/** Points of the groups, and codes, of the last round and of the best one. */
const points: usize = memory.data(2 * 64, 16);
const bestPoints: usize = memory.data(2 * 64, 16);
const bestCodes: usize = memory.data(16, 16);
const lanes: usize = memory.data(32, 16);

/** Scales of the block that are tried, in terms of the largest scale of a sub-block. */
const CANDIDATES: i32 = 8;
const factors: usize = memory.data(4 * 8, 16);

/** How far beyond the planned trials a sub-block may go. */
const FURTHER: i32 = 2;

/** Trials to either side of the guess. */
let reach: i32 = 1;
/** How often the whole block is placed at the scales to be stored. */
let rounds: i32 = 0;
/** By how much of the guess trials differ. */
let step: f32 = 0;
/** What of the root mean square and of the largest value makes the guess. */
let ofMean: f32 = 0;
let ofLargest: f32 = 0;

function setTrials(sides: i32, times: i32, apart: f32, mean: f32, largest: f32): void {
  reach = sides;
  rounds = times;
  step = apart;
  ofMean = mean;
  ofLargest = largest;
}

/** How each type guesses its scales and what it tries. */
function setTrialsOf(target: i32): void {
  switch (target) {
    case 16:
      return setTrials(1, 1, 0.13, 0.22, 0.06);
    case 17:
      return setTrials(2, 2, 0.11, 0.22, 0.05);
    case 18:
      return setTrials(2, 2, 0.09, 0.045, 0.045);
    case 21:
      return setTrials(1, 1, 0.13, 0.045, 0.045);
  }
  setTrials(1, 1, 0.15, 0.2, 0.07);
}

/** What all weights have at least, of the largest of the block: values that do not matter still get their places. */
const LEAST_WEIGHT: f32 = 9.313225746154785e-10;

/** Half of the least scale that is stored. */
const LEAST_SCALE: f32 = 2.9802322387695312e-8;

/** Reads weights, brought to a largest between 1 and 2, and products and signs of a block. */
// @ts-ignore: decorator
@inline function readBlock(x: usize, importance: usize): void {
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
      v128.store(sizes + j, f32x4.abs(value));
      v128.store(products + j, f32x4.mul(weight, f32x4.abs(value)));
      code |= i32x4.bitmask(f32x4.lt(value, zero)) << (<i32>(j & 16) >> 2);
    }
    store<u8>(signs + group, code);
  }
}

// @ts-ignore: decorator
@inline function leastLane(v: v128): v128 {
  const pairs = f32x4.pmin(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.pmin(pairs, v128.shuffle<i32>(pairs, pairs, 1, 0, 3, 2));
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
@inline function evenOut(size: usize): void {
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
@inline function share(eight: bool): void {
  for (let j: usize = 0; j < 1024; j += eight ? 32 : 16) {
    const a = v128.load(weights + j);
    const b = eight ? v128.load(weights + j, 16) : a;
    const most = f32x4.neg(leastLane(f32x4.pmin(f32x4.neg(a), f32x4.neg(b))));
    const factor = f32x4.div(f32x4.splat(256), most);
    v128.store(shares + j, f32x4.mul(a, factor));
    if (eight) v128.store(shares + j, f32x4.mul(b, factor), 16);
  }
}

/** Guesses the scale of a sub-block from the weighted root mean square and the largest of its values. */
// @ts-ignore: decorator
@inline function guess(x: usize, s: usize, size: usize): void {
  let at: usize = 4 * size * s;
  let energy = i32x4.splat(0);
  let weight = i32x4.splat(0);
  let most = i32x4.splat(0);
  for (const end = at + 4 * size; at < end; at += 16) {
    const value = f32x4.abs(v128.load(x + at));
    energy = f32x4.add(energy, f32x4.mul(f32x4.mul(v128.load(weights + at), value), value));
    weight = f32x4.add(weight, v128.load(weights + at));
    most = f32x4.pmax(most, value);
  }
  const reached = -f32x4.extract_lane(leastLane(f32x4.neg(most)), 0);
  store<f32>(largest + 4 * s, reached);
  store<f32>(guesses + 4 * s, ofMean * sqrt<f32>(sumOf(energy) / sumOf(weight)) + ofLargest * reached);
}

/**
 * Places a sub-block at a scale and takes what comes of it as a trial. Groups of four are content with half of the
 * candidates where it will not be stored, so not with `all`. Returns what it gains.
 */
// @ts-ignore: decorator
@inline function tryOne(s: usize, scale: f32, size: usize, eight: bool, all: bool): f32 {
  placeAll(base, 4 * size * s, size, max(scale, LEAST_SCALE), points + 2 * s * (eight ? size / 8 : size / 4), eight, all);
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
 * Tries scales around the guess for a sub-block, further ones as long as it gets better beyond the last, and those
 * that spare a single large value: they put it on the levels 17, 15 and 13, where their scales are larger than all
 * of those.
 */
// @ts-ignore: decorator
@inline function searchScale(s: usize, guess: f32, size: usize, eight: bool): void {
  let best: f32 = -1;
  let side = 0;
  let trial = 0;
  for (; trial <= 2 * reach; trial++) {
    const gain = tryOne(s, guess * (1 + step * <f32>(trial - reach)), size, eight, eight);
    if (gain > best) {
      best = gain;
      side = trial === 0 ? -1 : trial === 2 * reach ? 1 : 0;
    }
  }
  for (let further = 1; side !== 0 && further <= FURTHER; further++) {
    const gain = tryOne(s, guess * (1 + step * <f32>(side * (reach + further))), size, eight, eight);
    if (gain > best) best = gain;
    else side = 0;
  }
  if (eight) return;
  const beyond: f32 = guess * (1 + step * (<f32>reach + 0.5));
  for (let level: f32 = 17; level >= 13; level -= 2) {
    const scale = load<f32>(largest + 4 * s) / level;
    if (scale > beyond) tryOne(s, scale, size, eight, eight);
  }
}

/**
 * The error of a block at four scales of it, each sub-block with the code that bounds its error best of the nearest
 * one and its neighbours.
 */
// @ts-ignore: decorator
@inline function bound(scale: v128, count: usize): v128 {
  let sum = i32x4.splat(0);
  const one = i32x4.splat(1);
  for (let s: usize = 0; s < count; s++) {
    const ratio = f32x4.pmin(f32x4.div(v128.load32_splat(scales + 4 * s), scale), f32x4.splat(64));
    const nearest = digitsOf(ratio, 15);
    let least = f32x4.splat(Infinity);
    let chosen = nearest;
    const end: usize = 64 * s + 4 * <usize>load<u32>(counts + 4 * s);
    for (let side = -1; side <= 1; side++) {
      const code = i32x4.max_s(i32x4.min_s(i32x4.add(nearest, i32x4.splat(side)), i32x4.splat(15)), i32x4.splat(0));
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
@inline function chooseScale(count: usize): f32 {
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

/** Searches a block; its half is returned, the codes and points are in `bestCodes` and `bestPoints`. */
// @ts-ignore: decorator
@inline function searchBlock(x: usize, size: usize, eight: bool, even: bool): i32 {
  const count: usize = 256 / size;
  for (let s: usize = 0; s < count; s++) guess(x, s, size);
  if (even) evenOut(size);
  share(eight);
  for (let s: usize = 0; s < count; s++) {
    store<u32>(counts + 4 * s, 0);
    store<f32>(scales + 4 * s, 0);
    store<f32>(gains + 4 * s, 0);
    searchScale(s, load<f32>(guesses + 4 * s), size, eight);
  }
  let half = halfOf(chooseScale(count));
  let bestHalf = 0;
  let least: f32 = 0;
  for (let round = 0; round < rounds; round++) {
    const scale = floatOf(half);
    if (scale === 0) break;
    bound(f32x4.splat(scale), count);
    let error: f32 = 0;
    let above: f32 = 0;
    let below: f32 = 0;
    for (let s: usize = 0; s < count; s++) {
      const steps: f32 = <f32>((load<i32>(codes + 16 * s) << 1) + 1);
      const own = scale * steps;
      tryOne(s, own, size, eight, true);
      error += own * (own * square - (product + product));
      above += product * steps;
      below += square * steps * steps;
    }
    if (error < least) {
      least = error;
      bestHalf = half;
      memory.copy(bestPoints, points, 128);
      for (let s: usize = 0; s < count; s++) store<u8>(bestCodes + s, load<i32>(codes + 16 * s));
    }
    if (!(above > 0)) break;
    const next = halfOf(above / below);
    if (next === half) break;
    half = next;
  }
  return bestHalf;
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
  return searchBlock(x, 16, true, even);
}

function searchLongEights(x: usize): i32 {
  return searchBlock(x, 32, true, true);
}

function searchFours(x: usize, even: bool): i32 {
  return searchBlock(x, 32, false, even);
}

/** Encodes whole blocks: see `searchBlocks`. */
export function searchLattice(target: i32, x: usize, importance: usize, output: usize, values: i32): void {
  useCandidates(target);
  setSteps(target);
  setTrialsOf(target);
  for (let i: i32 = 0; i < CANDIDATES; i++) store<f32>(factors + 4 * i, 1 / (<f32>22 + <f32>i * <f32>1.5));
  const bytes = bytesOf(target);
  for (let j = 0; j < values; j += 256) {
    readBlock(x, importance);
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
