import { rowWeights, storeLevels, symmetric } from "../encode/legacy.js";
import { storeQ2_0, storeTQ1_0, storeTQ2_0 } from "../encode/ternary.js";
import type { Encoder } from "../types.js";
import { blockWeights } from "./importance.js";
import { inverseOf, levelOf, searchScale, type ScaleSearch } from "./scale.js";

/** Writes a block from its scale and levels, which are counted from the lowest. */
type Store = (levels: Uint8Array, d: number, out: Uint8Array, at: number) => void;

/**
 * @param weighted whether ggml's method heeds an importance: then its scale takes part
 */
function encoder(
  search: ScaleSearch,
  values: number,
  bytes: number,
  store: Store,
  weighted: boolean,
): Encoder {
  const fit = symmetric(-search.lowest);
  return (row, out, importance) => {
    const theirs = importance === undefined || !weighted ? undefined : rowWeights(row, importance);
    for (let o = 0, at = 0; o < row.length; o += values, at += bytes) {
      const block = row.subarray(o, o + values);
      const weights = blockWeights(values, importance?.subarray(o, o + values));
      const other = theirs && fit(block, theirs.subarray(o, o + values), new Uint8Array(values)).scale;
      const d = searchScale(search, block, weights, other);
      const levels = Uint8Array.from(block, (x) => levelOf(x * inverseOf(d), search) - search.lowest);
      store(levels, d, out, at);
    }
  };
}

/** Q4_0's: the best scale puts the largest value beyond the last level, seldom before it. */
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

/** Q5_0's: ggml's scales lie close together around the plain one, so these need not. */
const thirtyTwo: ScaleSearch = {
  ...sixteen,
  lowest: -16,
  highest: 15,
  first: 0.75 * 16,
  fine: 4,
};

/** Levels that most values lie within half of: the best scale may be far below the largest value. */
const trits: ScaleSearch = {
  lowest: -1,
  highest: 1,
  first: 0.7,
  near: 7,
  nearRatio: 1.35,
  far: 0,
  farRatio: 1,
  fine: 1,
  fineStep: 0.06,
  rounds: 2,
};

/** Q4_0: levels −8…7 for 32 values. */
export const searchQ4_0 = encoder(
  sixteen,
  32,
  18,
  (levels, d, out, at) =>
    storeLevels(levels, { scale: d, offset: 0 }, { offset: false, fifth: false }, out, at),
  true,
);

/** Q5_0: levels −16…15 for 32 values. */
export const searchQ5_0 = encoder(
  thirtyTwo,
  32,
  22,
  (levels, d, out, at) =>
    storeLevels(levels, { scale: d, offset: 0 }, { offset: false, fifth: true }, out, at),
  true,
);

/** Q2_0: levels −1…2 for 64 values. */
export const searchQ2_0 = encoder(
  { ...trits, highest: 2, first: 1, nearRatio: 1.32 },
  64,
  18,
  storeQ2_0,
  false,
);

/** TQ1_0: levels −1…1 for 256 values. */
export const searchTQ1_0 = encoder(trits, 256, 54, storeTQ1_0, false);

/** TQ2_0: levels −1…1 for 256 values. */
export const searchTQ2_0 = encoder(trits, 256, 66, storeTQ2_0, false);
