import { decode } from "../decode/decode.js";
import type { BlockTypeName } from "../types.js";
import { LANES } from "./grid.js";
import { emptyFields, fromLane, type Lanes, toLane } from "./lanes.js";
import type { Layout } from "./layouts/layout.js";
import { layoutOf } from "./layouts/layouts.js";
import { NBITS_HEADER } from "./layouts/nbits.js";
import { blockOf, type FeedbackOutput, type FeedbackShape, type FeedbackTarget } from "./problem.js";

/** What rounds four rows at a time: the reference, or the kernels. */
export interface Engine {
  readonly lanes: Lanes;
  /** Begins four rows, from row `first` on. */
  begin(first: number): void;
  /** Encodes a block of each of the four by the search, for the values as feedback leaves them; one after another. */
  search(block: number): Uint8Array;
  /** Rounds a block, beginning with the scales that are in the lanes; everything about it is in the lanes then. */
  round(block: number): void;
  /** Takes the stored values of a block as they are in the lanes. */
  take(block: number): void;
  /** Ends the four rows: improves them where the effort says so, then fills in Q, E·A and losses. */
  end(first: number): void;
}

/** Block `index` of a row goes where its target keeps it. */
function place(
  target: FeedbackTarget,
  layout: Layout,
  block: Uint8Array,
  index: number,
  out: FeedbackOutput,
): void {
  if (typeof target === "string") {
    out.blocks.set(block, index * layout.bytes);
    return;
  }
  out.blocks.set(block.subarray(NBITS_HEADER), index * (layout.bytes - NBITS_HEADER));
  out.scales.set(block.subarray(0, 2), 2 * index);
  out.zeroPoints[index] = block[2]!;
}

/** Rounds all rows of a chunk. */
export function roundRows(
  target: FeedbackTarget,
  { rows, width }: FeedbackShape,
  engine: Engine,
  out: FeedbackOutput,
): void {
  const layout = layoutOf(target);
  const { values, bytes } = blockOf(target);
  const blocks = width / values;
  if (layout === undefined) {
    roundPoints(target as BlockTypeName, values, bytes, blocks, rows, engine, out);
    return;
  }
  const groups = values / layout.grid.size;
  const fields = emptyFields();
  const block = new Uint8Array(layout.bytes);
  for (let first = 0; first < rows; first += LANES) {
    engine.begin(first);
    for (let b = 0; b < blocks; b++) {
      const found = engine.search(b);
      for (let lane = 0; lane < LANES; lane++) {
        layout.read(found.subarray(lane * layout.bytes, (lane + 1) * layout.bytes), fields);
        toLane(fields, engine.lanes, lane, b, groups);
      }
      engine.round(b);
    }
    engine.end(first);
    for (let lane = 0; lane < LANES; lane++) {
      for (let b = 0; b < blocks; b++) {
        fromLane(engine.lanes, lane, b, groups, values, fields);
        layout.write(fields, block);
        place(target, layout, block, (first + lane) * blocks + b, out);
      }
    }
  }
}

/** Rounds all rows to a type whose groups are points of a lattice: blocks stay as the search finds them. */
function roundPoints(
  target: BlockTypeName,
  values: number,
  bytes: number,
  blocks: number,
  rows: number,
  engine: Engine,
  out: FeedbackOutput,
): void {
  const decoded = new Float32Array(values);
  for (let first = 0; first < rows; first += LANES) {
    engine.begin(first);
    for (let b = 0; b < blocks; b++) {
      const found = engine.search(b);
      for (let lane = 0; lane < LANES; lane++) {
        const block = found.subarray(lane * bytes, (lane + 1) * bytes);
        out.blocks.set(block, ((first + lane) * blocks + b) * bytes);
        decode(target, block, decoded);
        for (let j = 0; j < values; j++) engine.lanes.stored[LANES * (b * values + j) + lane] = decoded[j]!;
      }
      engine.take(b);
    }
    engine.end(first);
  }
}
