/**
 * Blocks that a type holds exactly: all values are whole multiples of one half, as in checkpoints that were trained
 * for a few bits. All steps are exact for such values; of others they say quickly that they are none.
 */
import { negligible, inverseOf, levelOf, storedScale } from "../search/scale.js";
import { type Fit, middleOf, type NBitsType, topOf } from "./types.js";

const { abs, fround, max, min, trunc } = Math;

/** Greatest common divisor by Euclid's steps; undefined once something is left that is less than `least`. */
function commonDivisor(a: number, b: number, least: number): number | undefined {
  while (b !== 0) {
    const rest = fround(a - fround(trunc(fround(a / b)) * b));
    if (rest !== 0 && !(rest >= least)) return undefined;
    a = b;
    b = rest;
  }
  return a;
}

/** The scale and zero point under which nothing of a block is lost, if there are any. */
export function exactFit(type: NBitsType, values: Float32Array): Fit | undefined {
  const top = topOf(type);
  const middle = middleOf(type);
  const low = min(0, ...values);
  const high = max(0, ...values);
  const most = max(-low, high);
  if (most <= negligible) return undefined;
  const steps = type.zeroPoints ? top : middle;
  const least = fround(most / (steps + 0.5));
  let unit: number | undefined = most;
  for (const x of values) {
    unit = commonDivisor(abs(x), unit, least);
    if (unit === undefined) return undefined;
  }
  // The values may be multiples of a multiple of the scale, which no half holds.
  for (let part = 1; fround(part * fround(most / unit)) <= steps; part++) {
    const scale = storedScale(fround(unit / part));
    if (fround(scale * part) !== unit) continue;
    return holding(type, values, scale, low, high);
  }
  return undefined;
}

/** A scale with the zero point that suits the range of the values, if it loses nothing. */
function holding(
  type: NBitsType,
  values: Float32Array,
  size: number,
  low: number,
  high: number,
): Fit | undefined {
  const top = topOf(type);
  const middle = middleOf(type);
  const upside = !type.zeroPoints && high > fround(size * (middle - 1));
  const scale = upside ? -size : size;
  const inverse = inverseOf(scale);
  const zero = type.zeroPoints ? levelOf(fround(-low) * inverse, { lowest: 0, highest: top }) : middle;
  const levels = { lowest: -zero, highest: top - zero };
  for (const x of values) {
    if (fround(scale * levelOf(x * inverse, levels)) !== x) return undefined;
  }
  return { scale, zero };
}
