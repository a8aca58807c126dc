// Q4_1, Q5_0 and Q5_1 without an importance: the scale follows from the range of the block, and values are rounded
// to the nearest level, half up.

import { halves } from "../half";
import { lane0, lane1, lane2, lane3, pointLanes } from "./lanes";
import { bytesOf, MAGIC, MAGIC_BITS, packFifths, packNibbles } from "./pack";

const VALUES: i32 = 32;

/** Smallest and largest value of the blocks of the four lanes: which of two zeros is not said. */
let low: v128 = i32x4.splat(0);
let high: v128 = i32x4.splat(0);

/** For each lane: scale and offset as halves, inverse scale and offset. */
const headers: usize = memory.data(4 * 4, 16);
const inverses: usize = memory.data(4 * 4, 16);
const offsets: usize = memory.data(4 * 4, 16);

// @ts-ignore: decorator
@inline function least(x: usize): v128 {
  const a = f32x4.pmin(f32x4.pmin(v128.load(x), v128.load(x, 16)), f32x4.pmin(v128.load(x, 32), v128.load(x, 48)));
  const b = f32x4.pmin(f32x4.pmin(v128.load(x, 64), v128.load(x, 80)), f32x4.pmin(v128.load(x, 96), v128.load(x, 112)));
  return f32x4.pmin(a, b);
}

// @ts-ignore: decorator
@inline function most(x: usize): v128 {
  const a = f32x4.pmax(f32x4.pmax(v128.load(x), v128.load(x, 16)), f32x4.pmax(v128.load(x, 32), v128.load(x, 48)));
  const b = f32x4.pmax(f32x4.pmax(v128.load(x, 64), v128.load(x, 80)), f32x4.pmax(v128.load(x, 96), v128.load(x, 112)));
  return f32x4.pmax(a, b);
}

/** Lanes 0 and 1, or 2 and 3, of two vectors in turn. */
// @ts-ignore: decorator
@inline function zipLow(a: v128, b: v128): v128 {
  return v128.shuffle<i32>(a, b, 0, 4, 1, 5);
}

// @ts-ignore: decorator
@inline function zipHigh(a: v128, b: v128): v128 {
  return v128.shuffle<i32>(a, b, 2, 6, 3, 7);
}

// @ts-ignore: decorator
@inline function measure(): void {
  let a = least(lane0);
  let b = least(lane1);
  let c = least(lane2);
  let d = least(lane3);
  let ab = f32x4.pmin(zipLow(a, b), zipHigh(a, b));
  let cd = f32x4.pmin(zipLow(c, d), zipHigh(c, d));
  low = f32x4.pmin(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
  a = most(lane0);
  b = most(lane1);
  c = most(lane2);
  d = most(lane3);
  ab = f32x4.pmax(zipLow(a, b), zipHigh(a, b));
  cd = f32x4.pmax(zipLow(c, d), zipHigh(c, d));
  high = f32x4.pmax(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

/** The first of a block's values that has the magnitude of `value`, if `sought`; else `value` itself. */
// @ts-ignore: decorator
@inline function firstOfSize(x: usize, value: f32, sought: bool): f32 {
  if (!sought) return value;
  while (abs(load<f32>(x)) != abs(value)) x += 4;
  return load<f32>(x);
}

/** `firstOfSize` for the lanes where `sought` is set. */
function firstsOfSize(values: v128, sought: v128): v128 {
  const bits = i32x4.bitmask(sought);
  const a = firstOfSize(lane0, f32x4.extract_lane(values, 0), (bits & 1) != 0);
  const b = firstOfSize(lane1, f32x4.extract_lane(values, 1), (bits & 2) != 0);
  const c = firstOfSize(lane2, f32x4.extract_lane(values, 2), (bits & 4) != 0);
  const d = firstOfSize(lane3, f32x4.extract_lane(values, 3), (bits & 8) != 0);
  const ab = f32x4.replace_lane(f32x4.splat(a), 1, b);
  return f32x4.replace_lane(f32x4.replace_lane(ab, 2, c), 3, d);
}

/** Levels of four values, which are not negative before they are cut off. */
// @ts-ignore: decorator
@inline function levels4(x: v128, offset: v128, inverse: v128, top: i32): v128 {
  // The symmetric types have no offset, and their zero is in the middle.
  const level =
    top == 0
      ? f32x4.add(f32x4.mul(x, inverse), f32x4.splat(16.5))
      : f32x4.add(f32x4.mul(f32x4.sub(x, offset), inverse), f32x4.splat(0.5));
  return i32x4.sub(f32x4.add(f32x4.trunc(level), f32x4.splat(MAGIC)), i32x4.splat(MAGIC_BITS));
}

// @ts-ignore: decorator
@inline function levels16(x: usize, offset: v128, inverse: v128, top: i32): v128 {
  return bytesOf(
    levels4(v128.load(x), offset, inverse, top),
    levels4(v128.load(x, 16), offset, inverse, top),
    levels4(v128.load(x, 32), offset, inverse, top),
    levels4(v128.load(x, 48), offset, inverse, top),
  );
}

/** Inverses of scales, 0 for 0. */
// @ts-ignore: decorator
@inline function inversesOf(scales: v128): v128 {
  return v128.andnot(f32x4.div(f32x4.splat(1), scales), f32x4.eq(scales, i32x4.splat(0)));
}

// @ts-ignore: decorator
@inline function storeSymmetric(x: usize, lane: usize, output: usize): void {
  store<u16>(output, load<u16>(headers + 4 * lane));
  const inverse = v128.load32_splat(inverses + 4 * lane);
  // An infinite inverse belongs to a scale that is a zero as a half: ggml on x86-64 stores zeros for its levels.
  const keep = f32x4.lt(f32x4.abs(inverse), f32x4.splat(Infinity));
  const top = i8x16.splat(31);
  const first = i8x16.min_u(levels16(x, inverse, inverse, 0), top);
  const second = i8x16.min_u(levels16(x + 64, inverse, inverse, 0), top);
  packFifths(v128.and(first, keep), v128.and(second, keep), output + 2);
}

/** Q5_0: the first value of largest magnitude becomes level -16, whatever its sign. */
export function q5_0(x: usize, output: usize, values: i32): void {
  for (let blocks = values / VALUES; blocks > 0; blocks -= 4) {
    pointLanes(x, 128, blocks);
    measure();
    const other = f32x4.neg(low);
    let extreme = v128.bitselect(high, low, f32x4.gt(high, other));
    const both = f32x4.eq(high, other);
    if (v128.any_true(both)) {
      // In a block of zeros the scale is -0 whatever the sign of the first.
      const zero = f32x4.eq(high, i32x4.splat(0));
      extreme = v128.andnot(firstsOfSize(extreme, both), v128.and(both, zero));
    }
    const scales = f32x4.div(extreme, f32x4.splat(-16));
    v128.store(headers, halves(scales));
    v128.store(inverses, inversesOf(scales));
    storeSymmetric(lane0, 0, output);
    if (blocks > 1) storeSymmetric(lane1, 1, output + 22);
    if (blocks > 2) storeSymmetric(lane2, 2, output + 44);
    if (blocks > 3) storeSymmetric(lane3, 3, output + 66);
    x += 4 * 128;
    output += 4 * 22;
  }
}

// @ts-ignore: decorator
@inline function storeAffine(x: usize, lane: usize, top: i32, output: usize): void {
  store<i32>(output, load<i32>(headers + 4 * lane));
  const inverse = v128.load32_splat(inverses + 4 * lane);
  const offset = v128.load32_splat(offsets + 4 * lane);
  const first = levels16(x, offset, inverse, top);
  const second = levels16(x + 64, offset, inverse, top);
  if (top == 31) packFifths(first, second, output + 4);
  else packNibbles(first, second, output + 4);
}

/** Q4_1 and Q5_1: the smallest value becomes level 0, the largest the highest. */
// @ts-ignore: decorator
@inline function affine(x: usize, output: usize, values: i32, top: i32): void {
  const bytes: usize = top == 31 ? 24 : 20;
  for (let blocks = values / VALUES; blocks > 0; blocks -= 4) {
    pointLanes(x, 128, blocks);
    measure();
    const scales = f32x4.div(f32x4.sub(high, low), f32x4.splat(<f32>top));
    // Of two zeros the first gives the offset its sign.
    const zero = f32x4.eq(low, i32x4.splat(0));
    const offset = v128.any_true(zero) ? firstsOfSize(low, zero) : low;
    v128.store(headers, v128.or(halves(scales), i32x4.shl(halves(offset), 16)));
    // An infinite inverse belongs to a scale that is a zero as a half: ggml on x86-64 stores zeros for its levels.
    const inverse = inversesOf(scales);
    v128.store(inverses, v128.andnot(inverse, f32x4.eq(inverse, f32x4.splat(Infinity))));
    v128.store(offsets, offset);
    storeAffine(lane0, 0, top, output);
    if (blocks > 1) storeAffine(lane1, 1, top, output + bytes);
    if (blocks > 2) storeAffine(lane2, 2, top, output + 2 * bytes);
    if (blocks > 3) storeAffine(lane3, 3, top, output + 3 * bytes);
    x += 4 * 128;
    output += 4 * bytes;
  }
}

export function q4_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, 15);
}

export function q5_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, 31);
}
