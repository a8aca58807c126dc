import { storedScale } from "../search/scale.js";
import type { Grid } from "./grid.js";

const { fround, max, min } = Math;

/** Inverses of the least scales of MXFP4 have no float32. */
const largest = fround(3.4028234663852886e38);

/** Inverse of a scale; 0, which makes every level that nearest to the offset, for 0. */
export function inverseOf(scale: number): number {
  return scale === 0 ? 0 : min(largest, fround(1 / scale));
}

/** Nearest integer, ties to even, within 2^22. */
function nearest(value: number): number {
  return fround(fround(value + 12582912) - 12582912);
}

/** A group: value = scale · level − offset. */
export interface Group {
  readonly scale: number;
  readonly offset: number;
  readonly inverse: number;
  /** The offset in levels. */
  readonly shift: number;
  readonly lowest: number;
  readonly highest: number;
}

/** A group by the numbers that its type stores. */
export function groupOf(
  { levels, scales, zeroPoints }: Grid,
  scale: number,
  offset: number,
  zero: number,
  scaleCode: number,
  offsetCode: number,
): Group {
  const own = scales === undefined ? fround(scale * scaleCode) : scales[scaleCode]!;
  const below = fround(offset * offsetCode);
  const inverse = inverseOf(own);
  return {
    scale: own,
    offset: below,
    inverse,
    shift: fround(below * inverse),
    lowest: zeroPoints ? -zero : levels.lowest,
    highest: zeroPoints ? levels.highest - zero : levels.highest,
  };
}

/** Level of the value nearest to another one; half way between two of a codebook it is the upper one. */
export function levelOf(grid: Grid, group: Group, value: number): number {
  const units = fround(fround(value * group.inverse) + group.shift);
  const { codebook } = grid;
  if (codebook === undefined) return nearest(max(group.lowest, min(group.highest, units)));
  let level = codebook[0]!;
  for (let i = 1; i < codebook.length; i++) {
    if (units >= (codebook[i - 1]! + codebook[i]!) / 2) level = codebook[i]!;
  }
  return level;
}

export function valueOf({ scale, offset }: Group, level: number): number {
  return fround(fround(scale * level) - offset);
}

/** A scale of a block as a half stores it, within what the type allows. */
export function allowedScale({ leastScale }: Grid, scale: number): number {
  return storedScale(max(leastScale, fround(scale)));
}

/** An offset of a block as a half stores it, within what the type allows. */
export function allowedOffset({ offset }: Grid, value: number): number {
  return storedScale(max(offset?.least ?? 0, fround(value)));
}
