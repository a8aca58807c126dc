import { encode } from "../encode/encode.js";
import { encodeNBits } from "../nbits/encode.js";
import { middleOf } from "../nbits/types.js";
import { type Block, type Draft, roundBlock } from "./block.js";
import { descend, type Row } from "./descent.js";
import { type Grid, LANES, MAX_GROUPS } from "./grid.js";
import { laneParts, type Lanes } from "./lanes.js";
import { layoutOf } from "./layouts/layouts.js";
import { NBITS_HEADER } from "./layouts/nbits.js";
import { makeMetric, type Metric, solversOf } from "./metric.js";
import {
  blockOf,
  checkShape,
  type FeedbackInput,
  type FeedbackOutput,
  type FeedbackShape,
  type FeedbackTarget,
  reachOf,
} from "./problem.js";
import { type Engine, roundRows } from "./rows.js";
import { refitsOf, sweepsOf, trialsOf } from "./trials.js";

const { fround, max, min } = Math;

/** Encodes values by the search: `values.length` of them, as many blocks as that makes, with the same importances. */
function searchBlocks(target: FeedbackTarget, values: Float32Array, importance: Float32Array): Uint8Array {
  const { values: count, bytes } = blockOf(target);
  const blocks = values.length / count;
  if (typeof target === "string") {
    const tiled = new Float32Array(values.length);
    for (let b = 0; b < blocks; b++) tiled.set(importance, b * count);
    const out = new Uint8Array(blocks * bytes);
    encode(target, values, out, tiled, "search");
    return out;
  }
  const { scales, zeroPoints } = encodeNBits(target, count, values, importance, "search");
  const whole = NBITS_HEADER + bytes;
  const out = new Uint8Array(blocks * whole);
  for (let b = 0; b < blocks; b++) {
    out.set(scales.subarray(2 * b, 2 * b + 2), b * whole);
    out[b * whole + 2] = target.zeroPoints ? zeroPoints[b]! : middleOf(target);
  }
  return out;
}

/** The rounding in plain TypeScript, row by row: what the kernels are held to. */
class Reference implements Engine {
  readonly lanes: Lanes;
  readonly #metric: Metric;
  readonly #solvers: Float32Array;
  readonly #grid: Grid | undefined;
  /** What the rows before add to the targets of the four rows, and their targets. */
  readonly #added: Float32Array[];
  readonly #targets: Float32Array[];
  #first = 0;

  constructor(
    readonly target: FeedbackTarget,
    readonly shape: FeedbackShape,
    readonly input: FeedbackInput,
    readonly output: FeedbackOutput,
  ) {
    this.lanes = Object.fromEntries(
      Object.entries(laneParts).map(([name, length]) => [name, new Float32Array(length)]),
    ) as unknown as Lanes;
    this.#metric = makeMetric(shape.width, input.factor, input.pivots);
    this.#solvers = solversOf(shape.width, input.factor, input.pivots);
    this.#grid = layoutOf(target)?.grid;
    this.#added = Array.from({ length: LANES }, () => new Float32Array(shape.width));
    this.#targets = Array.from({ length: LANES }, () => new Float32Array(shape.width));
  }

  #row(matrix: Float32Array, row: number): Float32Array {
    return matrix.subarray(row * this.shape.width, (row + 1) * this.shape.width);
  }

  begin(first: number): void {
    this.#first = first;
    const { rows, rowFeedback } = this.shape;
    for (let lane = 0; lane < LANES; lane++) {
      const own = first + lane;
      const added = this.#added[lane]!;
      added.set(this.#row(this.input.added, own));
      for (let row = 0; row < (rowFeedback ? first : 0); row++) {
        const by = this.input.rowFactor[row * rows + own]!;
        for (const [j, error] of this.#row(this.output.errors, row).entries())
          added[j]! += fround(by * error);
      }
      const values = this.#row(this.input.values, own);
      const carried = this.#row(this.input.carried, own);
      this.#targets[lane]!.set(added.map((more, j) => fround(values[j]! + carried[j]!) + more));
    }
  }

  search(block: number): Uint8Array {
    const { values } = blockOf(this.target);
    const reach = reachOf(this.target);
    const all = new Float32Array(LANES * values);
    for (const [lane, targets] of this.#targets.entries()) {
      const own = targets.subarray(block * values, (block + 1) * values);
      all.set(
        own.map((x) => max(-reach, min(reach, x))),
        lane * values,
      );
    }
    return searchBlocks(this.target, all, this.input.pivots.subarray(block * values, (block + 1) * values));
  }

  round(block: number): void {
    const grid = this.#grid!;
    const from = block * grid.values;
    const groups = grid.values / grid.size;
    const trials = trialsOf(grid, this.shape.effort);
    for (let lane = 0; lane < LANES; lane++) {
      const own: Block = {
        from,
        values: this.#row(this.input.values, this.#first + lane).subarray(from, from + grid.values),
        targets: this.#targets[lane]!.subarray(from, from + grid.values),
      };
      const row = this.#takeLane(lane);
      const draft = roundBlock(grid, this.#metric, trials, refitsOf(grid, this.shape.effort), own, {
        scale: row.scales[block]!,
        offset: row.offsets[block]!,
        zero: row.zeros[block]!,
        scaleCodes: row.scaleCodes.subarray(block * groups, (block + 1) * groups),
        offsetCodes: row.offsetCodes.subarray(block * groups, (block + 1) * groups),
      });
      this.#putDraft(lane, block, draft);
    }
    this.take(block);
  }

  /** Adds what the errors of a block make to the targets of the columns behind it. */
  take(block: number): void {
    const { values: count } = blockOf(this.target);
    const { width } = this.shape;
    const end = (block + 1) * count;
    for (const [lane, targets] of this.#targets.entries()) {
      const values = this.#row(this.input.values, this.#first + lane);
      for (let j = block * count; j < end; j++) {
        const error = fround(values[j]! - this.lanes.stored[LANES * j + lane]!);
        for (let k = end; k < width; k++) targets[k]! += fround(error * this.input.factor[j * width + k]!);
      }
    }
  }

  end(first: number): void {
    const sweeps = this.#grid === undefined ? 0 : sweepsOf(this.shape.effort);
    for (let lane = 0; lane < LANES; lane++) {
      const row = this.#takeLane(lane);
      const { misses, loss } = this.#close(lane, row.stored);
      if (sweeps === 0) continue;
      descend(this.#grid!, this.#metric, this.#solvers, row, misses, sweeps);
      if (this.#close(lane, row.stored).loss < loss) this.#putRow(lane, row);
      else this.#close(lane, this.#takeLane(lane).stored);
    }
    for (let lane = 0; lane < LANES; lane++) {
      this.#row(this.output.stored, first + lane).set(this.#takeLane(lane).stored);
    }
  }

  /** Fills in E·A and the loss of a row for what is stored; returns V. */
  #close(lane: number, stored: Float32Array): { misses: Float32Array; loss: number } {
    const { width } = this.shape;
    const values = this.#row(this.input.values, this.#first + lane);
    const errors = this.#row(this.output.errors, this.#first + lane);
    errors.set(this.#row(this.input.carried, this.#first + lane));
    for (let k = 0; k < width; k++) {
      const error = fround(values[k]! - stored[k]!);
      for (let j = k; j < width; j++) errors[j]! += fround(error * this.input.factor[k * width + j]!);
    }
    const misses = errors.map((error, j) => error + this.#added[lane]![j]!);
    let loss = 0;
    for (const [j, miss] of misses.entries()) {
      loss = fround(loss + fround(fround(this.input.pivots[j]! * miss) * miss));
    }
    this.output.losses[this.#first + lane] = loss;
    return { misses, loss };
  }

  #takeLane(lane: number): Row {
    const { width } = this.shape;
    const part = (name: keyof Lanes, count: number): Float32Array =>
      Float32Array.from({ length: count }, (_, index) => this.lanes[name][LANES * index + lane]!);
    return {
      scales: part("scales", MAX_GROUPS),
      offsets: part("offsets", MAX_GROUPS),
      zeros: part("zeros", MAX_GROUPS),
      scaleCodes: part("scaleCodes", MAX_GROUPS),
      offsetCodes: part("offsetCodes", MAX_GROUPS),
      levels: part("levels", width),
      stored: part("stored", width),
    };
  }

  #put(name: keyof Lanes, lane: number, numbers: Float32Array, at: number): void {
    for (const [index, number] of numbers.entries()) this.lanes[name][LANES * (at + index) + lane] = number;
  }

  #putRow(lane: number, row: Row): void {
    for (const [name, numbers] of Object.entries(row) as [keyof Row, Float32Array][]) {
      this.#put(name, lane, numbers, 0);
    }
  }

  #putDraft(lane: number, block: number, draft: Draft): void {
    this.#put("scales", lane, Float32Array.of(draft.scale), block);
    this.#put("offsets", lane, Float32Array.of(draft.offset), block);
    this.#put("zeros", lane, Float32Array.of(draft.zero), block);
    const groups = draft.scaleCodes.length;
    this.#put("scaleCodes", lane, draft.scaleCodes, block * groups);
    this.#put("offsetCodes", lane, draft.offsetCodes, block * groups);
    this.#put("levels", lane, draft.levels, block * draft.levels.length);
    this.#put("stored", lane, draft.stored, block * draft.stored.length);
  }
}

/** Room for what a call makes. */
export function emptyOutput(target: FeedbackTarget, { rows, width }: FeedbackShape): FeedbackOutput {
  const { values, bytes } = blockOf(target);
  const blocks = rows * (width / values);
  const codes = typeof target !== "string";
  return {
    stored: new Float32Array(rows * width),
    errors: new Float32Array(rows * width),
    losses: new Float32Array(rows),
    blocks: new Uint8Array(blocks * bytes),
    scales: new Uint8Array(codes ? 2 * blocks : 0),
    zeroPoints: new Uint8Array(codes ? blocks : 0),
  };
}

/**
 * Rounds a chunk of rows of a panel with feedback: see `FeedbackInput`. This is the plain statement that
 * `FeedbackKernels` is held to.
 *
 * @throws BlockError `bad-panel`, `bad-nbits`
 */
export function roundWithFeedback(
  target: FeedbackTarget,
  shape: FeedbackShape,
  input: FeedbackInput,
): FeedbackOutput {
  checkShape(target, shape);
  const output = emptyOutput(target, shape);
  roundRows(target, shape, new Reference(target, shape, input, output), output);
  return output;
}
