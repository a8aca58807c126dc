/**
 * Searches of Q2_K, Q4_K and Q5_K. ggml's block is where a search starts and what it has to beat.
 *
 * Trials first look for each sub-block's own best scale and offset. Then the two halves are chosen that store
 * these with little loss, and further trials count what a fit loses by the levels of its scale and offset as well.
 * That is done a few times over; the halves of the best block are fitted to it at last.
 */

import { half } from "../decode/block.js";
import type { AffineLayout } from "../encode/k-affine.js";
import {
  encodeQ2_K,
  encodeQ4_K,
  encodeQ5_K,
  layoutQ2_K,
  layoutQ4_K,
  layoutQ5_K,
} from "../encode/k-affine.js";
import { floatToHalf, halfToFloat } from "../floats.js";
import type { Encoder } from "../types.js";
import {
  type Aim,
  clamp,
  type Fit,
  moveAim,
  nearest,
  placeSubBlock,
  type SubBlock,
  tryAim,
} from "./k-affine-fit.js";
import { chooseSteps, inverseOf, place, type Placed, type Steps } from "./k-affine-steps.js";

const { abs, fround } = Math;

/** How many trials there are and how far they move the ends of the levels, in levels. */
interface Plan {
  /** For the sub-blocks by themselves. */
  readonly first: number;
  /** After each choice of the halves. */
  readonly next: readonly number[];
  /** Radius of the first and of the last trial of all of these, for the sub-blocks by themselves and after. */
  readonly firstRadius: readonly [number, number];
  readonly nextRadius: readonly [number, number];
  /** Where the steps begin that are tried for the halves, and how far they go; see `chooseSteps`. */
  readonly firstStep: number;
  readonly stepRange: number;
}

/** Weights below this part of the largest of a block count as that, so that no value is forgotten. */
const leastWeight = 2 ** -24;

/** A block of smaller magnitudes is all zeros as soon as it is stored. */
const negligible = 2 ** -24;

/** ggml's block is replaced by one that loses less by more than rounding. */
const margin = 1 - 2 ** -16;

/** A block as it can be stored, what it loses and how that depends on its halves. */
interface Candidate {
  readonly steps: Steps;
  readonly scales: Uint8Array;
  readonly offsets: Uint8Array;
  readonly error: number;
  /** What the halves are best for its levels. */
  readonly refitted: Steps;
}

function roundSteps(scale: number, offset: number): Steps {
  return { scale: halfToFloat(floatToHalf(scale)), offset: halfToFloat(floatToHalf(offset)) };
}

/** Level of a value under a stored scale and offset. */
function levelOf(value: number, inverse: number, shift: number, top: number): number {
  return nearest(clamp(fround(fround(value * inverse) + shift), top));
}

/** What a block loses. Sums within a sub-block are float32, and those over sub-blocks float64. */
function measure(
  subBlocks: readonly SubBlock[],
  steps: Steps,
  scales: Uint8Array,
  offsets: Uint8Array,
  top: number,
): Candidate {
  let [error, sumSS, sumSO, sumOO, sumSX, sumOX] = [0, 0, 0, 0, 0, 0];
  for (const [s, { values, shares, total, mean }] of subBlocks.entries()) {
    const scale = fround(steps.scale * scales[s]!);
    const offset = fround(steps.offset * offsets[s]!);
    const inverse = inverseOf(scale);
    const shift = fround(offset * inverse);
    let [own, sumL, sumLL, sumLX] = [0, 0, 0, 0];
    for (const [j, value] of values.entries()) {
      const level = levelOf(value, inverse, shift, top);
      const product = fround(shares[j]! * level);
      const off = fround(fround(fround(scale * level) - offset) - value);
      sumL = fround(sumL + product);
      sumLL = fround(sumLL + fround(product * level));
      sumLX = fround(sumLX + fround(product * value));
      own = fround(own + fround(fround(shares[j]! * off) * off));
    }
    const bySum = total * scales[s]!;
    const byOffset = total * offsets[s]!;
    error += total * own;
    sumSS += bySum * scales[s]! * sumLL;
    sumSO += bySum * offsets[s]! * sumL;
    sumOO += byOffset * offsets[s]!;
    sumSX += bySum * sumLX;
    sumOX += byOffset * mean;
  }
  // Least squares of both halves; one of them when the other one makes no difference or would be negative.
  const determinant = sumSS * sumOO - sumSO * sumSO;
  let refitted = steps;
  if (sumSS > 0) {
    const offset = determinant > 0 ? (sumSX * sumSO - sumOX * sumSS) / determinant : 0;
    refitted =
      offset > 0
        ? roundSteps((sumSX * sumOO - sumOX * sumSO) / determinant, offset)
        : roundSteps(sumSX / sumSS, 0);
  }
  return { steps, scales, offsets, error, refitted };
}

/** Takes ggml's block apart. */
function stepsOf(layout: AffineLayout, out: Uint8Array): Steps {
  return { scale: half(out, layout.halves), offset: half(out, layout.halves + 2) };
}

function store(layout: AffineLayout, subBlocks: readonly SubBlock[], best: Candidate, out: Uint8Array): void {
  const { count, top, halves } = layout;
  for (const [i, step] of [best.steps.scale, best.steps.offset].entries()) {
    const stored = floatToHalf(step);
    out[halves + 2 * i] = stored;
    out[halves + 2 * i + 1] = stored >>> 8;
  }
  layout.packScales(out, best.scales, best.offsets);
  const levels = new Uint8Array(256);
  for (const [s, { values }] of subBlocks.entries()) {
    const inverse = inverseOf(fround(best.steps.scale * best.scales[s]!));
    const shift = fround(fround(best.steps.offset * best.offsets[s]!) * inverse);
    for (const [j, value] of values.entries()) levels[count * s + j] = levelOf(value, inverse, shift, top);
  }
  layout.pack(out, levels);
}

function radiusOf([from, to]: readonly [number, number], index: number, count: number): number {
  return fround(from - fround(fround(fround(from - to) / count) * index));
}

/** Looks for the best scale and offset of a sub-block by itself, from its range and from ggml's. */
function searchAlone(subBlock: SubBlock, ggml: Aim, top: number, plan: Plan): void {
  const attempt = (aim: Aim): void => {
    const fit = tryAim(subBlock, aim, top);
    if (fit !== undefined && fit.error < subBlock.best.error) subBlock.best = fit;
  };
  attempt(subBlock.best);
  attempt(ggml);
  for (let index = 0; index < plan.first; index++) {
    attempt(moveAim(subBlock.best, index + 1, radiusOf(plan.firstRadius, index, plan.first), top));
  }
}

/** Looks for the levels of a sub-block's scale and offset, beginning with the best fit so far. */
function searchPlaced(
  subBlock: SubBlock,
  steps: Steps,
  layout: AffineLayout,
  trials: { after: number; count: number; radius: readonly [number, number] },
): Placed {
  const placeFit = (fit: Fit): Placed => place(fit, steps, layout.scaleTop);
  let placed = placeFit(subBlock.best);
  let lowest = fround(subBlock.best.error + placed.loss);
  for (let index = 0; index < trials.count; index++) {
    const radius = radiusOf(trials.radius, index, trials.count);
    const fit = tryAim(
      subBlock,
      moveAim(subBlock.best, trials.after + index + 1, radius, layout.top),
      layout.top,
    );
    if (fit === undefined) continue;
    const tried = placeFit(fit);
    const error = fround(fit.error + tried.loss);
    if (!(error < lowest)) continue;
    lowest = error;
    placed = tried;
    subBlock.best = fit;
  }
  return placed;
}

function searchBlock(
  layout: AffineLayout,
  plan: Plan,
  values: Float32Array,
  out: Uint8Array,
  importance: Float32Array | undefined,
): void {
  const { count, top, scaleTop } = layout;
  if (values.every((value) => abs(value) < negligible)) return;
  const most = importance?.reduce((a, b) => (b > a ? b : a), 0) ?? 0;
  const weights = values.map((_, j) => {
    if (importance === undefined || most === 0) return 1;
    const weight = fround(importance[j]! / most);
    return weight < leastWeight ? leastWeight : weight;
  });
  const subBlocks = Array.from({ length: 256 / count }, (_, s) =>
    placeSubBlock(
      values.subarray(count * s, count * s + count),
      weights.subarray(count * s, count * s + count),
      top,
    ),
  );
  const steps = stepsOf(layout, out);
  const levels = subBlocks.map((_, s) => layout.scaleLevels(out, s));
  const measured = (tried: Steps, scales: Uint8Array, offsets: Uint8Array): Candidate =>
    measure(subBlocks, tried, scales, offsets, top);
  const ggml = measured(
    steps,
    Uint8Array.from(levels, ([scale]) => scale),
    Uint8Array.from(levels, ([, offset]) => offset),
  );
  let best = { ...ggml, error: ggml.error * margin };
  const propose = (candidate: Candidate): void => {
    if (candidate.error < best.error) best = candidate;
  };
  for (const [s, subBlock] of subBlocks.entries()) {
    const inverse = inverseOf(fround(steps.scale * ggml.scales[s]!));
    const offset = fround(steps.offset * ggml.offsets[s]!);
    searchAlone(subBlock, { inverse, shift: fround(fround(offset + subBlock.mean) * inverse) }, top, plan);
  }
  let after = plan.first;
  for (const trials of plan.next) {
    const chosen = chooseSteps(subBlocks, scaleTop, plan.firstStep, plan.stepRange);
    if (!(chosen.scale > 0)) break;
    const placed = subBlocks.map((subBlock) =>
      searchPlaced(subBlock, chosen, layout, { after, count: trials, radius: plan.nextRadius }),
    );
    after += trials;
    propose(
      measured(
        chosen,
        Uint8Array.from(placed, ({ scale }) => scale),
        Uint8Array.from(placed, ({ offset }) => offset),
      ),
    );
  }
  propose(measured(best.refitted, best.scales, best.offsets));
  if (best.error < ggml.error * margin) store(layout, subBlocks, best, out);
}

function searcher(layout: AffineLayout, encodeGgml: Encoder, plan: Plan): Encoder {
  return (values, out, importance) => {
    encodeGgml(values, out, importance);
    for (let o = 0, at = 0; o < values.length; o += 256, at += layout.bytes) {
      const block = values.subarray(o, o + 256);
      const weights = importance?.subarray(o, o + 256);
      searchBlock(layout, plan, block, out.subarray(at, at + layout.bytes), weights);
    }
  };
}

const plan: Plan = {
  first: 72,
  next: [40, 16],
  firstRadius: [2.5, 1.5],
  nextRadius: [2, 1],
  firstStep: fround(0.98),
  stepRange: fround(0.22),
};

/** Q2_K with the least error that a search finds. Four levels leave little to find, and no room to move far. */
export const searchQ2_K = searcher(layoutQ2_K, encodeQ2_K, {
  first: 32,
  next: [24, 8],
  firstRadius: [1.25, 0.75],
  nextRadius: [1.25, 0.75],
  firstStep: fround(0.8),
  stepRange: fround(0.6),
});

/** Q4_K with the least error that a search finds. */
export const searchQ4_K = searcher(layoutQ4_K, encodeQ4_K, plan);

/** Q5_K with the least error that a search finds. */
export const searchQ5_K = searcher(layoutQ5_K, encodeQ5_K, plan);
