import { BlockError } from "../errors.js";
import { type Grid, MAX_ROWS, MAX_WIDTH } from "../feedback/grid.js";
import { laneParts, type Lanes } from "../feedback/lanes.js";
import { layoutOf } from "../feedback/layouts/layouts.js";
import { NBITS_HEADER } from "../feedback/layouts/nbits.js";
import {
  blockOf,
  checkShape,
  type FeedbackInput,
  type FeedbackOutput,
  type FeedbackShape,
  type FeedbackTarget,
  nameOf,
  reachOf,
} from "../feedback/problem.js";
import { solversOf } from "../feedback/metric.js";
import type { Lattice } from "../feedback/points.js";
import { type Engine, roundRows } from "../feedback/rows.js";
import { refitsOf, sweepsOf, trialsOf } from "../feedback/trials.js";
import { middleOf } from "../nbits/types.js";
import { searchers } from "../search/search.js";
import { blockType } from "../table.js";
import type { BlockTypeName } from "../types.js";
import { placeTables, type TableMaker, tablesOf } from "./tables.js";

/** What the compiled module exports (assembly/index.ts). */
interface Exports extends TableMaker {
  base(): number;
  feedbackLanes(): number;
  feedbackSettings(): number;
  feedbackTables(): number;
  feedbackPrepare(regions: number): void;
  feedbackBegin(first: number): void;
  feedbackSearch(target: number, block: number, reach: number, output: number): void;
  feedbackSearchNBits(
    bits: number,
    zeroPoints: number,
    block: number,
    reach: number,
    codes: number,
    scales: number,
    zeros: number,
  ): void;
  feedbackRound(block: number): void;
  feedbackTake(block: number): void;
  feedbackEnd(first: number): void;
}

/** Regions of the memory, as `placeRegions` in assembly/feedback/state.ts has them: matrices, then vectors. */
const MATRIX = 4 * MAX_ROWS * MAX_WIDTH;
const VECTOR = 4 * MAX_WIDTH;
const matrices = [
  "values",
  "carried",
  "added",
  "factor",
  "rowFactor",
  "stored",
  "errors",
  "weighted",
] as const;
const vectors = ["pivots", "losses", "inverses", "curvatures", "eights"] as const;
const REGIONS = matrices.length * MATRIX + vectors.length * VECTOR;

/** Four blocks, which a search of codes writes behind four scales and zero points, and what it may touch behind. */
const SCALES = 0;
const ZEROS = 64;
const BLOCKS = 128;
const FOUND = BLOCKS + 4 * 1024 + 128;

const PAGE = 65_536;

/** Floats of the settings, and where their tables begin: see assembly/feedback/state.ts. */
const SETTINGS = 384;
const LEVEL_TABLE = 32;
const MIDPOINT_TABLE = 48;
const TRIAL_TABLE = 64;
const SCALE_TABLE = 128;

/** Bytes of a vector, and where the tables of points have their digits and the solvers. */
const VECTOR_BYTES = 16;
const POINT_DIGITS = 4 * 2048;
const SOLVERS = POINT_DIGITS + 8 * 2048;

/** Bytes of codes that a chunk takes at most: one a value, and the scales of Q8_0. */
const MOST_BYTES = (MAX_ROWS * MAX_WIDTH * 34) / 32;

/** A call that was opened. */
interface Call {
  readonly target: FeedbackTarget;
  readonly shape: FeedbackShape;
}

/**
 * Rounding with feedback in SIMD, with a memory of its own: `open` gives the regions that the caller fills, `round`
 * rounds what they hold. Byte for byte `roundWithFeedback` in `src/blocks/feedback`. One instance serves one thread.
 */
export class FeedbackKernels {
  readonly #exports: Exports;
  readonly #regionsAt: number;
  readonly #foundAt: number;
  readonly #prepared = new Set<BlockTypeName>();
  readonly #blocks = new Uint8Array(MOST_BYTES);
  readonly #scales = new Uint8Array((2 * MAX_ROWS * MAX_WIDTH) / 16);
  readonly #zeroPoints = new Uint8Array((MAX_ROWS * MAX_WIDTH) / 16);
  #call: Call | undefined;

  /** @param module from `compileKernels` */
  constructor(module: WebAssembly.Module) {
    this.#exports = new WebAssembly.Instance(module).exports as unknown as Exports;
    this.#regionsAt = Math.ceil(this.#exports.base() / 64) * 64;
    this.#foundAt = this.#regionsAt + REGIONS;
    const { memory } = this.#exports;
    const bytes = this.#foundAt + FOUND - memory.buffer.byteLength;
    if (bytes > 0) memory.grow(Math.ceil(bytes / PAGE));
  }

  /** Whether there is a search for a target, which is where rounding with feedback begins. */
  static supports(target: FeedbackTarget): boolean {
    return typeof target !== "string" || searchers.has(target);
  }

  /**
   * Opens a call; returns where its input goes. What a region held before is still there when its rows or columns are
   * as many as then, so that a factor can serve one chunk of rows after another.
   *
   * @returns views that are valid until a call of another target is opened
   * @throws BlockError `not-encodable`, `bad-panel` or `bad-nbits`
   */
  open(target: FeedbackTarget, shape: FeedbackShape): FeedbackInput {
    if (!FeedbackKernels.supports(target)) {
      throw new BlockError("not-encodable", `values cannot be rounded to ${nameOf(target)} with feedback`, {
        advice: `There is feedback for ${[...searchers.keys()].join(", ")}, and for codes of 2, 4 and 8 bits.`,
      });
    }
    checkShape(target, shape);
    if (typeof target === "string") this.#prepare(target);
    this.#call = { target, shape };
    const { rows, width } = shape;
    return {
      values: this.#region("values", rows * width),
      carried: this.#region("carried", rows * width),
      added: this.#region("added", rows * width),
      factor: this.#region("factor", width * width),
      pivots: this.#region("pivots", width),
      rowFactor: this.#region("rowFactor", rows * rows),
    };
  }

  /**
   * Rounds what was opened.
   *
   * @returns views that are valid until the next call
   * @throws BlockError `not-opened`; `non-finite` when a row's loss is no finite number: then some of the input is not
   */
  round(): FeedbackOutput {
    const call = this.#call;
    if (call === undefined) {
      throw new BlockError("not-opened", "there is nothing to round: open was not called");
    }
    const { target, shape } = call;
    const { rows, width } = shape;
    const { values, bytes } = blockOf(target);
    const blocks = rows * (width / values);
    const codes = typeof target !== "string";
    const out: FeedbackOutput = {
      stored: this.#region("stored", rows * width),
      errors: this.#region("errors", rows * width),
      losses: this.#region("losses", rows),
      blocks: this.#blocks.subarray(0, blocks * bytes),
      scales: this.#scales.subarray(0, codes ? 2 * blocks : 0),
      zeroPoints: this.#zeroPoints.subarray(0, codes ? blocks : 0),
    };
    this.#set(call);
    roundRows(target, shape, this.#engine(call), out);
    const bad = out.losses.findIndex((loss) => !Number.isFinite(loss));
    if (bad >= 0) {
      throw new BlockError(
        "non-finite",
        `the loss of row ${bad} rounded to ${nameOf(target)} is ${out.losses[bad]}: its values or the moments are not finite`,
      );
    }
    return out;
  }

  #engine({ target }: Call): Engine {
    const exports = this.#exports;
    const search =
      typeof target === "string" ? this.#searchType(target) : this.#searchCodes(target, reachOf(target));
    return {
      lanes: this.#lanes(),
      begin: (first) => exports.feedbackBegin(first),
      search,
      round: (block) => exports.feedbackRound(block),
      take: (block) => exports.feedbackTake(block),
      end: (first) => exports.feedbackEnd(first),
    };
  }

  #searchType(target: BlockTypeName): (block: number) => Uint8Array {
    const { id, bytes } = blockType(target);
    const reach = reachOf(target);
    const at = this.#foundAt + BLOCKS;
    const found = new Uint8Array(this.#exports.memory.buffer, at, 4 * bytes);
    return (block) => {
      this.#exports.feedbackSearch(id, block, reach, at);
      return found;
    };
  }

  #searchCodes(target: Exclude<FeedbackTarget, string>, reach: number): (block: number) => Uint8Array {
    const { bits, zeroPoints } = target;
    const whole = NBITS_HEADER + blockOf(target).bytes;
    const all = new Uint8Array(4 * whole);
    const at = this.#foundAt;
    const found = new Uint8Array(this.#exports.memory.buffer, at, BLOCKS);
    return (block) => {
      this.#exports.feedbackSearchNBits(
        bits,
        zeroPoints ? 1 : 0,
        block,
        reach,
        at + BLOCKS,
        at + SCALES,
        at + ZEROS,
      );
      for (let lane = 0; lane < 4; lane++) {
        all[lane * whole] = found[SCALES + 2 * lane]!;
        all[lane * whole + 1] = found[SCALES + 2 * lane + 1]!;
        all[lane * whole + 2] = zeroPoints ? found[ZEROS + lane]! : middleOf(target);
      }
      return all;
    };
  }

  #region(name: (typeof matrices)[number] | (typeof vectors)[number], length: number): Float32Array {
    const matrix = matrices.indexOf(name as (typeof matrices)[number]);
    const vector = vectors.indexOf(name as (typeof vectors)[number]);
    const offset = matrix < 0 ? matrices.length * MATRIX + vector * VECTOR : matrix * MATRIX;
    return new Float32Array(this.#exports.memory.buffer, this.#regionsAt + offset, length);
  }

  #lanes(): Lanes {
    let at = this.#exports.feedbackLanes();
    const lanes: Partial<Record<keyof Lanes, Float32Array>> = {};
    for (const [name, length] of Object.entries(laneParts) as [keyof Lanes, number][]) {
      lanes[name] = new Float32Array(this.#exports.memory.buffer, at, length);
      at += 4 * length;
    }
    return lanes as Lanes;
  }

  /** Writes the settings that the module reads. */
  #set({ target, shape }: Call): void {
    const { buffer } = this.#exports.memory;
    const settings = new Float32Array(buffer, this.#exports.feedbackSettings(), SETTINGS).fill(0);
    const grid = layoutOf(target)?.grid;
    settings.set([shape.rows, shape.width, blockOf(target).values, grid?.size ?? blockOf(target).values]);
    settings[21] = shape.rowFeedback ? 1 : 0;
    if (grid !== undefined) setGrid(settings, grid, shape);
    if (grid?.points !== undefined) {
      setPoints(settings, grid.points);
      this.#setTables(grid.points, shape);
    }
    this.#exports.feedbackPrepare(this.#regionsAt);
  }

  /** Writes the points of a lattice, and what moves them: see assembly/feedback/points.ts. */
  #setTables({ low, high, digits }: Lattice, { width, effort }: FeedbackShape): void {
    const at = this.#exports.feedbackTables();
    const { buffer } = this.#exports.memory;
    const halves = new Uint16Array(buffer, at, 2 * low.length);
    for (let p = 0; p < low.length; p++) {
      halves[2 * p] = VECTOR_BYTES * low[p]!;
      halves[2 * p + 1] = VECTOR_BYTES * high[p]!;
    }
    new Uint8Array(buffer, at + POINT_DIGITS, digits.length).set(digits);
    if (sweepsOf(effort) === 0) return;
    const solvers = solversOf(width, this.#region("factor", width * width), this.#region("pivots", width));
    new Float32Array(buffer, at + SOLVERS, solvers.length).set(solvers);
  }

  /** Makes the tables of a type that is searched on a lattice, once. */
  #prepare(target: BlockTypeName): void {
    if (tablesOf(target) === undefined || this.#prepared.has(target)) return;
    const { memory } = this.#exports;
    const bytes = this.#exports.tableBytes(blockType(target).id);
    placeTables(this.#exports, target, memory.grow(Math.ceil(bytes / PAGE)) * PAGE);
    this.#prepared.add(target);
  }
}

/** Writes what distinguishes a grid, and what the effort does. */
function setGrid(settings: Float32Array, grid: Grid, { effort }: FeedbackShape): void {
  const { levels, codebook, scaleCodes, offsetCodes, scales, offset, leastScale, zeroPoints } = grid;
  const trials = trialsOf(grid, effort);
  settings.set(
    [
      levels.lowest,
      levels.highest,
      codebook?.length ?? 0,
      scaleCodes === undefined ? 0 : 1,
      scaleCodes?.lowest ?? 0,
      scaleCodes?.highest ?? 0,
      offsetCodes === undefined ? 0 : 1,
      offsetCodes?.lowest ?? 0,
      offsetCodes?.highest ?? 0,
      scales === undefined ? 0 : 1,
      offset === undefined ? 0 : 1,
      offset?.least ?? 0,
      leastScale,
      zeroPoints ? 1 : 0,
      trials.length,
      refitsOf(grid, effort),
      sweepsOf(effort),
    ],
    4,
  );
  for (const [i, level] of (codebook ?? []).entries()) {
    settings[LEVEL_TABLE + i] = level;
    settings[MIDPOINT_TABLE + i] = ((codebook?.[i - 1] ?? level) + level) / 2;
  }
  for (const [i, trial] of trials.entries()) {
    settings.set([trial.scale, trial.offset, trial.zero, 1 + trial.scale], TRIAL_TABLE + 4 * i);
  }
  if (scales !== undefined) settings.set(scales, SCALE_TABLE);
}

/** Writes what distinguishes a lattice. */
function setPoints(settings: Float32Array, { width, levels, low, signs, shift }: Lattice): void {
  const kinds = { points: 0, all: 1, even: 2 };
  settings.set(
    [width, levels.length, kinds[signs], shift?.by ?? 0, (shift?.shared ?? true) ? 1 : 0, low.length],
    22,
  );
  settings.set(levels, LEVEL_TABLE);
}
