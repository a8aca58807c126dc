import { LANES, MAX_GROUPS, MAX_WIDTH } from "./grid.js";
import type { Fields } from "./layouts/layout.js";

/**
 * The four rows in work: their number k is at 4·index + k. Blocks and groups are numbered along the panel.
 */
export interface Lanes {
  /** Of blocks. */
  readonly scales: Float32Array;
  readonly offsets: Float32Array;
  readonly zeros: Float32Array;
  /** Of groups. */
  readonly scaleCodes: Float32Array;
  readonly offsetCodes: Float32Array;
  /** Of values. */
  readonly levels: Float32Array;
  readonly stored: Float32Array;
}

/** Floats of each part of the lanes, in the order of their names. */
export const laneParts: Readonly<Record<keyof Lanes, number>> = {
  scales: LANES * MAX_GROUPS,
  offsets: LANES * MAX_GROUPS,
  zeros: LANES * MAX_GROUPS,
  scaleCodes: LANES * MAX_GROUPS,
  offsetCodes: LANES * MAX_GROUPS,
  levels: LANES * MAX_WIDTH,
  stored: LANES * MAX_WIDTH,
};

/** A block's fields, to be filled. */
export function emptyFields(): Fields {
  return {
    scale: 0,
    offset: 0,
    zero: 0,
    scaleCodes: new Float32Array(MAX_GROUPS),
    offsetCodes: new Float32Array(MAX_GROUPS),
    levels: new Float32Array(MAX_WIDTH),
  };
}

/** Puts a block's scales, offsets and codes into a lane; `groups` is how many it has. */
export function toLane(fields: Fields, lanes: Lanes, lane: number, block: number, groups: number): void {
  lanes.scales[LANES * block + lane] = fields.scale;
  lanes.offsets[LANES * block + lane] = fields.offset;
  lanes.zeros[LANES * block + lane] = fields.zero;
  for (let g = 0; g < groups; g++) {
    const at = LANES * (block * groups + g) + lane;
    lanes.scaleCodes[at] = fields.scaleCodes[g]!;
    lanes.offsetCodes[at] = fields.offsetCodes[g]!;
  }
}

/** Takes a block with its levels out of a lane. */
export function fromLane(
  lanes: Lanes,
  lane: number,
  block: number,
  groups: number,
  values: number,
  fields: Fields,
): void {
  fields.scale = lanes.scales[LANES * block + lane]!;
  fields.offset = lanes.offsets[LANES * block + lane]!;
  fields.zero = lanes.zeros[LANES * block + lane]!;
  for (let g = 0; g < groups; g++) {
    const at = LANES * (block * groups + g) + lane;
    fields.scaleCodes[g] = lanes.scaleCodes[at]!;
    fields.offsetCodes[g] = lanes.offsetCodes[at]!;
  }
  for (let j = 0; j < values; j++) fields.levels[j] = lanes.levels[LANES * (block * values + j) + lane]!;
}
