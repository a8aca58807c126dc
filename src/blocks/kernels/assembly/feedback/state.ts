// What rounding with feedback works on: see `src/blocks/feedback`. Lane k of a vector belongs to the k-th of four rows.

/** Offsets within a state: of blocks, of groups and of values, a vector each. See `lanes.ts` in `src/blocks/feedback`. */
export const SCALES: usize = 0;
export const OFFSETS: usize = 256;
export const ZEROS: usize = 2 * 256;
export const SCALE_CODES: usize = 3 * 256;
export const OFFSET_CODES: usize = 4 * 256;
export const LEVELS: usize = 5 * 256;
export const STORED: usize = 5 * 256 + 4096;
export const STATE: usize = 5 * 256 + 2 * 4096;
/** Behind the state of a draft: V of its columns and its loss. */
export const MISSES: usize = STATE;
export const LOSS: usize = STATE + 4096;
export const DRAFT: usize = STATE + 4096 + 16;

/** The four rows: as they are stored, W, what other rows add to their targets, the targets and V. */
export const lanes: usize = memory.data(5 * 256 + 2 * 4096, 16);
export const values4: usize = memory.data(4096, 16);
export const added4: usize = memory.data(4096, 16);
export const targets4: usize = memory.data(4096, 16);
export const misses4: usize = memory.data(4096, 16);
export const errors4: usize = memory.data(4096, 16);

/** Numbers that `feedbackPrepare` reads; those of 4 bytes, then tables. */
export const settings: usize = memory.data(4 * 384, 16);
export const LEVEL_TABLE: usize = 4 * 32;
export const MIDPOINT_TABLE: usize = 4 * 48;
export const TRIAL_TABLE: usize = 4 * 64;
export const SCALE_TABLE: usize = 4 * 128;

export let rows: usize = 0;
export let width: usize = 0;
/** Values of a block and of a group. */
export let values: usize = 0;
export let size: usize = 0;

export let lowest: f32 = 0;
export let highest: f32 = 0;
/** How many levels the codebook has; 0 for levels that are whole numbers. */
export let levelCount: i32 = 0;
export let scaleCodes: bool = false;
export let lowestScaleCode: f32 = 0;
export let highestScaleCode: f32 = 0;
export let offsetCodes: bool = false;
export let lowestOffsetCode: f32 = 0;
export let highestOffsetCode: f32 = 0;
/** Whether the scales of groups are in a table. */
export let tabled: bool = false;
export let hasOffset: bool = false;
export let leastOffset: f32 = 0;
export let leastScale: f32 = 0;
export let zeroPoints: bool = false;
export let trials: i32 = 0;
export let refits: i32 = 0;
export let sweeps: i32 = 0;
export let rowFeedback: bool = false;

// @ts-ignore: decorator
@inline function setting(index: usize): f32 {
  return load<f32>(settings + 4 * index);
}

export function readSettings(): void {
  rows = <usize>setting(0);
  width = <usize>setting(1);
  values = <usize>setting(2);
  size = <usize>setting(3);
  lowest = setting(4);
  highest = setting(5);
  levelCount = <i32>setting(6);
  scaleCodes = setting(7) != 0;
  lowestScaleCode = setting(8);
  highestScaleCode = setting(9);
  offsetCodes = setting(10) != 0;
  lowestOffsetCode = setting(11);
  highestOffsetCode = setting(12);
  tabled = setting(13) != 0;
  hasOffset = setting(14) != 0;
  leastOffset = setting(15);
  leastScale = setting(16);
  zeroPoints = setting(17) != 0;
  trials = <i32>setting(18);
  refits = <i32>setting(19);
  sweeps = <i32>setting(20);
  rowFeedback = setting(21) != 0;
}

/** Where the matrices of a call are: see `FeedbackInput` and `FeedbackOutput`; A·D, and what `Metric` has of columns. */
export let valuesAt: usize = 0;
export let carriedAt: usize = 0;
export let addedAt: usize = 0;
export let factorAt: usize = 0;
export let pivotsAt: usize = 0;
export let rowFactorAt: usize = 0;
export let storedAt: usize = 0;
export let errorsAt: usize = 0;
export let lossesAt: usize = 0;
export let weightedAt: usize = 0;
export let inversesAt: usize = 0;
export let curvaturesAt: usize = 0;
export let eightsAt: usize = 0;

/** Matrices lie one after another, each of `MATRIX` bytes; then vectors of `VECTOR` bytes. */
const MATRIX: usize = 4 * 256 * 256;
const VECTOR: usize = 4 * 256;

export function placeRegions(at: usize): void {
  valuesAt = at;
  carriedAt = at + MATRIX;
  addedAt = at + 2 * MATRIX;
  factorAt = at + 3 * MATRIX;
  rowFactorAt = at + 4 * MATRIX;
  storedAt = at + 5 * MATRIX;
  errorsAt = at + 6 * MATRIX;
  weightedAt = at + 7 * MATRIX;
  pivotsAt = at + 8 * MATRIX;
  lossesAt = pivotsAt + VECTOR;
  inversesAt = lossesAt + VECTOR;
  curvaturesAt = inversesAt + VECTOR;
  eightsAt = curvaturesAt + VECTOR;
}
