// Choice of the two halves of a block of the affine types: see `blocks/search/k-affine-steps.ts`. Lanes are steps
// that are tried, and sub-blocks are walked in order.

import { roundToHalf } from "../half";
import { clamp, CURVATURE, fields, inverseOf, LEVEL, PULL, SCALE, TOTAL } from "./k-affine-lanes";
import { levelAbove, levelBelow, lossOf } from "./k-affine-loss";

/** Steps that are tried of each kind, first by itself and then beside the other one. */
const ALONE: i32 = 64;
const TOGETHER: i32 = 32;
const GOLDEN: u32 = 2654435769;

/** What `chooseSteps` found. */
export let scaleStep: f32 = 0;
export let offsetStep: f32 = 0;

/** Offsets that the sub-blocks' stored scales want. */
const wanted: usize = memory.data(16 * 4, 16);

/** The least of the losses found in order, and its step. */
let lowest: f32 = 0;
let found: f32 = 0;

// @ts-ignore: decorator
@inline function settleLane(loss: f32, step: f32): void {
  if (loss < lowest) {
    lowest = loss;
    found = step;
  }
}

// @ts-ignore: decorator
@inline function settle(losses: v128, steps: v128): void {
  if (!v128.any_true(f32x4.lt(losses, f32x4.splat(lowest)))) return;
  settleLane(f32x4.extract_lane(losses, 0), f32x4.extract_lane(steps, 0));
  settleLane(f32x4.extract_lane(losses, 1), f32x4.extract_lane(steps, 1));
  settleLane(f32x4.extract_lane(losses, 2), f32x4.extract_lane(steps, 2));
  settleLane(f32x4.extract_lane(losses, 3), f32x4.extract_lane(steps, 3));
}

/** Four steps from number `index` on, evenly apart. */
// @ts-ignore: decorator
@inline function evenSteps(least: f32, first: f32, range: f32, index: i32): v128 {
  const numbers = f32x4.add(f32x4.splat(<f32>index), f32x4(0, 1, 2, 3));
  const factors = f32x4.add(
    f32x4.splat(first),
    f32x4.mul(f32x4.splat(range / <f32>ALONE), numbers),
  );
  return roundToHalf(f32x4.mul(f32x4.splat(least), factors));
}

function chooseScale(bytes: usize, least: f32, first: f32, range: f32, top: v128): f32 {
  lowest = Infinity;
  found = 0;
  for (let index = 0; index < ALONE; index += 4) {
    const steps = evenSteps(least, first, range, index);
    const inverse = inverseOf(steps);
    let losses = i32x4.splat(0);
    for (let at = fields; at < fields + bytes; at += 4) {
      const scale = v128.load32_splat(at + SCALE);
      const level = f32x4.nearest(clamp(f32x4.mul(scale, inverse), top));
      const off = f32x4.sub(f32x4.mul(level, steps), scale);
      const loss = f32x4.mul(f32x4.mul(v128.load32_splat(at + CURVATURE), off), off);
      losses = f32x4.add(losses, f32x4.mul(v128.load32_splat(at + TOTAL), loss));
    }
    settle(losses, steps);
  }
  return found;
}

function chooseOffset(
  bytes: usize,
  scale: f32,
  least: f32,
  first: f32,
  range: f32,
  top: v128,
): f32 {
  const step = f32x4.splat(scale);
  const inverseStep = inverseOf(step);
  for (let at: usize = 0; at < bytes; at += 16) {
    const own = fields + at;
    const level = f32x4.nearest(clamp(f32x4.mul(v128.load(own, SCALE), inverseStep), top));
    const stored = f32x4.mul(level, step);
    v128.store(wanted + at, f32x4.sub(f32x4.mul(stored, v128.load(own, LEVEL)), v128.load(own, PULL)));
  }
  lowest = Infinity;
  found = 0;
  for (let index = 0; index < ALONE; index += 4) {
    const steps = evenSteps(least, first, range, index);
    const inverse = inverseOf(steps);
    let losses = i32x4.splat(0);
    for (let at: usize = 0; at < bytes; at += 4) {
      const offset = v128.load32_splat(wanted + at);
      const level = f32x4.nearest(clamp(f32x4.mul(offset, inverse), top));
      const off = f32x4.sub(offset, f32x4.mul(level, steps));
      losses = f32x4.add(losses, f32x4.mul(v128.load32_splat(fields + at + TOTAL), f32x4.mul(off, off)));
    }
    settle(losses, steps);
  }
  return found;
}

/** What all fits lose under four pairs of steps. */
function lossesOf(bytes: usize, scale: v128, offset: v128, top: v128): v128 {
  const scaleInverse = inverseOf(scale);
  const offsetInverse = inverseOf(offset);
  let losses = i32x4.splat(0);
  for (let at = fields; at < fields + bytes; at += 4) {
    const own = v128.load32_splat(at + SCALE);
    const curvature = v128.load32_splat(at + CURVATURE);
    const level = v128.load32_splat(at + LEVEL);
    const pull = v128.load32_splat(at + PULL);
    const below = levelBelow(own, scaleInverse, top);
    const above = levelAbove(below, top);
    const first = lossOf(below, own, curvature, level, pull, scale, offset, offsetInverse, top);
    const second = lossOf(above, own, curvature, level, pull, scale, offset, offsetInverse, top);
    const loss = f32x4.pmin(first, second);
    losses = f32x4.add(losses, f32x4.mul(v128.load32_splat(at + TOTAL), loss));
  }
  return losses;
}

// @ts-ignore: decorator
@inline function factorOf(first: f32, range: f32, k: u32): f32 {
  return first + range * (<f32>(k * GOLDEN) * <f32>(1.0 / 4294967296.0));
}

/** Chooses steps that store the best fits of the sub-blocks with little loss: see the reference. */
export function chooseSteps(subBlocks: usize, topLevel: f32, first: f32, range: f32): void {
  const bytes: usize = 4 * subBlocks;
  const top = f32x4.splat(topLevel);
  let largestScale: f32 = 0;
  let largestOffset: f32 = 0;
  for (let at = fields; at < fields + bytes; at += 4) {
    const scale = load<f32>(at, SCALE);
    const offset = scale * load<f32>(at, LEVEL) - load<f32>(at, PULL);
    if (scale > largestScale) largestScale = scale;
    if (offset > largestOffset) largestOffset = offset;
  }
  const leastScale = largestScale / topLevel;
  const leastOffset = largestOffset / topLevel;
  scaleStep = chooseScale(bytes, leastScale, first, range, top);
  offsetStep = chooseOffset(bytes, scaleStep, leastOffset, first, range, top);
  const losses = lossesOf(bytes, f32x4.splat(scaleStep), f32x4.splat(offsetStep), top);
  lowest = f32x4.extract_lane(losses, 0);
  for (let index = 0; index < TOGETHER; index += 4) {
    const k = <u32>index;
    const factors = f32x4.replace_lane(
      f32x4.replace_lane(
        f32x4.replace_lane(f32x4.splat(factorOf(first, range, k + 1)), 1, factorOf(first, range, k + 2)),
        2,
        factorOf(first, range, k + 3),
      ),
      3,
      factorOf(first, range, k + 4),
    );
    if ((index & 4) == 0) {
      found = scaleStep;
      const steps = roundToHalf(f32x4.mul(f32x4.splat(leastScale), factors));
      settle(lossesOf(bytes, steps, f32x4.splat(offsetStep), top), steps);
      scaleStep = found;
    } else {
      found = offsetStep;
      const steps = roundToHalf(f32x4.mul(f32x4.splat(leastOffset), factors));
      settle(lossesOf(bytes, f32x4.splat(scaleStep), steps, top), steps);
      offsetStep = found;
    }
  }
}
