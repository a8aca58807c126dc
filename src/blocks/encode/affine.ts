import { nearest } from "./nearest.js";

/**
 * Searches of the affine types, which store scale · level − minimum. Every sum is float32 in the order of the
 * values, as in ggml; `fround` stands wherever C rounds to float32.
 */

const { abs, fround, max, min } = Math;

/** How a sub-block is searched. */
export interface AffineSearch {
  /** Largest level. */
  readonly top: number;
  /** Numerators of the inverse scales that are tried; the denominator is the range of the values. */
  readonly numerators: readonly number[];
  /** Whether the error of a value counts as it is and not squared. */
  readonly absolute: boolean;
}

/** A search that spreads the range of the values over `top + first` levels, then over `step` more each time. */
export function affineSearch(
  top: number,
  trials: { first: number; step: number; steps: number },
  absolute = false,
): AffineSearch {
  const step = fround(trials.step);
  const numerators = Array.from({ length: trials.steps + 1 }, (_, t) =>
    fround(fround(fround(trials.first) + fround(step * t)) + top),
  );
  return { top, numerators, absolute };
}

/** Scale and minimum of a sub-block: a value is scale · level − minimum. Hardly ever is the scale negative. */
export interface AffineScale {
  readonly scale: number;
  readonly minimum: number;
}

/** Weighted error of levels under a scale and an offset. */
function errorOf(
  values: Float32Array,
  weights: Float32Array,
  levels: Uint8Array,
  scale: number,
  offset: number,
  absolute: boolean,
): number {
  let error = 0;
  for (let j = 0; j < values.length; j++) {
    const off = fround(fround(fround(scale * levels[j]!) + offset) - values[j]!);
    error = fround(error + fround(weights[j]! * (absolute ? abs(off) : fround(off * off))));
  }
  return error;
}

/**
 * Scale and minimum of one sub-block. The plain spread of the range over the levels comes first; each trial then
 * starts from the best offset so far and fits scale and offset to its levels by weighted least squares, with an
 * offset of at most 0. It wins if its error is smaller.
 *
 * @param levels receives the levels
 */
export function searchAffine(
  values: Float32Array,
  weights: Float32Array,
  { top, numerators, absolute }: AffineSearch,
  levels: Uint8Array,
): AffineScale {
  const count = values.length;
  let low = values[0]!;
  let high = low;
  let sumW = 0;
  let sumX = 0;
  for (let j = 0; j < count; j++) {
    // Not Math.min: of two zeros the first gives the minimum its sign.
    if (values[j]! < low) low = values[j]!;
    high = max(high, values[j]!);
    sumW = fround(sumW + weights[j]!);
    sumX = fround(sumX + fround(weights[j]! * values[j]!));
  }
  if (low > 0) low = 0;
  if (high <= low) {
    levels.fill(0);
    return { scale: 0, minimum: -low };
  }
  let offset = low;
  const spread = (inverse: number, to: Uint8Array): void => {
    for (let j = 0; j < count; j++) {
      to[j] = max(0, min(top, nearest(inverse * fround(values[j]! - offset))));
    }
  };
  const plain = fround(top / fround(high - low));
  let scale = fround(1 / plain);
  spread(plain, levels);
  let best = errorOf(values, weights, levels, scale, offset, absolute);
  const tried = new Uint8Array(count);
  for (const numerator of numerators) {
    spread(fround(numerator / fround(high - offset)), tried);
    let sumL = 0;
    let sumLL = 0;
    let sumLX = 0;
    for (let j = 0; j < count; j++) {
      const product = fround(weights[j]! * tried[j]!);
      sumL = fround(sumL + product);
      sumLL = fround(sumLL + fround(product * tried[j]!));
      sumLX = fround(sumLX + fround(product * values[j]!));
    }
    const determinant = fround(fround(sumW * sumLL) - fround(sumL * sumL));
    if (!(determinant > 0)) continue;
    let fittedScale = fround(fround(fround(sumW * sumLX) - fround(sumX * sumL)) / determinant);
    let fittedOffset = fround(fround(fround(sumLL * sumX) - fround(sumL * sumLX)) / determinant);
    if (fittedOffset > 0) {
      fittedOffset = 0;
      fittedScale = fround(sumLX / sumLL);
    }
    const error = errorOf(values, weights, tried, fittedScale, fittedOffset, absolute);
    if (!(error < best)) continue;
    best = error;
    scale = fittedScale;
    offset = fittedOffset;
    levels.set(tried);
  }
  return { scale, minimum: -offset };
}

/** Steps of the numerator around the largest level that `searchPositive` tries besides the largest level itself. */
const around: readonly number[] = [-4, -3, -2, -1, 1, 2, 3, 4];

/** Maximum below which numbers count as zero. */
const negligible = fround(1e-15);

/**
 * One scale for numbers that are hardly ever negative, on levels 0 to `top`: the best of nine by weighted squared
 * error, then up to five passes in which single levels change where that fits better.
 *
 * @param levels receives the levels; a negative number's wraps as in ggml's bytes
 */
export function searchPositive(
  values: Float32Array,
  weights: Float32Array,
  top: number,
  levels: Uint8Array,
): number {
  const high = values.reduce((a, b) => max(a, b), 0);
  if (high < negligible) {
    levels.fill(0);
    return 0;
  }
  const errorFor = (inverse: number, levelOf: (value: number) => number): number => {
    const scale = fround(1 / inverse);
    let error = 0;
    for (const [j, x] of values.entries()) {
      const off = fround(x - fround(scale * levelOf(fround(inverse * x))));
      error = fround(error + fround(fround(weights[j]! * off) * off));
    }
    return error;
  };
  let inverse = fround(top / high);
  let best = errorFor(inverse, (value) => nearest(value) & 255);
  for (const step of around) {
    const tried = fround(fround(fround(fround(0.1) * step) + top) / high);
    const error = errorFor(tried, (value) => min(top, nearest(value)));
    if (error < best) {
      best = error;
      inverse = tried;
    }
  }
  let sumLX = 0;
  let sumLL = 0;
  for (const [j, x] of values.entries()) {
    const level = min(top, nearest(inverse * x));
    levels[j] = level;
    sumLX = fround(sumLX + fround(fround(weights[j]! * x) * level));
    sumLL = fround(sumLL + fround(fround(weights[j]! * level) * level));
  }
  for (let pass = 0, changed = true; pass < 5 && changed; pass++) {
    changed = false;
    for (const [j, x] of values.entries()) {
      const weight = weights[j]!;
      const old = levels[j]!;
      let restLX = fround(sumLX - fround(fround(weight * x) * old));
      let restLL = fround(sumLL - fround(fround(weight * old) * old));
      if (!(restLX > 0 && restLL > 0)) continue;
      const level = min(top, nearest(fround(fround(x * restLL) / restLX)));
      if (level === old) continue;
      restLX = fround(restLX + fround(fround(weight * x) * level));
      restLL = fround(restLL + fround(fround(weight * level) * level));
      const gained = fround(fround(restLX * restLX) * sumLL);
      if (!(gained > fround(fround(sumLX * sumLX) * restLL))) continue;
      levels[j] = level;
      sumLX = restLX;
      sumLL = restLL;
      changed = true;
    }
  }
  return sumLL > 0 ? fround(sumLX / sumLL) : 0;
}
