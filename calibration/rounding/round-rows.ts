import { nbitsRow } from "../../src/blocks/nbits/types.js";
import { blockType, rowBytes } from "../../src/blocks/table.js";
import type { TargetType } from "../../src/pool/tiles.js";
import type { Floats, Products } from "./products.js";
import { type Factor, type Panel, panelsOf } from "./reverse-ldl.js";
import type { Effort, PanelRounder, RoundedPanel } from "./types.js";

/** The kernels take four rows side by side. */
const LANES = 4;

/** Rows of a matrix, and the form under which their errors are measured. */
export interface RowsJob {
  readonly target: TargetType;
  readonly effort: Effort;
  readonly rows: number;
  readonly columns: number;
  /** W, [rows, columns]; afterwards the errors W − Q. */
  readonly values: Float32Array<ArrayBuffer>;
  /** Factors of the squares on the diagonal of the columns' form, one after the other. */
  readonly columnFactors: readonly Factor[];
  /** Factor of the rows' form; null where every row counts alike and for itself. */
  readonly rowFactor: Factor | null;
  /** Blocks, or codes, scales and zero points, of these rows; zeros before. */
  readonly outputs: readonly Uint8Array[];
}

/** Bytes of `rows` rows in each output. */
export function outputBytes(target: TargetType, columns: number, rows: number): number[] {
  if (typeof target === "string") return [rowBytes(target, columns) * rows];
  const { codes, scales, zeroPoints } = nbitsRow(target, columns);
  const sizes = target.zeroPoints ? [codes, scales, zeroPoints] : [codes, scales];
  return sizes.map((bytes) => bytes * rows);
}

/** Values of a block. */
function blockValues(target: TargetType): number {
  return typeof target === "string" ? blockType(target).values : target.block;
}

/** Copies rows of `from` to a place in `to`. */
function copyPart(
  from: Floats,
  to: Floats,
  row: number,
  column: number,
  rows: number,
  columns: number,
): void {
  for (let each = 0; each < rows; each++) {
    const at = (row + each) * from.columns + column;
    to.values.set(from.values.subarray(at, at + columns), each * to.columns);
  }
}

function zeros(rows: number, columns: number): Floats & { readonly values: Float32Array<ArrayBuffer> } {
  return { values: new Float32Array(rows * columns), rows, columns };
}

function identity(size: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(size * size);
  for (let index = 0; index < size; index++) values[index * size + index] = 1;
  return values;
}

/** The square of a panel of a factor in the upper left corner of an identity matrix. */
function paddedSquare(
  { panels }: Factor,
  { start, end, at }: Panel,
  size: number,
): Float32Array<ArrayBuffer> {
  const square = identity(size);
  const width = end - start;
  for (let row = 0; row < width; row++) {
    const from = at + (start + row) * width;
    square.set(panels.subarray(from, from + width), row * size);
  }
  return square;
}

/** The rows of a panel above its square, in memory that the runtime takes. */
function rowsAbove({ panels }: Factor, { start, end, at }: Panel): Floats {
  const columns = end - start;
  return { values: panels.slice(at, at + start * columns), rows: start, columns };
}

/** Columns of a matrix that are rounded together. */
interface Columns {
  /** First column in the matrix, and how many there are. */
  readonly first: number;
  readonly count: number;
  /** Those that the kernels get: whole blocks. */
  readonly width: number;
  readonly square: Float32Array;
  readonly pivots: Float32Array;
}

function columnsOf(factor: Factor, panel: Panel, offset: number, block: number): Columns {
  const count = panel.end - panel.start;
  const width = Math.ceil(count / block) * block;
  const pivots = new Float32Array(width);
  pivots.set(factor.pivots.subarray(panel.start, panel.end));
  // What fills up the last block is zero and stays so; the least of the others leaves the scale to them.
  if (width > count)
    pivots.fill(
      factor.pivots.reduce((least, each) => Math.min(least, each)),
      count,
    );
  return {
    first: offset + panel.start,
    count,
    width,
    square: paddedSquare(factor, panel, width),
    pivots,
  };
}

/**
 * Rounds rows of a matrix with feedback: panel by panel of columns, and in each of them chunk by chunk of rows. What
 * earlier panels, and earlier chunks, add is a product of ONNX Runtime; what happens inside is the kernels'.
 *
 * @returns Σ over rows and columns of S·D·v², the loss tr(S-form · E · D-form · Eᵀ) under the (damped) forms
 */
export async function roundRows(products: Products, rounder: PanelRounder, job: RowsJob): Promise<number> {
  const { target, columns, columnFactors } = job;
  const total = columnFactors.reduce((sum, { size }) => sum + size, 0);
  if (total !== columns) throw new RangeError(`factors of ${total} columns for a matrix of ${columns}`);
  const chunks = chunksOf(job);
  const errors: Floats = { values: job.values, rows: job.rows, columns };
  let loss = 0;
  let offset = 0;
  for (const factor of columnFactors) {
    for (const panel of panelsOf(factor.size)) {
      const own = columnsOf(factor, panel, offset, blockValues(target));
      const part = { rows: [0, job.rows], columns: [offset, offset + panel.start] } as const;
      const feedback =
        panel.start === 0
          ? undefined
          : {
              values: await products.times(errors, part, rowsAbove(factor, panel)),
              rows: job.rows,
              columns: own.count,
            };
      loss += await roundPanel(products, rounder, job, own, feedback, chunks);
    }
    offset += factor.size;
  }
  return loss;
}

/** A run of rows. */
interface Chunk {
  readonly first: number;
  readonly count: number;
  /** Those that the kernels get. */
  readonly rows: number;
  /** B of the earlier rows by these, and of these; null without feedback over rows. */
  readonly above: Floats | null;
  readonly square: Float32Array | null;
  /** S, [count]; null for ones. */
  readonly pivots: Float32Array | null;
}

function chunksOf({ rows, rowFactor }: RowsJob): Chunk[] {
  // Panels of a factor are as wide as chunks are high.
  return panelsOf(rows).map((panel) => {
    const count = panel.end - panel.start;
    const padded = Math.ceil(count / LANES) * LANES;
    return {
      first: panel.start,
      count,
      rows: padded,
      above: rowFactor === null || panel.start === 0 ? null : rowsAbove(rowFactor, panel),
      square: rowFactor === null ? null : paddedSquare(rowFactor, panel, padded),
      pivots: rowFactor === null ? null : rowFactor.pivots.slice(panel.start, panel.end),
    };
  });
}

async function roundPanel(
  products: Products,
  rounder: PanelRounder,
  job: RowsJob,
  own: Columns,
  feedback: Floats | undefined,
  chunks: readonly Chunk[],
): Promise<number> {
  const errors: Floats = { values: job.values, rows: job.rows, columns: job.columns };
  const { width, count: columns } = own;
  /** P of all rows that are done. */
  const done = job.rowFactor === null ? null : zeros(job.rows, width);
  let loss = 0;
  for (const chunk of chunks) {
    const values = zeros(chunk.rows, width);
    copyPart(errors, values, chunk.first, own.first, chunk.count, columns);
    const start = zeros(chunk.rows, width);
    if (feedback !== undefined) copyPart(feedback, start, chunk.first, 0, chunk.count, columns);
    let rowFeedback: Float32Array | null = null;
    if (done !== null) {
      const earlier = { ...done, values: done.values.subarray(0, chunk.first * width), rows: chunk.first };
      const given = chunk.above && (await products.transposed(chunk.above, earlier));
      rowFeedback = new Float32Array(chunk.rows * width);
      if (given !== null) rowFeedback.set(given);
    }
    const rounded = rounder.round({
      target: job.target,
      effort: job.effort,
      rows: chunk.rows,
      width,
      values: values.values,
      columnFeedback: start.values,
      rowFeedback,
      columnFactor: own.square,
      pivots: own.pivots,
      rowFactor: chunk.square,
    });
    done?.values.set(rounded.products.subarray(0, chunk.count * width), chunk.first * width);
    loss +=
      rowFeedback === null
        ? sum(rounded.losses.subarray(0, chunk.count))
        : await weightedLoss(products, chunk, own, rowFeedback, rounded.products);
    for (let row = 0; row < chunk.count; row++) {
      const at = (chunk.first + row) * job.columns + own.first;
      for (let column = 0; column < columns; column++) {
        job.values[at + column]! -= rounded.stored[row * width + column]!;
      }
    }
    place(job, own, chunk, rounded);
  }
  return loss;
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Σ S·D·V² of a chunk, V = Bᵀ·P: the kernels leave out what a row has of the three beside it. */
async function weightedLoss(
  products: Products,
  { rows, count, square, pivots }: Chunk,
  own: Columns,
  rowFeedback: Float32Array,
  panelProducts: Float32Array,
): Promise<number> {
  const { width } = own;
  const b = { values: square!, rows, columns: rows };
  const misses = await products.transposed(b, { values: panelProducts.slice(), rows, columns: width });
  let loss = 0;
  for (let row = 0; row < count; row++) {
    let ofRow = 0;
    for (let column = 0; column < own.count; column++) {
      const at = row * width + column;
      ofRow += own.pivots[column]! * (misses[at]! + rowFeedback[at]!) ** 2;
    }
    loss += pivots![row]! * ofRow;
  }
  return loss;
}

/** Puts what was rounded where it belongs in the outputs. */
function place(job: RowsJob, { first, width }: Columns, chunk: Chunk, { outputs }: RoundedPanel): void {
  const { target, columns } = job;
  const before = first / blockValues(target);
  const blocks = width / blockValues(target);
  for (const [index, output] of outputs.entries()) {
    const into = job.outputs[index];
    if (into === undefined) throw new RangeError(`there is no output ${index}`);
    const stride = outputBytes(target, columns, 1)[index]!;
    const isPoints = index === 2;
    const bytes = output.length / (chunk.rows * blocks);
    for (let row = 0; row < chunk.count; row++) {
      const piece = output.subarray(row * blocks * bytes, (row + 1) * blocks * bytes);
      const at = (chunk.first + row) * stride;
      if (!isPoints || typeof target === "string") into.set(piece, at + before * bytes);
      else addPoints(into.subarray(at, at + stride), piece, before, target.bits);
    }
  }
}

/** Puts zero points of a few bits each beside those that are there, lowest bits first. */
function addPoints(row: Uint8Array, points: Uint8Array, before: number, bits: 2 | 4 | 8): void {
  for (const [index, point] of points.entries()) {
    const bit = (before + index) * bits;
    row[bit >>> 3]! |= point << (bit & 7);
  }
}
