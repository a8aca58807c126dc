// Q1_0: 128 values share their mean magnitude; a bit says whether a value is not negative.

import { halves } from "../half";
import { turn4 } from "../turn";
import { laneAt } from "./lanes";
import { bytesOf } from "./pack";

const VALUES: i32 = 128;
const BYTES: usize = 18;

const turned: usize = memory.data(64, 16);

/** Sums of the magnitudes of four blocks. */
// @ts-ignore: decorator
@inline function sums(lane0: usize, lane1: usize, lane2: usize, lane3: usize): v128 {
  let sum = i32x4.splat(0);
  for (let i: usize = 0; i < 4 * VALUES; i += 16) {
    turn4(
      f32x4.abs(v128.load(lane0 + i)),
      f32x4.abs(v128.load(lane1 + i)),
      f32x4.abs(v128.load(lane2 + i)),
      f32x4.abs(v128.load(lane3 + i)),
      turned,
      16,
    );
    sum = f32x4.add(sum, v128.load(turned));
    sum = f32x4.add(sum, v128.load(turned, 16));
    sum = f32x4.add(sum, v128.load(turned, 32));
    sum = f32x4.add(sum, v128.load(turned, 48));
  }
  return sum;
}

// @ts-ignore: decorator
@inline function notNegative(x: usize): v128 {
  return f32x4.ge(v128.load(x), i32x4.splat(0));
}

/** Writes a block with its scale's half. */
export function storeQ1_0(x: usize, half: i32, output: usize): void {
  store<u16>(output, half);
  for (let i: usize = 0; i < 16; i += 2) {
    const at = x + 32 * i;
    const bits = i8x16.bitmask(
      bytesOf(notNegative(at), notNegative(at + 16), notNegative(at + 32), notNegative(at + 48)),
    );
    store<u16>(output + i, bits, 2);
  }
}

export function q1_0(x: usize, output: usize, values: i32): void {
  for (let blocks = values / VALUES; blocks > 0; blocks -= 4) {
    const lane1 = laneAt(1, x, 4 * VALUES, blocks);
    const lane2 = laneAt(2, x, 4 * VALUES, blocks);
    const lane3 = laneAt(3, x, 4 * VALUES, blocks);
    const means = halves(f32x4.mul(sums(x, lane1, lane2, lane3), f32x4.splat(1.0 / 128)));
    storeQ1_0(x, i32x4.extract_lane(means, 0), output);
    if (blocks > 1) storeQ1_0(lane1, i32x4.extract_lane(means, 1), output + BYTES);
    if (blocks > 2) storeQ1_0(lane2, i32x4.extract_lane(means, 2), output + 2 * BYTES);
    if (blocks > 3) storeQ1_0(lane3, i32x4.extract_lane(means, 3), output + 3 * BYTES);
    x += 4 * 4 * VALUES;
    output += 4 * BYTES;
  }
}
