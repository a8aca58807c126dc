// The halves that suit the levels of a block best: see `fitOf` in `src/blocks/feedback/block.ts`.

import { influence } from "./gather";
import { hasOffset, pivotsAt, size, values } from "./state";

/** By how much scale and offset are to grow. */
export let fitScale: v128 = i32x4.splat(0);
export let fitOffset: v128 = i32x4.splat(0);

/** The parts of a block's values that its scale and its offset multiply. */
const scaleParts: usize = memory.data(4096, 16);
const offsetParts: usize = memory.data(4096, 16);

/** What V of the columns from the block on changes by with the scale and with the offset. */
export const byScale: usize = memory.data(4096, 16);
export const byOffset: usize = memory.data(4096, 16);

/** Takes a block's levels and codes. */
export function fitParts(levels: usize, scaleCodes: usize, offsetCodes: usize): void {
  for (let g: usize = 0; g < values / size; g++) {
    const scaleCode = v128.load(scaleCodes + 16 * g);
    const offsetCode = v128.load(offsetCodes + 16 * g);
    for (let at: usize = 16 * g * size; at < 16 * (g + 1) * size; at += 16) {
      v128.store(scaleParts + at, f32x4.mul(v128.load(levels + at), scaleCode));
      v128.store(offsetParts + at, offsetCode);
    }
  }
}

/** Fits scale and offset of the block at column `from` to V of the columns up to `to`. */
export function fit(from: usize, to: usize, misses: usize): void {
  influence(scaleParts, from, values, to, byScale);
  if (hasOffset) influence(offsetParts, from, values, to, byOffset);
  const none = i32x4.splat(0);
  let ss = none;
  let so = none;
  let oo = none;
  let sv = none;
  let ov = none;
  for (let j: usize = 0; j < to - from; j++) {
    const pivot = v128.load32_splat(pivotsAt + 4 * (from + j));
    const miss = v128.load(misses + 16 * j);
    const own = v128.load(byScale + 16 * j);
    const weighted = f32x4.mul(pivot, own);
    ss = f32x4.add(ss, f32x4.mul(weighted, own));
    sv = f32x4.add(sv, f32x4.mul(weighted, miss));
    if (!hasOffset) continue;
    const other = v128.load(byOffset + 16 * j);
    const weightedOther = f32x4.mul(pivot, other);
    so = f32x4.add(so, f32x4.mul(weighted, other));
    oo = f32x4.add(oo, f32x4.mul(weightedOther, other));
    ov = f32x4.add(ov, f32x4.mul(weightedOther, miss));
  }
  fitScale = v128.and(f32x4.div(sv, ss), f32x4.gt(ss, none));
  fitOffset = none;
  if (!hasOffset) return;
  const product = f32x4.mul(ss, oo);
  const determinant = f32x4.sub(product, f32x4.mul(so, so));
  const apart = f32x4.gt(determinant, f32x4.mul(product, f32x4.splat(1.0 / 4096)));
  const both = f32x4.div(f32x4.sub(f32x4.mul(sv, oo), f32x4.mul(ov, so)), determinant);
  const other = f32x4.div(f32x4.sub(f32x4.mul(sv, so), f32x4.mul(ov, ss)), determinant);
  fitScale = v128.bitselect(both, fitScale, apart);
  fitOffset = v128.and(other, apart);
}
