import { BlockError } from "../errors.js";
import { floatToHalf } from "../floats.js";
import { blockWeights } from "../search/importance.js";
import { inverseOf, levelOf, type ScaleSearch, searchScale } from "../search/scale.js";
import { searchEight } from "./eight.js";
import { exactFit } from "./exact.js";
import { nearestFit } from "./nearest.js";
import { packCodes } from "./pack.js";
import { levelsFrom, type PointSearch, searchPoint } from "./points.js";
import {
  checkNBits,
  type Fit,
  type NBitsMethod,
  nbitsRow,
  type NBitsTensors,
  type NBitsType,
  topOf,
} from "./types.js";

/** 4 bits: as Q4_0's. */
const sixteen: ScaleSearch = {
  lowest: -8,
  highest: 7,
  first: 0.75 * 8,
  near: 19,
  nearRatio: 1.03,
  far: 4,
  farRatio: 1.15,
  fine: 3,
  fineStep: 0.006,
  rounds: 3,
};

/** With an importance the best scale may suit the values that matter alone, and lie farther away. */
const sixteenWeighted: ScaleSearch = { ...sixteen, first: 5.025, near: 25, far: 8, fine: 6 };

/** 2 bits: as Q2_0's, with the other sign. */
const four: ScaleSearch = {
  lowest: -2,
  highest: 1,
  first: 1,
  near: 7,
  nearRatio: 1.32,
  far: 0,
  farRatio: 1,
  fine: 1,
  fineStep: 0.06,
  rounds: 2,
};

const sixteenPoints: PointSearch = {
  top: 15,
  first: 12,
  near: 19,
  nearRatio: 1.03,
  far: 4,
  farRatio: 1.15,
  fine: 3,
  fineStep: 0.006,
  rounds: 3,
};

const fourPoints: PointSearch = {
  top: 3,
  first: 2,
  near: 9,
  nearRatio: 1.25,
  far: 0,
  farRatio: 1,
  fine: 1,
  fineStep: 0.06,
  rounds: 2,
};

/** Scale and zero point of a block by the search. */
function searchFit(type: NBitsType, values: Float32Array, importance?: Float32Array): Fit {
  const exact = exactFit(type, values);
  if (exact !== undefined) return exact;
  const plain = nearestFit(type, values);
  const weights = blockWeights(values.length, importance);
  if (type.bits === 8) return searchEight(type, values, weights, importance !== undefined, plain);
  if (type.zeroPoints) {
    return searchPoint(type.bits === 4 ? sixteenPoints : fourPoints, values, weights, plain);
  }
  const ours = importance === undefined ? sixteen : sixteenWeighted;
  const scale = searchScale(type.bits === 4 ? ours : four, values, weights, plain.scale);
  return { scale, zero: plain.zero };
}

/**
 * Packs rows of finite values. This is the plain statement of both methods that the kernels are held to.
 *
 * Values up to 65504 in magnitude always have a scale; the kernels refuse larger ones.
 *
 * @param row values in a row; the last block of a row is filled up with zeros, which lose nothing
 * @param importance weight of each column of a row, finite and not negative; the method `nearest` has no use for it
 * @throws BlockError `bad-nbits`; `uneven-row` when the values are not whole rows or the importance is not one row
 */
export function encodeNBits(
  type: NBitsType,
  row: number,
  values: Float32Array,
  importance?: Float32Array,
  method: NBitsMethod = "search",
): NBitsTensors {
  const rows = values.length / row;
  if (!Number.isInteger(rows) || (importance !== undefined && importance.length !== row)) {
    throw new BlockError(
      "uneven-row",
      `${values.length} values with an importance of ${importance?.length ?? row} columns are not whole rows of ${row}`,
    );
  }
  checkNBits(type, row, rows);
  const { bits, block, zeroPoints } = type;
  const sizes = nbitsRow(type, row);
  const blocks = Math.ceil(row / block);
  const out = {
    codes: new Uint8Array(rows * sizes.codes),
    scales: new Uint8Array(rows * sizes.scales),
    zeroPoints: new Uint8Array(rows * sizes.zeroPoints),
  };
  const padded = new Float32Array(blocks * block);
  const weights = importance && new Float32Array(blocks * block);
  weights?.set(importance!);
  const codes = new Uint8Array(block);
  const points = new Uint8Array(blocks);
  for (let r = 0; r < rows; r++) {
    padded.set(values.subarray(r * row, (r + 1) * row));
    for (let b = 0; b < blocks; b++) {
      const own = padded.subarray(b * block, (b + 1) * block);
      const fit =
        method === "nearest"
          ? nearestFit(type, own)
          : searchFit(type, own, weights?.subarray(b * block, (b + 1) * block));
      const levels = levelsFrom(fit.zero, topOf(type));
      for (const [j, x] of own.entries()) codes[j] = levelOf(x * inverseOf(fit.scale), levels) + fit.zero;
      const at = r * blocks + b;
      packCodes(codes, bits, out.codes.subarray((at * block * bits) / 8, ((at + 1) * block * bits) / 8));
      // The sum makes one zero of two.
      const half = floatToHalf(fit.scale + 0);
      out.scales[2 * at] = half;
      out.scales[2 * at + 1] = half >>> 8;
      points[b] = fit.zero;
    }
    if (!zeroPoints) continue;
    packCodes(points, bits, out.zeroPoints.subarray(r * sizes.zeroPoints, (r + 1) * sizes.zeroPoints));
  }
  return out;
}
