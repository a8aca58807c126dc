// The coarse scale of a sub-block of IQ2_XXS: 32 sizes on levels 0…4, before the lattice comes in.

import { largestSize, products, sizes, weights } from "./block";

const TOP: i32 = 4;
const NEGLIGIBLE: f32 = 1e-15;

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const MAGIC: f32 = 12582912;

/** Inverse scales that are tried beside the plain one, times the largest size. */
const trials: usize = memory.data(4 * 8, 16);
const errors: usize = memory.data(4 * 12, 16);
const inverses: usize = memory.data(4 * 12, 16);
/** Levels as ggml keeps them, in a byte: those of negated sizes are taken for large numbers. */
const levels: usize = memory.data(4 * 32, 16);
/** Scratch to take one lane. */
const lanes: usize = memory.data(3 * 16, 16);

/** Nearest integers, with a fixed bit pattern of the number beyond 2^22. */
// @ts-ignore: decorator
@inline function nearest(values: v128): v128 {
  const bits = v128.and(f32x4.add(values, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  return i32x4.sub(bits, i32x4.splat(0x400000));
}

// @ts-ignore: decorator
@inline function levelsOf(values: v128): v128 {
  return i32x4.min_s(nearest(values), i32x4.splat(TOP));
}

// @ts-ignore: decorator
@inline function addError(sum: v128, size: v128, weight: v128, scale: v128, level: v128): v128 {
  const difference = f32x4.sub(size, f32x4.mul(scale, f32x4.convert_i32x4_s(level)));
  return f32x4.add(sum, f32x4.mul(f32x4.mul(weight, difference), difference));
}

/** The inverse scale with the least error, of the plain one and eight around it; lanes are trials. */
function bestInverse(at: usize, largest: f32): f32 {
  const by = f32x4.splat(largest);
  const one = f32x4.splat(1);
  for (let step: i32 = 0; step < 4; step++) {
    store<f32>(trials + 4 * step, <f32>0.1 * <f32>(step - 4) + <f32>TOP);
    store<f32>(trials + 16 + 4 * step, <f32>0.1 * <f32>(step + 1) + <f32>TOP);
  }
  const plain = f32x4.div(f32x4.splat(<f32>TOP), by);
  const low = f32x4.div(v128.load(trials), by);
  const high = f32x4.div(v128.load(trials, 16), by);
  const plainScale = f32x4.div(one, plain);
  const lowScale = f32x4.div(one, low);
  const highScale = f32x4.div(one, high);
  let plainError = i32x4.splat(0);
  let lowError = i32x4.splat(0);
  let highError = i32x4.splat(0);
  for (let j: usize = 0; j < 128; j += 4) {
    const size = v128.load32_splat(sizes + at + j);
    const weight = v128.load32_splat(weights + at + j);
    const byte = v128.and(nearest(f32x4.mul(plain, size)), i32x4.splat(255));
    plainError = addError(plainError, size, weight, plainScale, byte);
    lowError = addError(lowError, size, weight, lowScale, levelsOf(f32x4.mul(low, size)));
    highError = addError(highError, size, weight, highScale, levelsOf(f32x4.mul(high, size)));
  }
  v128.store(errors, lowError);
  v128.store(errors, highError, 16);
  v128.store(inverses, low);
  v128.store(inverses, high, 16);
  let best = f32x4.extract_lane(plain, 0);
  let least = f32x4.extract_lane(plainError, 0);
  for (let t: usize = 0; t < 32; t += 4) {
    if (load<f32>(errors + t) < least) {
      least = load<f32>(errors + t);
      best = load<f32>(inverses + t);
    }
  }
  return best;
}

let product: f32 = 0;
let square: f32 = 0;

/** Takes the levels at an inverse scale and sums w·x·level and w·level². */
function takeLevels(at: usize, inverse: f32): void {
  for (let j: usize = 0; j < 128; j += 16) {
    v128.store(levels + j, levelsOf(f32x4.mul(f32x4.splat(inverse), v128.load(sizes + at + j))));
  }
  product = 0;
  square = 0;
  for (let j: usize = 0; j < 128; j += 4) {
    const level = <f32>load<i32>(levels + j);
    product += load<f32>(products + at + j) * level;
    square += load<f32>(weights + at + j) * level * level;
  }
  for (let j: usize = 0; j < 128; j += 16) {
    v128.store(levels + j, v128.and(v128.load(levels + j), i32x4.splat(255)));
  }
}

/**
 * Looks for the first level among four, not before lane `from`, whose move lowers the error, and moves it. Levels
 * that stay leave the sums alone, so all four can be judged at once. Returns its lane, or 4.
 */
function moveOne(at: usize, j: usize, from: i32): i32 {
  const size = v128.load(sizes + at + j);
  const weight = v128.load(weights + at + j);
  const projected = v128.load(products + at + j);
  const level = v128.load(levels + j);
  const oldLevel = f32x4.convert_i32x4_s(level);
  const zero = i32x4.splat(0);
  const restProduct = f32x4.sub(f32x4.splat(product), f32x4.mul(projected, oldLevel));
  const restSquare = f32x4.sub(f32x4.splat(square), f32x4.mul(f32x4.mul(weight, oldLevel), oldLevel));
  const moved = levelsOf(f32x4.div(f32x4.mul(size, restSquare), restProduct));
  const other = i32x4.ne(moved, level);
  if (!v128.any_true(other)) return 4;
  const newLevel = f32x4.convert_i32x4_s(moved);
  const newProduct = f32x4.add(restProduct, f32x4.mul(projected, newLevel));
  const newSquare = f32x4.add(restSquare, f32x4.mul(f32x4.mul(weight, newLevel), newLevel));
  const better = f32x4.gt(
    f32x4.mul(f32x4.mul(newProduct, newProduct), f32x4.splat(square)),
    f32x4.mul(f32x4.splat(product * product), newSquare),
  );
  const free = v128.and(f32x4.gt(restProduct, zero), f32x4.gt(restSquare, zero));
  const moves = v128.and(v128.and(free, better), other);
  const lane = ctz((i32x4.bitmask(moves) & (-1 << from)) | 16);
  if (lane === 4) return 4;
  v128.store(lanes, moved);
  v128.store(lanes, newProduct, 16);
  v128.store(lanes, newSquare, 32);
  const taken = lanes + 4 * <usize>lane;
  store<i32>(levels + j + 4 * <usize>lane, load<i32>(taken) & 255);
  product = load<f32>(taken, 16);
  square = load<f32>(taken, 32);
  return lane;
}

/** The best of nine scales, then up to five passes that move single levels. 0 where there is nothing to fit. */
export function coarseScale(at: usize): f32 {
  const largest = largestSize(at, 128);
  if (!(largest >= NEGLIGIBLE)) return 0;
  takeLevels(at, bestInverse(at, largest));
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (let j: usize = 0; j < 128; j += 16) {
      for (let lane = moveOne(at, j, 0); lane < 4; lane = moveOne(at, j, lane + 1)) changed = true;
    }
  }
  return square > 0 ? product / square : 0;
}
