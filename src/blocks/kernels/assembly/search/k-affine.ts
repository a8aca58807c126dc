// Searches of Q2_K, Q4_K and Q5_K: see `blocks/search/k-affine.ts`, which this is held to.

import { float } from "../number";
import { halfOf } from "../half";
import { encodeAffine } from "../k/affine";
import { FIELD_STEP, fields as stored, MINIMUM_LEVELS, SCALE_LEVELS } from "../k/affine-fields";
import { packLevels, packPairs, packScales, pairOf, scalesOf } from "../k/affine-pack";
import {
  clamp,
  fields,
  GGML_OFFSET,
  GGML_SCALE,
  inverseOf,
  lanes,
  largest,
  MEAN,
  NEXT,
  OFFSET_LEVEL,
  placeBlock,
  SCALE_LEVEL,
  SHARE,
  STRIDE,
  TOTAL,
  VALUE,
  zero,
} from "./k-affine-lanes";
import { chooseSteps, offsetStep, scaleStep } from "./k-affine-steps";
import { searchAlone, searchPlaced } from "./k-affine-trials";

const Q2_K: i32 = 10;
const Q4_K: i32 = 12;

/** A block of smaller magnitudes is all zeros as soon as it is stored. */
const NEGLIGIBLE: f32 = 1.0 / 16777216;

/** ggml's block is replaced by one that loses less by more than rounding. */
const MARGIN: f64 = 1 - 1.0 / 65536;

/** Of 16 sub-blocks: what each loses, and sums of level, level² and level · value. */
const measured: usize = memory.data(4 * 64, 16);
const SUM_L: usize = 64;
const SUM_LL: usize = 2 * 64;
const SUM_LX: usize = 3 * 64;

/** The best block so far: levels of its scales and offsets as f32, its halves and its error. */
const best: usize = memory.data(2 * 64, 16);
const BEST_OFFSET: usize = 64;
let bestScaleStep: f32 = 0;
let bestOffsetStep: f32 = 0;
let bestError: f64 = 0;
/** The halves that are best for its levels. */
let refittedScale: f32 = 0;
let refittedOffset: f32 = 0;

/** The halves that are best for what was measured last. */
let nextScale: f32 = 0;
let nextOffset: f32 = 0;

/** Levels of a block. */
const levels: usize = memory.data(256, 16);

// @ts-ignore: decorator
@inline function levelOf(x: v128, inverse: v128, shift: v128, top: v128): v128 {
  return f32x4.nearest(clamp(f32x4.add(f32x4.mul(x, inverse), shift), top));
}

/** What a group of sub-blocks loses under scales and offsets, and its sums. */
function measureGroup(first: usize, count: usize, topLevel: f32, scale: v128, offset: v128, to: usize): void {
  const top = f32x4.splat(topLevel);
  const inverse = inverseOf(scale);
  const shift = f32x4.mul(offset, inverse);
  let own = zero();
  let sumL = zero();
  let sumLL = zero();
  let sumLX = zero();
  for (let at = first; at < first + count * STRIDE; at += STRIDE) {
    const x = v128.load(at, VALUE);
    const share = v128.load(at, SHARE);
    const level = levelOf(x, inverse, shift, top);
    const product = f32x4.mul(share, level);
    const off = f32x4.sub(f32x4.sub(f32x4.mul(scale, level), offset), x);
    sumL = f32x4.add(sumL, product);
    sumLL = f32x4.add(sumLL, f32x4.mul(product, level));
    sumLX = f32x4.add(sumLX, f32x4.mul(product, x));
    own = f32x4.add(own, f32x4.mul(f32x4.mul(share, off), off));
  }
  v128.store(to, own);
  v128.store(to, sumL, SUM_L);
  v128.store(to, sumLL, SUM_LL);
  v128.store(to, sumLX, SUM_LX);
}

// @ts-ignore: decorator
@inline function roundedToHalf(value: f64): f32 {
  store<u16>(levels, halfOf(<f32>value));
  return float<i16>(levels);
}

/** Returns what a block loses, and fits its halves to its levels. */
function measure(
  count: usize,
  top: f32,
  scaleStep: f32,
  offsetStep: f32,
  scales: usize,
  offsets: usize,
): f64 {
  const subBlocks: usize = 256 / count;
  for (let s: usize = 0; s < subBlocks; s += 4) {
    const scale = f32x4.mul(f32x4.splat(scaleStep), v128.load(scales + 4 * s));
    const offset = f32x4.mul(f32x4.splat(offsetStep), v128.load(offsets + 4 * s));
    const first = lanes + (s & ~7) * count * (STRIDE / 8) + (s & 4 ? NEXT : 0);
    measureGroup(first, count, top, scale, offset, measured + 4 * s);
  }
  let error: f64 = 0;
  let sumSS: f64 = 0;
  let sumSO: f64 = 0;
  let sumOO: f64 = 0;
  let sumSX: f64 = 0;
  let sumOX: f64 = 0;
  for (let at: usize = 0; at < 4 * subBlocks; at += 4) {
    const total = <f64>load<f32>(fields + at, TOTAL);
    const scale = <f64>load<f32>(scales + at);
    const offset = <f64>load<f32>(offsets + at);
    const sum = measured + at;
    const byScale = total * scale;
    const byOffset = total * offset;
    error += total * <f64>load<f32>(sum);
    sumSS += byScale * scale * <f64>load<f32>(sum, SUM_LL);
    sumSO += byScale * offset * <f64>load<f32>(sum, SUM_L);
    sumOO += byOffset * offset;
    sumSX += byScale * <f64>load<f32>(sum, SUM_LX);
    sumOX += byOffset * <f64>load<f32>(fields + at, MEAN);
  }
  nextScale = scaleStep;
  nextOffset = offsetStep;
  if (sumSS > 0) {
    const determinant = sumSS * sumOO - sumSO * sumSO;
    const offset = determinant > 0 ? (sumSX * sumSO - sumOX * sumSS) / determinant : 0;
    if (offset > 0) {
      nextScale = roundedToHalf((sumSX * sumOO - sumOX * sumSO) / determinant);
      nextOffset = roundedToHalf(offset);
    } else {
      nextScale = roundedToHalf(sumSX / sumSS);
      nextOffset = 0;
    }
  }
  return error;
}

/** Takes a block over that loses less than the best. */
function propose(error: f64, scaleStep: f32, offsetStep: f32, scales: usize, offsets: usize): bool {
  if (!(error < bestError)) return false;
  bestError = error;
  bestScaleStep = scaleStep;
  bestOffsetStep = offsetStep;
  refittedScale = nextScale;
  refittedOffset = nextOffset;
  memory.copy(best, scales, 64);
  memory.copy(best + BEST_OFFSET, offsets, 64);
  return true;
}

/** Levels of 16 values. */
// @ts-ignore: decorator
@inline function levels16(at: usize, inverse: v128, shift: v128, top: v128): v128 {
  const a = i32x4.trunc_sat_f32x4_s(levelOf(v128.load(at), inverse, shift, top));
  const b = i32x4.trunc_sat_f32x4_s(levelOf(v128.load(at, 16), inverse, shift, top));
  const c = i32x4.trunc_sat_f32x4_s(levelOf(v128.load(at, 32), inverse, shift, top));
  const d = i32x4.trunc_sat_f32x4_s(levelOf(v128.load(at, 48), inverse, shift, top));
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** Stores the best block. */
function storeBest(target: i32, x: usize, count: usize, topLevel: f32, output: usize): void {
  const top = f32x4.splat(topLevel);
  for (let s: usize = 0; s < 256 / count; s++) {
    const scale = load<f32>(best + 4 * s);
    const offset = load<f32>(best + 4 * s, BEST_OFFSET);
    store<i32>(stored + FIELD_STEP * s, <i32>scale, SCALE_LEVELS);
    store<i32>(stored + FIELD_STEP * s, <i32>offset, MINIMUM_LEVELS);
    const inverse = inverseOf(f32x4.splat(bestScaleStep * scale));
    const shift = f32x4.mul(f32x4.splat(bestOffsetStep * offset), inverse);
    for (let j = count * s; j < count * s + count; j += 16) {
      v128.store(levels + j, levels16(x + 4 * j, inverse, shift, top));
    }
  }
  const halves = target == Q2_K ? output + 80 : output;
  store<u16>(halves, halfOf(bestScaleStep));
  store<u16>(halves, halfOf(bestOffsetStep), 2);
  if (target == Q2_K) packScales(stored, output);
  else packPairs(stored, 63, output + 4);
  packLevels(target, levels, output);
}

/** Takes ggml's block apart. */
// @ts-ignore: decorator
@inline function readScales(target: i32, count: usize, output: usize): void {
  for (let s: usize = 0; s < 256 / count; s++) {
    const pair = target == Q2_K ? scalesOf(output, s) : pairOf(output + 4, s);
    store<f32>(fields + 4 * s, <f32>(pair & 255), GGML_SCALE);
    store<f32>(fields + 4 * s, <f32>(pair >> 8), GGML_OFFSET);
  }
}

/** Replaces ggml's block by a better one where there is one. */
function searchBlock(target: i32, x: usize, weights: usize, output: usize): void {
  if (largest(x) < NEGLIGIBLE) return;
  const few = target == Q2_K;
  const count: usize = few ? 16 : 32;
  const top: f32 = few ? 3 : target == Q4_K ? 15 : 31;
  const scaleTop: f32 = few ? 15 : 63;
  const trials = few ? 32 : 72;
  const radius: f32 = few ? 1.25 : 2.5;
  const width: f32 = few ? 0.5 : 1;
  const weighted = weights != 0;
  placeBlock(x, weights, count, top);
  readScales(target, count, output);
  const halves = few ? output + 80 : output;
  const ggmlScale = float<i16>(halves);
  const ggmlOffset = float<i16>(halves + 2);
  bestError = Infinity;
  const ggmlError = measure(count, top, ggmlScale, ggmlOffset, fields + GGML_SCALE, fields + GGML_OFFSET);
  propose(ggmlError * MARGIN, ggmlScale, ggmlOffset, fields + GGML_SCALE, fields + GGML_OFFSET);
  searchAlone(count, top, weighted, ggmlScale, ggmlOffset, trials, radius, width);
  let found = false;
  let after = trials;
  for (let round = 0; round < 2; round++) {
    chooseSteps(256 / count, scaleTop, few ? <f32>0.8 : <f32>0.98, few ? <f32>0.6 : <f32>0.22);
    if (!(scaleStep > 0)) break;
    const more = round > 0 ? (few ? 8 : 16) : few ? 24 : 40;
    searchPlaced(
      count,
      top,
      scaleTop,
      weighted,
      scaleStep,
      offsetStep,
      after,
      more,
      few ? <f32>1.25 : <f32>2,
      width,
    );
    after += more;
    const error = measure(count, top, scaleStep, offsetStep, fields + SCALE_LEVEL, fields + OFFSET_LEVEL);
    if (propose(error, scaleStep, offsetStep, fields + SCALE_LEVEL, fields + OFFSET_LEVEL)) found = true;
  }
  const error = measure(count, top, refittedScale, refittedOffset, best, best + BEST_OFFSET);
  if (propose(error, refittedScale, refittedOffset, best, best + BEST_OFFSET)) found = true;
  if (found) storeBest(target, x, count, top, output);
}

/** Searches Q2_K (10), Q4_K (12) and Q5_K (13): see `searchBlocks`. */
export function searchAffine(target: i32, x: usize, weights: usize, output: usize, values: i32): void {
  encodeAffine(target, x, weights, output, values);
  const bytes: usize = target == Q2_K ? 84 : target == Q4_K ? 144 : 176;
  for (let b: usize = 0; b < <usize>(values / 256); b++) {
    searchBlock(target, x + 1024 * b, weights == 0 ? 0 : weights + 1024 * b, output + bytes * b);
  }
}
