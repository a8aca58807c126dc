/**
 * Searches for the scale of a block that leave the smallest squared error of its weighted values. Sums are
 * float32 in the order of the values, as in ggml; `fround` stands wherever C rounds to float32.
 */

const { abs, fround, max, min } = Math;

/** Blocks whose magnitudes stay below this are stored as zero. */
const negligible = fround(1e-15);

/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
const magic = 12582912;

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** ggml's nearest integer: exact up to 2^22, a fixed bit pattern of the argument beyond (0 for NaN). */
function nearest(value: number): number {
  float[0] = fround(value) + magic;
  return (bits[0]! & 0x7fffff) - 0x400000;
}

/** Inverse scales are tried in tenths of a level around the plain one, which comes first. */
const steps: readonly number[] = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/**
 * The scale on levels −bound…bound − 1.
 *
 * @param levels receives the levels plus `bound`, or zeros where all values are negligible
 */
export function searchScale(
  values: Float32Array,
  weights: Float32Array,
  bound: number,
  levels: Uint8Array,
): number {
  let extreme = 0;
  for (const x of values) if (abs(x) > abs(extreme)) extreme = x;
  if (abs(extreme) < negligible) {
    levels.fill(0);
    return 0;
  }
  const levelOf = (value: number): number => max(-bound, min(bound - 1, nearest(value)));
  let scale = 0;
  let best = 0;
  for (const step of steps) {
    const inverse = fround(-fround(bound + fround(fround(0.1) * step)) / extreme);
    let product = 0;
    let square = 0;
    for (const [j, x] of values.entries()) {
      const level = levelOf(inverse * x);
      const weight = weights[j]!;
      product = fround(product + fround(fround(weight * x) * level));
      square = fround(square + fround(fround(weight * level) * level));
    }
    const better = step === 0 || (square > 0 && fround(product * product) > fround(best * square));
    if (!better) continue;
    scale = square === 0 ? 0 : fround(product / square);
    best = fround(scale * product);
    for (const [j, x] of values.entries()) levels[j] = levelOf(inverse * x) + bound;
  }
  return scale;
}

/** Weighted squared error of levels under a scale and an offset. */
function errorOf(
  values: Float32Array,
  weights: Float32Array,
  levels: Uint8Array,
  scale: number,
  offset: number,
): number {
  let error = 0;
  for (const [j, x] of values.entries()) {
    const off = fround(fround(fround(scale * levels[j]!) + offset) - x);
    error = fround(error + fround(weights[j]! * fround(off * off)));
  }
  return error;
}

/**
 * Scale and offset (at most 0) on levels 0…top. First the range of the values is spread over the levels; each of
 * 37 trials then spreads the range above the best offset so far over between top − 0.9 and top + 0.9 levels, and
 * fits scale and offset to those levels by least squares. It wins if its error is smaller.
 *
 * @param levels receives the levels
 */
export function searchOffset(
  values: Float32Array,
  weights: Float32Array,
  top: number,
  levels: Uint8Array,
): { scale: number; offset: number } {
  let low = Infinity;
  let high = -Infinity;
  let sumW = 0;
  let sumX = 0;
  for (const [j, x] of values.entries()) {
    // Not Math.min: of two zeros the first gives the offset its sign.
    if (x < low) low = x;
    if (x > high) high = x;
    sumW = fround(sumW + weights[j]!);
    sumX = fround(sumX + fround(weights[j]! * x));
  }
  let offset = low > 0 ? 0 : low;
  if (high <= offset) {
    levels.fill(0);
    return { scale: 0, offset };
  }
  const spread = (inverse: number, to: Uint8Array): void => {
    for (const [j, x] of values.entries()) to[j] = max(0, min(top, nearest(inverse * fround(x - offset))));
  };
  const plain = fround(top / fround(high - offset));
  let scale = fround(1 / plain);
  spread(plain, levels);
  let best = errorOf(values, weights, levels, scale, offset);
  const tried = new Uint8Array(values.length);
  for (let step = 0; step <= 36; step++) {
    const numerator = fround(fround(fround(-0.9) + fround(fround(0.05) * step)) + top);
    spread(fround(numerator / fround(high - offset)), tried);
    let sumL = 0;
    let sumLL = 0;
    let sumLX = 0;
    for (const [j, x] of values.entries()) {
      const product = fround(weights[j]! * tried[j]!);
      sumL = fround(sumL + product);
      sumLL = fround(sumLL + fround(product * tried[j]!));
      sumLX = fround(sumLX + fround(product * x));
    }
    const determinant = fround(fround(sumW * sumLL) - fround(sumL * sumL));
    if (!(determinant > 0)) continue;
    let fittedScale = fround(fround(fround(sumW * sumLX) - fround(sumX * sumL)) / determinant);
    let fittedOffset = fround(fround(fround(sumLL * sumX) - fround(sumL * sumLX)) / determinant);
    if (fittedOffset > 0) {
      fittedOffset = 0;
      fittedScale = fround(sumLX / sumLL);
    }
    const error = errorOf(values, weights, tried, fittedScale, fittedOffset);
    if (!(error < best)) continue;
    best = error;
    scale = fittedScale;
    offset = fittedOffset;
    levels.set(tried);
  }
  return { scale, offset };
}
