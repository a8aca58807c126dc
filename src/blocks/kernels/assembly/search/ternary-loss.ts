// What stored blocks of IQ1_S (19) and IQ1_M (29) lose: Σ weight · (value − stored)². It is taken in float64, so that
// what seems to lose less than ggml's block does.

import { floatOf } from "../half";
import { levelsOf } from "../lattice/ternary-fit";
import { pointValues } from "../lattice/ternary-tables";

/** Σ terms of the last block, by the place of values in fours: first and second, third and fourth. */
let front: v128 = i64x2.splat(0);
let back: v128 = i64x2.splat(0);

/** Adds the loss of two values, as float64. */
// @ts-ignore: decorator
@inline function lossOfTwo(weight: v128, value: v128, stored: v128): v128 {
  const off = f64x2.sub(f64x2.promote_low_f32x4(value), f64x2.promote_low_f32x4(stored));
  return f64x2.mul(f64x2.mul(f64x2.promote_low_f32x4(weight), off), off);
}

/** Adds the loss of four values. */
// @ts-ignore: decorator
@inline function addFour(x: usize, weights: usize, stored: v128): void {
  const value = v128.load(x);
  const weight = weights === 0 ? f32x4.splat(1) : v128.load(weights);
  front = f64x2.add(front, lossOfTwo(weight, value, stored));
  back = f64x2.add(
    back,
    lossOfTwo(
      v128.shuffle<i64>(weight, weight, 1, 1),
      v128.shuffle<i64>(value, value, 1, 1),
      v128.shuffle<i64>(stored, stored, 1, 1),
    ),
  );
}

/** Adds the loss of a group. */
// @ts-ignore: decorator
@inline function addGroup(x: usize, weights: usize, point: i32, scale: f32, isDown: bool): void {
  const values = pointValues(point);
  const shift: f32 = isDown ? -0.125 : 0.125;
  addFour(x, weights, levelsOf(values, shift, scale));
  addFour(x + 16, weights === 0 ? 0 : weights + 16, levelsOf(values + 4, shift, scale));
}

// @ts-ignore: decorator
@inline function sum(): f64 {
  const both = f64x2.add(front, back);
  return f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1);
}

/** The loss of a block of IQ1_S. */
export function lossTogether(x: usize, weights: usize, block: usize): f64 {
  front = i64x2.splat(0);
  back = i64x2.splat(0);
  const scale = floatOf(load<u16>(block));
  for (let group: usize = 0; group < 32; group++) {
    const field = <i32>load<u16>(block + 2 * (group >> 2), 34);
    const point = <i32>load<u8>(block + group, 2) | (((field >> (3 * (<i32>group & 3))) & 7) << 8);
    const steps: f32 = <f32>((((field >> 12) & 7) << 1) + 1);
    addGroup(x + 32 * group, weights === 0 ? 0 : weights + 32 * group, point, scale * steps, field >> 15 !== 0);
  }
  return sum();
}

/** The loss of a block of IQ1_M. */
export function lossApart(x: usize, weights: usize, block: usize): f64 {
  front = i64x2.splat(0);
  back = i64x2.splat(0);
  let half = 0;
  for (let word = 0; word < 4; word++) half |= (<i32>load<u16>(block + 2 * word, 48) >> 12) << (4 * word);
  const scale = floatOf(half);
  for (let group: usize = 0; group < 32; group++) {
    const field = (<i32>load<u8>(block + (group >> 1), 32) >> (4 * (<i32>group & 1))) & 15;
    const point = <i32>load<u8>(block + group) | ((field & 7) << 8);
    const code = (<i32>load<u16>(block + 2 * (group >> 3), 48) >> (3 * (<i32>(group >> 1) & 3))) & 7;
    const steps: f32 = <f32>((code << 1) + 1);
    addGroup(x + 32 * group, weights === 0 ? 0 : weights + 32 * group, point, scale * steps, field > 7);
  }
  return sum();
}
