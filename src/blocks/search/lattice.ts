import { floatToHalf, halfToFloat } from "../floats.js";
import type { Encoder } from "../types.js";
import { nearest } from "../encode/nearest.js";
import { largestOf, readBlock, type Block } from "./lattice-block.js";
import type { PointKind } from "./lattice-kinds.js";
import type { Placer } from "./lattice-place.js";

// A sub-block that is placed at one scale has the error s²·B − 2·s·A at any other, beside a constant: with
// A = Σ w·|x|·g and B = Σ w·g². So a few trials a sub-block give a bound of its error at all scales, and with these
// the scale of the block and the codes of the sub-blocks are chosen together, before all groups are placed again at
// the scales that will be stored. What that gives joins the trials, the scale of the block is fitted anew, and so on.

const { fround, max, min } = Math;

/** Half of the least scale that is stored. */
const leastScale = 2 ** -25;

/** Bits of a half from here on are no finite scale. */
const infiniteHalf = 0x7c00;

/** Scales of the block that are tried. */
const candidates = 8;

/** What a placement of a sub-block comes to: 2·A and B. */
interface Trial {
  readonly double: number;
  readonly square: number;
}

/** A sub-block: what is known of it, and the best scale. */
interface SubBlock {
  readonly trials: Trial[];
  scale: number;
  gain: number;
}

/** What is stored of a block beside its signs. */
export interface Found {
  /** Bits of the scale, 0 where the whole block is zero. */
  readonly half: number;
  readonly codes: readonly number[];
  readonly points: readonly number[];
}

/** Takes a placement as a trial. Returns what it gains: the error that it saves at its own best scale. */
function take(sub: SubBlock, { product, square }: { product: number; square: number }): number {
  sub.trials.push({ double: fround(product + product), square });
  const scale = fround(max(product, 0) / square);
  const gain = fround(scale * product);
  if (scale > 0 && gain > sub.gain) {
    sub.gain = gain;
    sub.scale = scale;
  }
  return gain;
}

/**
 * Tries scales around the guess for a sub-block, further ones as long as it gets better beyond the last, and those
 * that spare a single large value.
 */
function searchScale(kind: PointKind, placer: Placer, block: Block, start: number): SubBlock {
  const sub: SubBlock = { trials: [], scale: 0, gain: 0 };
  const middle = block.guesses[start / kind.size]!;
  const tryScale = (scale: number): number =>
    take(sub, placer.place(block, start, max(scale, leastScale), true));
  const scaleAt = (offset: number): number => fround(middle * fround(1 + fround(kind.step * offset)));
  const tryAt = (offset: number): number => tryScale(scaleAt(offset));
  let best = -1;
  let side = 0;
  for (let offset = -kind.reach; offset <= kind.reach; offset++) {
    const gain = tryAt(offset);
    if (!(gain > best)) continue;
    best = gain;
    side = Math.abs(offset) === kind.reach ? Math.sign(offset) : 0;
  }
  for (let i = 1; side !== 0 && i <= kind.further; i++) {
    const gain = tryAt(side * (kind.reach + i));
    if (gain > best) best = gain;
    else side = 0;
  }
  const largest = largestOf(block.sizes.subarray(start, start + kind.size));
  for (const level of kind.reaches) {
    const scale = fround(largest / level);
    if (scale > scaleAt(kind.reach + 0.5)) tryScale(scale);
  }
  return sub;
}

/**
 * The error of a block at a scale of it, each sub-block with the code that bounds its error best of the nearest one
 * and its neighbours.
 */
function bound(
  { lastCode }: PointKind,
  subs: readonly SubBlock[],
  scale: number,
): { error: number; codes: number[] } {
  let sum = 0;
  const codes = subs.map((sub) => {
    const ratio = min(fround(sub.scale / scale), 64);
    const middle = max(0, min(lastCode, nearest(fround(0.5 * fround(ratio - 1)))));
    let least = Infinity;
    let chosen = middle;
    for (const side of [-1, 0, 1]) {
      const code = max(0, min(lastCode, middle + side));
      const own = fround(scale * (2 * code + 1));
      for (const { double, square } of sub.trials) {
        const error = fround(own * fround(fround(own * square) - double));
        if (error >= least) continue;
        least = error;
        chosen = code;
      }
    }
    sum = fround(sum + least);
    return chosen;
  });
  return { error: sum, codes };
}

/** The scale of the block with the least bound, before it is rounded to a half. 0 for a block of zeros. */
function chooseScale(kind: PointKind, subs: readonly SubBlock[]): number {
  const most = max(...subs.map(({ scale }) => scale));
  if (!(most >= leastScale)) return 0;
  let least = Infinity;
  let best = 0;
  // In the order of the kernel, which tries four at a time.
  for (let lane = 0; lane < 4; lane++) {
    for (let i = lane; i < candidates; i += 4) {
      const scale = fround(most * fround(1 / (kind.firstSteps + kind.stepsApart * i)));
      const { error } = bound(kind, subs, scale);
      if (error >= least) continue;
      least = error;
      best = scale;
    }
  }
  return best;
}

function searchBlock(kind: PointKind, placer: Placer, block: Block): Found {
  const starts = Array.from({ length: 256 / kind.size }, (_, s) => kind.size * s);
  const subs = starts.map((start) => searchScale(kind, placer, block, start));
  let found: Found = { half: 0, codes: [], points: [] };
  let least = 0;
  let half = floatToHalf(chooseScale(kind, subs));
  for (let round = 0; round < kind.rounds && half !== 0 && half < infiniteHalf; round++) {
    const scale = halfToFloat(half);
    const { codes } = bound(kind, subs, scale);
    const points: number[] = [];
    let error = 0;
    let above = 0;
    let below = 0;
    for (const [s, sub] of subs.entries()) {
      const steps = 2 * codes[s]! + 1;
      const own = fround(scale * steps);
      const placed = placer.place(block, starts[s]!, own, false);
      const { product, square } = placed;
      take(sub, placed);
      points.push(...placed.points);
      error = fround(error + fround(own * fround(fround(own * square) - fround(product + product))));
      above = fround(above + fround(product * steps));
      below = fround(below + fround(fround(square * steps) * steps));
    }
    if (error < least) {
      least = error;
      found = { half, codes, points };
    }
    if (!(above > 0)) break;
    const next = floatToHalf(fround(above / below));
    if (next === half) break;
    half = next;
  }
  return found;
}

/** Makes the encoder of a type: searches whole blocks and stores what is found. */
export function latticeSearch<Kind extends PointKind>(
  kind: Kind,
  makePlacer: (kind: Kind) => Placer,
): Encoder {
  return (values, out, importance) => {
    const placer = makePlacer(kind);
    for (let o = 0, at = 0; o < values.length; o += 256, at += kind.bytes) {
      const block = readBlock(kind, values.subarray(o, o + 256), importance?.subarray(o, o + 256));
      const found = searchBlock(kind, placer, block);
      const own = out.subarray(at, at + kind.bytes).fill(0);
      if (found.half !== 0) kind.store(own, found, block.signs);
    }
  };
}
