import type { BlockTypeName, Method } from "../blocks/types.js";
import { PoolError } from "./errors.js";

/** One tensor to read, convert and write: rows of one file to rows of another. */
export interface TensorJob {
  /** Name for messages. */
  readonly name: string;
  readonly input: string;
  /** Byte offset of the first value in the input file. */
  readonly inputOffset: number;
  readonly output: string;
  /** Byte offset of the first value in the output file, which must exist. */
  readonly outputOffset: number;
  readonly source: BlockTypeName;
  readonly target: BlockTypeName;
  /** Values in a row; a whole number of blocks of either type. */
  readonly row: number;
  readonly rows: number;
  /** How values find their places; `ggml` when left out. */
  readonly method?: Method | undefined;
  /** Importance of each column, for one matrix after the other of a stack; then a tile never cuts a row. */
  readonly importance?: Float32Array<SharedArrayBuffer> | undefined;
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

/** How one job is cut: whole rows of one matrix, or pieces of one row where a row is longer than a tile. */
interface Cut {
  readonly rowsPerTile: number;
  /** Rows that share an importance; all of them where there is none. */
  readonly rowsPerMatrix: number;
  readonly tilesPerMatrix: number;
  readonly piecesPerRow: number;
  readonly pieceValues: number;
  readonly tiles: number;
}

function cut(job: TensorJob, tileValues: number): Cut {
  const { row, rows, importance } = job;
  if (row <= tileValues) {
    const matrices = importance === undefined ? 1 : importance.length / row;
    const rowsPerMatrix = rows / matrices;
    const rowsPerTile = Math.floor(tileValues / row);
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
  if (importance !== undefined) {
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
   * @throws PoolError `memory-too-small` when a row with an importance is longer than a tile
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
