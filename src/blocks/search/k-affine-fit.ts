/**
 * Trials of a sub-block of the affine types, which store scale · level − offset with an offset of at least 0.
 *
 * A trial gives every value a level and asks what the best scale and offset for these levels lose. That takes
 * three sums: weights are shares of 1 and values are taken from their weighted mean, so the best offset follows
 * from the scale, and an error is a few operations away. Every sum is float32 in the order of the values.
 */

const { fround, imul } = Math;

/** What is added to a float32 to leave its nearest integer, ties to even. */
const magic = 12582912;

/** Steps of an additive sequence that fills a square evenly, as fractions of 2^32. */
const firstStep = 3242174889;
const secondStep = 2447445414;

export function clamp(number: number, top: number): number {
  if (number > top) return top;
  return number < 0 ? 0 : number;
}

/** Nearest integer of a number within 2^22, ties to even. */
export function nearest(number: number): number {
  return fround(fround(number + magic) - magic);
}

/** Where the levels of a trial come from: the nearest integer of (value − mean) · inverse + shift. */
export interface Aim {
  readonly inverse: number;
  readonly shift: number;
}

/**
 * The least error that levels allow, and how it grows: by curvature · (scale − own scale)² and by the square of
 * what the offset is off (scale · level − pull).
 */
export interface Fit extends Aim {
  readonly error: number;
  readonly scale: number;
  readonly curvature: number;
  readonly level: number;
  readonly pull: number;
}

/** A sub-block, and the best that was found for it. */
export interface SubBlock {
  readonly values: Float32Array;
  /** Weights as shares of their sum. */
  readonly shares: Float32Array;
  readonly total: number;
  /** Weighted mean, and the values without it. */
  readonly mean: number;
  readonly centred: Float32Array;
  /** Weighted mean squares of the centred values and of the values. */
  readonly variance: number;
  readonly square: number;
  best: Fit;
}

/** A sub-block before any trial: no scale, and an aim that spreads its range, down from 0 at least, over the levels. */
export function placeSubBlock(values: Float32Array, weights: Float32Array, top: number): SubBlock {
  let total = 0;
  let sum = 0;
  let low = 0;
  let high = values[0]!;
  for (const [j, value] of values.entries()) {
    total = fround(total + weights[j]!);
    sum = fround(sum + fround(weights[j]! * value));
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const mean = fround(sum / total);
  const shares = weights.map((weight) => weight / total);
  const centred = values.map((value) => value - mean);
  let variance = 0;
  for (const [j, value] of centred.entries()) {
    variance = fround(variance + fround(fround(shares[j]! * value) * value));
  }
  const square = fround(variance + fround(mean * mean));
  const inverse = high > low ? fround(top / fround(high - low)) : 0;
  const shift = fround(fround(mean - low) * inverse);
  const error = mean > 0 ? square : variance;
  const best = { error, scale: 0, curvature: 0, level: 0, pull: mean, inverse, shift };
  return { values, shares, total, mean, centred, variance, square, best };
}

/** Levels of a trial and what they allow; undefined when they tell nothing of a scale. */
export function tryAim(subBlock: SubBlock, { inverse, shift }: Aim, top: number): Fit | undefined {
  const { shares, centred, mean } = subBlock;
  let sumL = 0;
  let sumLL = 0;
  let sumLX = 0;
  for (const [j, value] of centred.entries()) {
    const level = nearest(clamp(fround(fround(value * inverse) + shift), top));
    const product = fround(shares[j]! * level);
    sumL = fround(sumL + product);
    sumLL = fround(sumLL + fround(product * level));
    sumLX = fround(sumLX + fround(product * value));
  }
  const curvature = fround(sumLL - fround(sumL * sumL));
  if (!(curvature > 0 && sumLX > 0)) return undefined;
  const scale = fround(sumLX / curvature);
  if (fround(fround(scale * sumL) - mean) < 0) {
    // The offset stays at 0.
    const held = fround(sumLX + fround(sumL * mean));
    const heldScale = fround(held / sumLL);
    const heldInverse = fround(1 / heldScale);
    return {
      error: fround(subBlock.square - fround(heldScale * held)),
      scale: heldScale,
      curvature: sumLL,
      level: 0,
      pull: 0,
      inverse: heldInverse,
      shift: fround(mean * heldInverse),
    };
  }
  return {
    error: fround(subBlock.variance - fround(scale * sumLX)),
    scale,
    curvature,
    level: sumL,
    pull: mean,
    inverse: fround(1 / scale),
    shift: sumL,
  };
}

/**
 * An aim with both ends of the levels moved, each by up to `radius` levels up or down.
 *
 * @param index of the trial, for another place each
 */
export function moveAim(aim: Aim, index: number, radius: number, top: number): Aim {
  const unit = fround(radius * 2 ** -31);
  const low = fround(fround(imul(index, firstStep)) * unit);
  const high = fround(fround(imul(index, secondStep)) * unit);
  const stretch = fround(1 / fround(1 + fround(fround(low + high) / top)));
  return {
    inverse: fround(aim.inverse * stretch),
    shift: fround(fround(aim.shift + low) * stretch),
  };
}
