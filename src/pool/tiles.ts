import { type NBitsMethod, nbitsRow, type NBitsType } from "../blocks/nbits/types.js";
import { rowBytes } from "../blocks/table.js";
import type { BlockTypeName, TensorMethod } from "../blocks/types.js";
import { PoolError } from "./errors.js";

/** What a tensor is written as: blocks, in one piece, or codes, scales and perhaps zero points, each a piece. */
export type TargetType = BlockTypeName | NBitsType;

/** Where one piece of what a job writes begins. */
export interface JobOutput {
  /** A file that exists. */
  readonly path: string;
  /** In bytes from the start of the file. */
  readonly offset: number;
}

/** One tensor to read, convert and write: rows of one file to rows of others. */
export interface TensorJob {
  /** Name for messages. */
  readonly name: string;
  readonly input: string;
  /** Byte offset of the first value in the input file. */
  readonly inputOffset: number;
  /**
   * Values from one row of the input to the next, where only `row` of them are read; then the source is a type
   * without blocks, and a tile never cuts a row.
   */
  readonly inputRow?: number | undefined;
  /** First column of the input's rows that is read; 0 when left out. */
  readonly inputColumn?: number | undefined;
  /** One for a block type; else those of the codes, the scales and, where the type has them, the zero points. */
  readonly outputs: readonly JobOutput[];
  readonly source: BlockTypeName;
  readonly target: TargetType;
  /** Values in a row that is written; a whole number of blocks of a block type, any number for codes. */
  readonly row: number;
  readonly rows: number;
  /**
   * How values find their places: by a search; as they lie on lattices, of BF16 to Q4_0; or plainly, also when left
   * out, which is `ggml` for blocks and `nearest` for codes.
   */
  readonly method?: TensorMethod | NBitsMethod | undefined;
  /** Importance of each column that is read, for one matrix after the other of a stack; then a tile never cuts a row. */
  readonly importance?: Float32Array<SharedArrayBuffer> | undefined;
  /**
   * Where the bytes of each output lie already, in the order of `outputs`: then they are copied, and nothing is read
   * of the input or converted.
   */
  readonly copies?: readonly JobOutput[] | undefined;
  /** Numbers that the values are multiplied with before they are converted; then a tile never cuts a row. */
  readonly factors?: JobFactors | undefined;
}

/** What the values of a job are multiplied with. */
export interface JobFactors {
  /** A number for each column that is read, for one matrix after the other of a stack. */
  readonly columns?: Float32Array<SharedArrayBuffer> | undefined;
  /** A number for each row. */
  readonly rows?: Float32Array<SharedArrayBuffer> | undefined;
}

/** A run of values of one job, handled at once. */
export interface Tile {
  readonly job: number;
  /** First value, counted from the start of the tensor. */
  readonly first: number;
  readonly values: number;
}

/** Every block type's values per block divide this, so a tile inside a row may be cut at its multiples. */
export const TILE_QUANTUM = 256;

/** A run of bytes of one output. */
export interface OutputRange extends JobOutput {
  readonly bytes: number;
}

/** A target as messages name it. */
export function targetName(target: TargetType): string {
  return typeof target === "string" ? target : `${target.bits} bits in blocks of ${target.block}`;
}

/** Bytes of a row in each of the outputs of a matrix of codes. */
function pieces(type: NBitsType, row: number): number[] {
  const { codes, scales, zeroPoints } = nbitsRow(type, row);
  return type.zeroPoints ? [codes, scales, zeroPoints] : [codes, scales];
}

/** What of a job says where its bytes lie. */
type RangeJob = Pick<TensorJob, "target" | "row" | "outputs">;

/**
 * The bytes of a tile in each output of its job, in the order of `outputs`.
 *
 * @param tile one of the job's tiles, or all of its values
 */
export function rangesOf(job: RangeJob, { first, values }: Pick<Tile, "first" | "values">): OutputRange[] {
  const { target, row, outputs } = job;
  const sizes =
    typeof target === "string"
      ? [[rowBytes(target, first), rowBytes(target, values)] as const]
      : pieces(target, row).map((bytes) => [(first / row) * bytes, (values / row) * bytes] as const);
  return outputs.map(({ path, offset }, index) => {
    const [before, bytes] = sizes[index] ?? [0, 0];
    return { path, offset: offset + before, bytes };
  });
}

/** Bytes that are read for a tile: its values, or what they were made to already. */
export function bytesRead(
  job: RangeJob & Pick<TensorJob, "source" | "copies">,
  tile: Pick<Tile, "first" | "values">,
): number {
  if (job.copies === undefined) return rowBytes(job.source, tile.values);
  return rangesOf({ ...job, outputs: job.copies }, tile).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Matrices of a stack that have columns of their own; 1 where nothing tells them apart. */
export function matricesOf({ row, importance, factors }: Omit<TensorJob, "outputs">): number {
  return ((importance ?? factors?.columns)?.length ?? row) / row;
}

function checkFactors(job: TensorJob): void {
  const { name, row, rows, importance, factors } = job;
  const matrices = matricesOf(job);
  const columns = factors?.columns?.length ?? matrices * row;
  if (!Number.isInteger(rows / matrices) || columns !== matrices * row) {
    throw new RangeError(
      `tensor ${name} has ${rows} rows of ${row} values, ${importance?.length ?? 0} importances and ${columns} factors of columns`,
    );
  }
  if (job.method === "lattice" && (job.source !== "BF16" || job.target !== "Q4_0" || factors !== undefined))
    throw new RangeError(`tensor ${name} is kept on its lattice from BF16 to Q4_0 only, and as it is`);
  const scales = factors?.rows?.length ?? rows;
  if (scales !== rows) throw new RangeError(`tensor ${name} has ${rows} rows and ${scales} factors of rows`);
}

/** What no caller may ask for: other bytes than those of the tensor would be read or written. */
function checkJob(job: TensorJob): void {
  const { name, row, inputRow = row, inputColumn = 0, outputs, copies = outputs, target } = job;
  checkFactors(job);
  if (!(inputColumn >= 0 && inputColumn + row <= inputRow)) {
    throw new RangeError(
      `tensor ${name} has rows of ${inputRow} values, and ${row} from ${inputColumn} on are to be read`,
    );
  }
  const expected = typeof target === "string" ? 1 : pieces(target, row).length;
  if (outputs.length !== expected || copies.length !== expected) {
    const count = outputs.length === expected ? `${copies.length} copies` : `${outputs.length} outputs`;
    throw new RangeError(`tensor ${name} has ${count}, expected ${expected}`);
  }
}

/** Whether a job reads only some columns of its input. */
export function isStrided({ row, inputRow = row }: TensorJob): boolean {
  return inputRow !== row;
}

/**
 * Values that a row counts for: codes fill whole blocks, however short a row is. So a tile takes at most 1.2 bytes
 * a value in all of its outputs together, less than the kernels have room for.
 */
function roomOf({ row, target }: TensorJob): number {
  return typeof target === "string" ? row : Math.ceil(row / target.block) * target.block;
}

/** How one job is cut: whole rows of one matrix, or pieces of one row where a row is longer than a tile. */
interface Cut {
  readonly rowsPerTile: number;
  /** Rows that share an importance or factors of columns; all of them where there are none. */
  readonly rowsPerMatrix: number;
  readonly tilesPerMatrix: number;
  readonly piecesPerRow: number;
  readonly pieceValues: number;
  readonly tiles: number;
}

function cut(job: TensorJob, tileValues: number): Cut {
  checkJob(job);
  const { row, rows, importance, factors, target } = job;
  const room = roomOf(job);
  if (room <= tileValues) {
    const matrices = matricesOf(job);
    const rowsPerMatrix = rows / matrices;
    const rowsPerTile = Math.floor(tileValues / room);
    const tilesPerMatrix = Math.ceil(rowsPerMatrix / rowsPerTile);
    return {
      rowsPerTile,
      rowsPerMatrix,
      tilesPerMatrix,
      piecesPerRow: 1,
      pieceValues: row,
      tiles: tilesPerMatrix * matrices,
    };
  }
  const uncut = importance !== undefined || factors !== undefined;
  if (uncut || typeof target !== "string" || isStrided(job)) {
    throw new PoolError(
      "memory-too-small",
      `tensor ${job.name} has rows of ${row} values, and a worker has memory for ${tileValues} at a time`,
      { exitCode: 2, advice: "Raise --memory, or lower --threads." },
    );
  }
  const pieceValues = Math.floor(tileValues / TILE_QUANTUM) * TILE_QUANTUM;
  const piecesPerRow = Math.ceil(row / pieceValues);
  const tiles = rows * piecesPerRow;
  return { rowsPerTile: 1, rowsPerMatrix: rows, tilesPerMatrix: tiles, piecesPerRow, pieceValues, tiles };
}

/**
 * Numbers the tiles of a list of jobs without holding a list of tiles: 61 GB of weights are 30,000
 * tiles, and every worker would get a copy.
 */
export class Tiling {
  readonly #cuts: readonly Cut[];
  /** Number of the first tile of each job, and at last the number of all tiles. */
  readonly #starts: readonly number[];
  readonly #jobs: readonly TensorJob[];

  /**
   * @param tileValues most values in a tile; at least `TILE_QUANTUM`
   * @throws PoolError `memory-too-small` when a row that may not be cut is longer than a tile: one with an importance
   *   or factors, one of which columns are read, or one that is written as codes
   */
  constructor(jobs: readonly TensorJob[], tileValues: number) {
    this.#jobs = jobs;
    this.#cuts = jobs.map((job) => cut(job, tileValues));
    const starts = [0];
    for (const { tiles } of this.#cuts) starts.push((starts.at(-1) ?? 0) + tiles);
    this.#starts = starts;
  }

  get total(): number {
    return this.#starts.at(-1) ?? 0;
  }

  /** Number of tiles of one job. */
  tilesOf(job: number): number {
    return this.#cuts[job]?.tiles ?? 0;
  }

  /** Number of the first tile of one job; the others follow in order. */
  firstOf(job: number): number {
    return this.#starts[job] ?? this.total;
  }

  at(number: number): Tile {
    let low = 0;
    let high = this.#jobs.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#starts[middle] ?? 0) <= number) low = middle;
      else high = middle - 1;
    }
    const job = this.#jobs[low];
    const cuts = this.#cuts[low];
    const start = this.#starts[low];
    if (job === undefined || cuts === undefined || start === undefined || !(number < this.total)) {
      throw new RangeError(`there is no tile ${number}`);
    }
    const inJob = number - start;
    if (cuts.piecesPerRow === 1) {
      const matrix = Math.floor(inJob / cuts.tilesPerMatrix);
      const row = (inJob % cuts.tilesPerMatrix) * cuts.rowsPerTile;
      const rows = Math.min(cuts.rowsPerTile, cuts.rowsPerMatrix - row);
      return { job: low, first: (matrix * cuts.rowsPerMatrix + row) * job.row, values: rows * job.row };
    }
    const row = Math.floor(inJob / cuts.piecesPerRow);
    const column = (inJob % cuts.piecesPerRow) * cuts.pieceValues;
    return {
      job: low,
      first: row * job.row + column,
      values: Math.min(cuts.pieceValues, job.row - column),
    };
  }
}
