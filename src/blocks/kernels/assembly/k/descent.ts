// The scale of 16 values on levels -4…3 with errors weighted by x²: rounded levels, then changes of single
// levels while they help.
//
// Lanes are sub-blocks. Most sub-blocks keep their first levels: all of those whose extreme value is positive,
// as a level changes only where a sum of products is positive and there it is not, and most of the others. So
// every value is checked first against the first sums, which waits for nothing. Only sub-blocks where a level
// could change are walked value by value, sixteen at a time: one lane waits long for each division.

import { NEGLIGIBLE } from "../extreme";
import { turn, turnRows } from "../turn";

/** Most passes over the levels of a sub-block. */
const PASSES: i32 = 5;

/** Four groups of four sub-blocks, turned: value j of each, its square and its cube, 16 vectors of each. */
const turned: usize = memory.data(4 * 3 * 16 * 16, 16);
const SQUARES: usize = 16 * 16;
const CUBES: usize = 2 * 16 * 16;
const GROUP: usize = 3 * 16 * 16;
/** First levels of four sub-blocks, turned. */
const first: usize = memory.data(16 * 16, 16);
/** Σ x³·level and Σ x²·level² of the four groups. */
const sums: usize = memory.data(4 * 2 * 16, 16);

// Of each sub-block of a chunk:

/** its scale, */
export const scales: usize = memory.data(4 * 256, 16);
/** the inverse scale of its first levels, or 0 where all values are negligible, */
export const inverses: usize = memory.data(4 * 256, 16);
/** the sums for its first levels, */
const products: usize = memory.data(4 * 256, 16);
const squares: usize = memory.data(4 * 256, 16);
/** and where its last levels are, as float32 numbers 16 bytes apart: 0 when they are the first ones. */
const walked: usize = memory.data(4 * 256, 16);

/** Levels of all sub-blocks that were walked; lanes by sub-block. */
const levels: usize = memory.data(4 * 16 * 256, 16);
const bytes: usize = memory.data(16, 16);
/** Numbers of the sub-blocks to walk, and repetitions of the last one. */
const list: usize = memory.data(4 * (256 + 16), 16);

/** Squares and cubes of turned values. */
// @ts-ignore: decorator
@inline function powers(at: usize): void {
  const x = v128.load(at);
  const square = f32x4.mul(x, x);
  v128.store(at, square, SQUARES);
  v128.store(at, f32x4.mul(square, x), CUBES);
}

// @ts-ignore: decorator
@inline function squareFor(at: usize, level: v128): v128 {
  return f32x4.mul(f32x4.mul(v128.load(at, SQUARES), level), level);
}

/** The level that a value should have beside the sums of the others. */
// @ts-ignore: decorator
@inline function fitting(x: v128, product: v128, square: v128): v128 {
  const level = f32x4.div(f32x4.mul(x, square), product);
  return f32x4.nearest(f32x4.pmax(f32x4.pmin(level, f32x4.splat(3)), f32x4.splat(-4)));
}

/** Finds the first levels of sub-blocks `s` to `s + 3`; returns which of them have to be walked. */
// @ts-ignore: decorator
@inline function start(x: usize, s: usize): i32 {
  turnRows(x + 64 * s, 64, 16, turned);
  let extreme = i32x4.splat(0);
  let size = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * 16; at += 16) {
    powers(at);
    const value = v128.load(at);
    const magnitude = f32x4.abs(value);
    extreme = v128.bitselect(value, extreme, f32x4.gt(magnitude, size));
    size = f32x4.pmax(size, magnitude);
  }
  const nothing = f32x4.lt(size, f32x4.splat(NEGLIGIBLE));
  const inverse = f32x4.div(f32x4.splat(-4), v128.bitselect(f32x4.splat(1), extreme, nothing));
  let product = i32x4.splat(0);
  let square = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * 16; at += 16) {
    const level = f32x4.pmin(f32x4.nearest(f32x4.mul(inverse, v128.load(at))), f32x4.splat(3));
    v128.store(at - turned + first, level);
    product = f32x4.add(product, f32x4.mul(v128.load(at, CUBES), level));
    square = f32x4.add(square, squareFor(at, level));
  }
  let open = i32x4.splat(0);
  for (let at = turned; at < turned + 16 * 16; at += 16) {
    const level = v128.load(at - turned + first);
    const otherProduct = f32x4.sub(product, f32x4.mul(v128.load(at, CUBES), level));
    const otherSquare = f32x4.sub(square, squareFor(at, level));
    const better = f32x4.ne(fitting(v128.load(at), otherProduct, otherSquare), level);
    open = v128.or(open, v128.and(better, f32x4.gt(otherProduct, i32x4.splat(0))));
  }
  v128.store(products + 4 * s, product);
  v128.store(squares + 4 * s, square);
  v128.store(scales + 4 * s, v128.andnot(scaleOf(product, square), nothing));
  v128.store(inverses + 4 * s, v128.andnot(inverse, nothing));
  return i32x4.bitmask(v128.andnot(open, nothing));
}

// @ts-ignore: decorator
@inline function scaleOf(product: v128, square: v128): v128 {
  return v128.and(f32x4.div(product, square), f32x4.gt(square, i32x4.splat(0)));
}

/** Number `k` of the list. */
// @ts-ignore: decorator
@inline function listed(k: usize): usize {
  return load<u32>(list + 4 * k);
}

/** Numbers of four listed sub-blocks. */
// @ts-ignore: decorator
@inline function gather(from: usize, k: usize): v128 {
  let four = v128.load32_zero(from + 4 * listed(k));
  four = v128.load_lane<u32>(from + 4 * listed(k + 1), four, 1);
  four = v128.load_lane<u32>(from + 4 * listed(k + 2), four, 2);
  return v128.load_lane<u32>(from + 4 * listed(k + 3), four, 3);
}

/** Takes the listed sub-blocks `k` to `k + 3` into group `g`. */
// @ts-ignore: decorator
@inline function enter(x: usize, k: usize, g: usize): void {
  const to = turned + GROUP * g;
  turn(
    x + 64 * listed(k),
    x + 64 * listed(k + 1),
    x + 64 * listed(k + 2),
    x + 64 * listed(k + 3),
    16,
    to,
  );
  const inverse = gather(inverses, k);
  const own = levels + 64 * k;
  for (let j: usize = 0; j < 16 * 16; j += 16) {
    powers(to + j);
    const level = f32x4.nearest(f32x4.mul(inverse, v128.load(to + j)));
    v128.store(own + j, f32x4.pmin(level, f32x4.splat(3)));
  }
  v128.store(sums + 32 * g, gather(products, k));
  v128.store(sums + 32 * g, gather(squares, k), 16);
}

/** Gives one value of group `g` a better level; returns in which lanes there is one. */
// @ts-ignore: decorator
@inline function improve(j: usize, own: usize, g: usize): v128 {
  const at = turned + GROUP * g + j;
  const levelAt = own + 16 * 16 * g + j;
  const sumsAt = sums + 32 * g;
  const x = v128.load(at);
  const weight = v128.load(at, SQUARES);
  const cube = v128.load(at, CUBES);
  const level = v128.load(levelAt);
  const product = v128.load(sumsAt);
  const square = v128.load(sumsAt, 16);
  const otherProduct = f32x4.sub(product, f32x4.mul(cube, level));
  const otherSquare = f32x4.sub(square, f32x4.mul(f32x4.mul(weight, level), level));
  const next = fitting(x, otherProduct, otherSquare);
  const nextProduct = f32x4.add(otherProduct, f32x4.mul(cube, next));
  const nextSquare = f32x4.add(otherSquare, f32x4.mul(f32x4.mul(weight, next), next));
  const better = v128.and(
    v128.and(f32x4.gt(otherProduct, i32x4.splat(0)), f32x4.ne(next, level)),
    v128.and(
      f32x4.gt(nextSquare, i32x4.splat(0)),
      f32x4.gt(
        f32x4.mul(f32x4.mul(nextProduct, nextProduct), square),
        f32x4.mul(f32x4.mul(product, product), nextSquare),
      ),
    ),
  );
  v128.store(levelAt, v128.bitselect(next, level, better));
  v128.store(sumsAt, v128.bitselect(nextProduct, product, better));
  v128.store(sumsAt, v128.bitselect(nextSquare, square, better), 16);
  return better;
}

/** Keeps what group `g` came to. */
// @ts-ignore: decorator
@inline function leave(k: usize, g: usize): void {
  const scale = scaleOf(v128.load(sums + 32 * g), v128.load(sums + 32 * g, 16));
  v128.store(sums + 32 * g, scale);
  for (let lane: usize = 0; lane < 4; lane++) {
    const s = listed(k + lane);
    store<f32>(scales + 4 * s, load<f32>(sums + 32 * g + 4 * lane));
    store<u32>(walked + 4 * s, levels + 64 * k + 4 * lane);
  }
}

/** Walks the listed sub-blocks `k` to `k + 15`. */
function walk(x: usize, k: usize): void {
  for (let g: usize = 0; g < 4; g++) enter(x, k + 4 * g, g);
  const own = levels + 64 * k;
  for (let pass = 0; pass < PASSES; pass++) {
    let better = i32x4.splat(0);
    for (let j: usize = 0; j < 16 * 16; j += 16) {
      const ab = v128.or(improve(j, own, 0), improve(j, own, 1));
      better = v128.or(better, v128.or(ab, v128.or(improve(j, own, 2), improve(j, own, 3))));
    }
    // A lane without a change in a pass would have none in the next.
    if (!v128.any_true(better)) break;
  }
  for (let g: usize = 0; g < 4; g++) leave(k + 4 * g, g);
}

/** Finds the scales and levels of all sub-blocks of at most 4096 values. */
export function descend(x: usize, values: i32): void {
  const count = <usize>(values >> 4);
  let open: usize = 0;
  for (let s: usize = 0; s < count; s += 4) {
    v128.store(walked + 4 * s, i32x4.splat(0));
    const mask = start(x, s);
    for (let lane: usize = 0; lane < 4; lane++) {
      store<u32>(list + 4 * open, s + lane);
      open += <usize>((mask >> <i32>lane) & 1);
    }
  }
  if (open === 0) return;
  const last = listed(open - 1);
  for (let k = open; (k & 15) !== 0; k++) store<u32>(list + 4 * k, last);
  for (let k: usize = 0; k < open; k += 16) walk(x, k);
}

/** Levels of a sub-block as bytes with 4 added: `first` unless it was walked. */
// @ts-ignore: decorator
@inline export function changedLevels(s: usize, first: v128): v128 {
  const from = <usize>load<u32>(walked + 4 * s);
  if (from === 0) return first;
  for (let j: usize = 0; j < 16; j++) {
    store<i8>(bytes + j, <i32>load<f32>(from + 16 * j) + 4);
  }
  return v128.load(bytes);
}
