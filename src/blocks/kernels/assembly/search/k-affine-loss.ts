// What a fit of the affine types loses by the levels of its scale and offset: see `place` in
// `blocks/search/k-affine-steps.ts`. Lanes are fits, or steps that one fit is tried on.

import { clamp } from "./k-affine-lanes";

/** The two levels around a scale. */
// @ts-ignore: decorator
@inline export function levelBelow(scale: v128, inverseStep: v128, top: v128): v128 {
  return f32x4.floor(clamp(f32x4.mul(scale, inverseStep), top));
}

// @ts-ignore: decorator
@inline export function levelAbove(below: v128, top: v128): v128 {
  return f32x4.pmin(f32x4.add(below, f32x4.splat(1)), top);
}

/** What a level of the scale loses with the level of the offset that suits it. */
// @ts-ignore: decorator
@inline export function lossOf(
  scaleLevel: v128,
  scale: v128,
  curvature: v128,
  level: v128,
  pull: v128,
  scaleStep: v128,
  offsetStep: v128,
  offsetInverse: v128,
  top: v128,
): v128 {
  const stored = f32x4.mul(scaleStep, scaleLevel);
  const wanted = f32x4.sub(f32x4.mul(stored, level), pull);
  const offset = f32x4.nearest(clamp(f32x4.mul(wanted, offsetInverse), top));
  const offScale = f32x4.sub(stored, scale);
  const offOffset = f32x4.sub(wanted, f32x4.mul(offsetStep, offset));
  return f32x4.add(
    f32x4.mul(f32x4.mul(curvature, offScale), offScale),
    f32x4.mul(offOffset, offOffset),
  );
}
