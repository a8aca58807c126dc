// What all searches read of a block of 256 values.

/** Magnitudes; where signs are kept even, one of a group of eight may be negated. */
export const sizes: usize = memory.data(4 * 256, 16);
export const weights: usize = memory.data(4 * 256, 16);
/** Roots of the weights: neighbours are compared by these. */
export const roots: usize = memory.data(4 * 256, 16);
/** Weight times size, and twice the root times the size. */
export const products: usize = memory.data(4 * 256, 16);
export const doubles: usize = memory.data(4 * 256, 16);
/** Signs of each eight values, a set bit for a minus. */
export const signs: usize = memory.data(32, 16);
/** Scale of each sub-block. */
export const scales: usize = memory.data(4 * 16, 16);

/** Sums of squares of the blocks of a chunk. */
const sums: usize = memory.data(4 * 16, 16);

/** Weights without an importance: as with one of 1, a quarter of σ² and the square, the square alone. */
export const EVEN: i32 = 0;
export const QUARTER: i32 = 1;
export const SQUARE: i32 = 2;

/**
 * Sums the squares of each block, four blocks at a time: each lane walks its block in order, as ggml does. Fewer
 * blocks repeat the last one.
 */
export function sumSquares(x: usize, values: i32): void {
  const last = x + <usize>(values - 256) * 4;
  for (let block: usize = 0; block < <usize>values >> 8; block += 4) {
    const first = x + 1024 * block;
    const a = min(first, last);
    const b = min(first + 1024, last);
    const c = min(first + 2048, last);
    const d = min(first + 3072, last);
    let sum = i32x4.splat(0);
    for (let j: usize = 0; j < 1024; j += 16) {
      const va = v128.load(a + j);
      const vb = v128.load(b + j);
      const vc = v128.load(c + j);
      const vd = v128.load(d + j);
      const ab = v128.shuffle<i32>(va, vb, 0, 4, 1, 5);
      const cd = v128.shuffle<i32>(vc, vd, 0, 4, 1, 5);
      const ab2 = v128.shuffle<i32>(va, vb, 2, 6, 3, 7);
      const cd2 = v128.shuffle<i32>(vc, vd, 2, 6, 3, 7);
      sum = addSquare(sum, v128.shuffle<i64>(ab, cd, 0, 2));
      sum = addSquare(sum, v128.shuffle<i64>(ab, cd, 1, 3));
      sum = addSquare(sum, v128.shuffle<i64>(ab2, cd2, 0, 2));
      sum = addSquare(sum, v128.shuffle<i64>(ab2, cd2, 1, 3));
    }
    v128.store(sums + 4 * block, sum);
  }
}

// @ts-ignore: decorator
@inline function addSquare(sum: v128, x: v128): v128 {
  return f32x4.add(sum, f32x4.mul(x, x));
}

/** The lane-wise least of a vector, in all lanes. */
// @ts-ignore: decorator
@inline function leastLane(v: v128): v128 {
  const pairs = f32x4.pmin(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.pmin(pairs, v128.shuffle<i32>(pairs, pairs, 1, 0, 3, 2));
}

/** Gives the value that matters least, of eight with an odd number of minus signs, the other sign. */
function evenOut(group: usize): void {
  const at: usize = 32 * group;
  const a = v128.load(sizes + at);
  const b = v128.load(sizes + at, 16);
  const errorA = f32x4.mul(f32x4.mul(v128.load(weights + at), a), a);
  const errorB = f32x4.mul(f32x4.mul(v128.load(weights + at, 16), b), b);
  const least = leastLane(f32x4.pmin(errorA, errorB));
  const bits = i32x4.bitmask(f32x4.eq(errorA, least)) | (i32x4.bitmask(f32x4.eq(errorB, least)) << 4);
  const k = ctz(bits) & 7;
  const code = load<u8>(signs + group);
  const odd = popcnt(<u32>code) & 1;
  store<u8>(signs + group, code ^ (odd << k));
  const size = sizes + at + 4 * <usize>k;
  store<u32>(size, load<u32>(size) ^ (odd << 31));
}

/**
 * Reads block `block` of a chunk after `sumSquares`.
 *
 * @param times σ² is this many times the mean square of the block
 * @param even whether each eight values must have an even number of minus signs
 */
export function readBlock(x: usize, importance: usize, block: usize, times: f32, plain: i32, even: bool): void {
  const from = x + 1024 * block;
  const given = importance + 1024 * block;
  const variance: f32 = (times * load<f32>(sums + 4 * block)) / 256;
  const variances = f32x4.splat(variance);
  const quarter = f32x4.splat(<f32>0.25 * variance);
  for (let j: usize = 0; j < 1024; j += 16) {
    const value = v128.load(from + j);
    const square = f32x4.mul(value, value);
    let weight = square;
    if (importance !== 0) {
      weight = f32x4.mul(v128.load(given + j), f32x4.sqrt(f32x4.add(variances, square)));
    } else if (plain === EVEN) {
      weight = f32x4.sqrt(f32x4.add(variances, square));
    } else if (plain === QUARTER) {
      weight = f32x4.add(quarter, square);
    }
    v128.store(sizes + j, f32x4.abs(value));
    v128.store(weights + j, weight);
    v128.store(roots + j, f32x4.sqrt(weight));
  }
  const zero = i32x4.splat(0);
  for (let group: usize = 0; group < 32; group++) {
    const low = i32x4.bitmask(f32x4.lt(v128.load(from + 32 * group), zero));
    const high = i32x4.bitmask(f32x4.lt(v128.load(from + 32 * group, 16), zero));
    store<u8>(signs + group, low | (high << 4));
  }
  if (even) {
    for (let group: usize = 0; group < 32; group++) evenOut(group);
  }
  for (let j: usize = 0; j < 1024; j += 16) {
    const size = v128.load(sizes + j);
    const root = v128.load(roots + j);
    v128.store(products + j, f32x4.mul(v128.load(weights + j), size));
    v128.store(doubles + j, f32x4.mul(f32x4.add(root, root), size));
  }
}

/** The largest of the sizes from a place (in bytes) on. */
export function largestSize(at: usize, bytes: usize): f32 {
  let most = v128.load(sizes + at);
  for (let j: usize = 16; j < bytes; j += 16) most = f32x4.pmax(most, v128.load(sizes + at + j));
  return -f32x4.extract_lane(leastLane(f32x4.neg(most)), 0);
}

/** The largest magnitude of the sizes from a place on. */
export function reachOf(at: usize, bytes: usize): f32 {
  let most = f32x4.abs(v128.load(sizes + at));
  for (let j: usize = 16; j < bytes; j += 16) most = f32x4.pmax(most, f32x4.abs(v128.load(sizes + at + j)));
  return -f32x4.extract_lane(leastLane(f32x4.neg(most)), 0);
}

/** The largest of `count` scales. */
export function largestScale(count: usize): f32 {
  let most: f32 = 0;
  for (let s: usize = 0; s < count; s++) {
    const scale = load<f32>(scales + 4 * s);
    most = most > scale ? most : scale;
  }
  return most;
}

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const MAGIC: f32 = 12582912;

/**
 * The digits, up to `top`, whose steps 2·digit + 1 are nearest to four values, given at their inverse scale. Like
 * ggml's, values beyond 2^22 and NaN get a digit that depends on their low bits.
 */
// @ts-ignore: decorator
@inline export function digitsOf(values: v128, top: i32): v128 {
  const halved = f32x4.mul(f32x4.splat(0.5), f32x4.sub(values, f32x4.splat(1)));
  const bits = v128.and(f32x4.add(halved, f32x4.splat(MAGIC)), i32x4.splat(0x7fffff));
  const nearest = i32x4.sub(bits, i32x4.splat(0x400000));
  return i32x4.max_s(i32x4.min_s(nearest, i32x4.splat(top)), i32x4.splat(0));
}

/** Replaces the scales by their four-bit codes, 2·code + 1 steps of a 31st of the largest. */
export function codeScales(count: usize, largest: f32): void {
  const inverse = f32x4.splat(1 / (largest / 31));
  for (let s: usize = 0; s < 4 * count; s += 16) {
    v128.store(scales + s, digitsOf(f32x4.mul(inverse, v128.load(scales + s)), 15));
  }
}
