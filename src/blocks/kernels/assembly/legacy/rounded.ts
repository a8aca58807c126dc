// Q4_1, Q5_0 and Q5_1 without an importance: the scale follows from the range of the block, and values are rounded
// to the nearest level, half up.

import { halves } from "../half";
import { MAGIC } from "../rounding";
import { laneAt } from "./lanes";
import { bytesOf, MAGIC_BITS, packFifths, packNibbles } from "./pack";

const VALUES: i32 = 32;

/** Smallest and largest value of the blocks of the four lanes: which of two zeros is not said. */
let low: v128 = i32x4.splat(0);
let high: v128 = i32x4.splat(0);

/** For each lane: scale and offset as halves, inverse scale and offset. */
const headers: usize = memory.data(4 * 4, 16);
const inverses: usize = memory.data(4 * 4, 16);
const offsets: usize = memory.data(4 * 4, 16);

/** Smallest of eight vectors, lane by lane. */
// @ts-ignore: decorator
@inline function least(x: usize): v128 {
  const a = f32x4.pmin(v128.load(x), v128.load(x, 16));
  const b = f32x4.pmin(v128.load(x, 32), v128.load(x, 48));
  const c = f32x4.pmin(v128.load(x, 64), v128.load(x, 80));
  const d = f32x4.pmin(v128.load(x, 96), v128.load(x, 112));
  return f32x4.pmin(f32x4.pmin(a, b), f32x4.pmin(c, d));
}

// @ts-ignore: decorator
@inline function most(x: usize): v128 {
  const a = f32x4.pmax(v128.load(x), v128.load(x, 16));
  const b = f32x4.pmax(v128.load(x, 32), v128.load(x, 48));
  const c = f32x4.pmax(v128.load(x, 64), v128.load(x, 80));
  const d = f32x4.pmax(v128.load(x, 96), v128.load(x, 112));
  return f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d));
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
@inline function measure(x: usize, blocks: i32): void {
  const second = laneAt(1, x, 128, blocks);
  const third = laneAt(2, x, 128, blocks);
  const fourth = laneAt(3, x, 128, blocks);
  let a = least(x);
  let b = least(second);
  let c = least(third);
  let d = least(fourth);
  let ab = f32x4.pmin(zipLow(a, b), zipHigh(a, b));
  let cd = f32x4.pmin(zipLow(c, d), zipHigh(c, d));
  low = f32x4.pmin(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
  a = most(x);
  b = most(second);
  c = most(third);
  d = most(fourth);
  ab = f32x4.pmax(zipLow(a, b), zipHigh(a, b));
  cd = f32x4.pmax(zipLow(c, d), zipHigh(c, d));
  high = f32x4.pmax(v128.shuffle<i64>(ab, cd, 0, 2), v128.shuffle<i64>(ab, cd, 1, 3));
}

const firsts: usize = memory.data(4 * 4, 16);

/** Replaces a lane, where `sought` is set, by the first value of its block that has the same magnitude. */
function firstsOfSize(values: v128, sought: v128, x: usize, blocks: i32): v128 {
  v128.store(firsts, values);
  for (let bits = i32x4.bitmask(sought); bits != 0; bits &= bits - 1) {
    const k = ctz(bits);
    const lane = firsts + 4 * <usize>k;
    const size = abs(load<f32>(lane));
    let at = laneAt(k, x, 128, blocks);
    while (abs(load<f32>(at)) != size) at += 4;
    store<f32>(lane, load<f32>(at));
  }
  return v128.load(firsts);
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

/** Stores the block whose numbers lie `lane` bytes behind those of the first. */
// @ts-ignore: decorator
@inline function storeSymmetric(x: usize, lane: usize, output: usize): void {
  store<u16>(output, load<u16>(headers + lane));
  const inverse = v128.load32_splat(inverses + lane);
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
    measure(x, blocks);
    const other = f32x4.neg(low);
    let extreme = v128.bitselect(high, low, f32x4.gt(high, other));
    const both = f32x4.eq(high, other);
    if (v128.any_true(both)) {
      // In a block of zeros the scale is -0 whatever the sign of the first.
      const zero = f32x4.eq(high, i32x4.splat(0));
      extreme = v128.andnot(firstsOfSize(extreme, both, x, blocks), v128.and(both, zero));
    }
    const scales = f32x4.div(extreme, f32x4.splat(-16));
    v128.store(headers, halves(scales));
    v128.store(inverses, inversesOf(scales));
    for (let k = 0; k < min(4, blocks); k++) {
      storeSymmetric(x, 4 * <usize>k, output);
      x += 128;
      output += 22;
    }
  }
}

// @ts-ignore: decorator
@inline function storeAffine(x: usize, lane: usize, top: i32, output: usize): void {
  store<i32>(output, load<i32>(headers + lane));
  const inverse = v128.load32_splat(inverses + lane);
  const offset = v128.load32_splat(offsets + lane);
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
    measure(x, blocks);
    const scales = f32x4.div(f32x4.sub(high, low), f32x4.splat(<f32>top));
    // Of two zeros the first gives the offset its sign.
    const zero = f32x4.eq(low, i32x4.splat(0));
    const offset = v128.any_true(zero) ? firstsOfSize(low, zero, x, blocks) : low;
    v128.store(headers, v128.or(halves(scales), i32x4.shl(halves(offset), 16)));
    // An infinite inverse belongs to a scale that is a zero as a half: ggml on x86-64 stores zeros for its levels.
    const inverse = inversesOf(scales);
    v128.store(inverses, v128.andnot(inverse, f32x4.eq(inverse, f32x4.splat(Infinity))));
    v128.store(offsets, offset);
    for (let k = 0; k < min(4, blocks); k++) {
      storeAffine(x, 4 * <usize>k, top, output);
      x += 128;
      output += bytes;
    }
  }
}

export function q4_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, 15);
}

export function q5_1(x: usize, output: usize, values: i32): void {
  affine(x, output, values, 31);
}
