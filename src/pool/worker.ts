import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { joinChecksums } from "../blocks/kernels/checksums.js";
import { type Factors, Kernels } from "../blocks/kernels/kernels.js";
import { bfloatToFloat, halfToFloat } from "../blocks/floats.js";
import { encodeLattice } from "../blocks/lattice/encode.js";
import { LATTICE_BLOCK } from "../blocks/lattice/fit.js";
import { rowBytes } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
import {
  Control,
  type FinishedTile,
  type WorkerFailure,
  type WorkerMessage,
  type WorkerOrder,
} from "./control.js";
import {
  bytesRead,
  isStrided,
  type JobOutput,
  matricesOf,
  rangesOf,
  type TensorJob,
  type Tile,
  Tiling,
} from "./tiles.js";

/** Ends the work of this thread with a reason that the main thread turns into an error. */
class Failure extends Error {
  readonly reason: WorkerFailure;

  constructor(reason: WorkerFailure) {
    super(reason.kind);
    this.reason = reason;
  }
}

/** Files that this thread has open; a checkpoint has few shards, so none is closed before the end. */
class Files {
  readonly #open = new Map<string, number>();

  /** @param flags `r` to read, `r+` to write into a file that exists */
  descriptor(path: string, flags: "r" | "r+"): number {
    const key = `${flags} ${path}`;
    let descriptor = this.#open.get(key);
    if (descriptor === undefined) {
      descriptor = openSync(path, flags);
      this.#open.set(key, descriptor);
    }
    return descriptor;
  }

  close(): void {
    for (const descriptor of this.#open.values()) closeSync(descriptor);
    this.#open.clear();
  }
}

/** One value of a plain number type. */
function numberAt(type: BlockTypeName, bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (type === "F32") return view.getFloat32(index * 4, true);
  const half = view.getUint16(index * 2, true);
  return type === "F16" ? halfToFloat(half) : bfloatToFloat(half);
}

/** Runs a system call; its failure ends the thread with the tensor and the file. */
function attempt<T>(kind: "read" | "write", job: number, path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (error instanceof Failure) throw error;
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    const message = error instanceof Error ? error.message : String(error);
    throw new Failure({ kind, job, path, code, message });
  }
}

/** What columns have, of the matrix that a tile lies in. */
function ofMatrix(columns: Float32Array, job: TensorJob, { first }: Tile): Float32Array {
  const { row, rows } = job;
  const matrix = Math.floor(first / row / (rows / matricesOf(job)));
  return columns.subarray(matrix * row, (matrix + 1) * row);
}

/** The factors of a tile's columns and rows. */
function factorsOf(job: TensorJob, tile: Tile): Factors | undefined {
  const { factors, row } = job;
  if (factors === undefined) return undefined;
  const first = tile.first / row;
  return {
    columns: factors.columns === undefined ? undefined : ofMatrix(factors.columns, job, tile),
    rows: factors.rows?.subarray(first, first + tile.values / row),
  };
}

class TileWorker {
  readonly #order: WorkerOrder;
  readonly #files = new Files();
  readonly #kernels: Kernels;

  constructor(order: WorkerOrder) {
    this.#order = order;
    this.#kernels = new Kernels(order.kernels, order.tileValues);
  }

  /** Works on one tile after the other until none is left or a stop is asked for. */
  run(): void {
    const { jobs, tileValues, shared } = this.#order;
    const control = new Control(shared);
    const tiling = new Tiling(jobs, tileValues);
    try {
      while (!control.stopped) {
        const number = control.takeTile();
        if (number >= tiling.total) return;
        const tile = tiling.at(number);
        control.finishTile(tile.job, number, this.#work(tile));
      }
    } finally {
      this.#files.close();
    }
  }

  #work(tile: Tile): FinishedTile {
    const job = this.#order.jobs[tile.job];
    if (job === undefined) throw new RangeError(`there is no job ${tile.job}`);
    if (job.copies !== undefined) return this.#copy(job, tile, job.copies);
    this.#readTile(job, tile);
    if (job.method === "lattice") this.#keep(tile);
    else this.#round(job, tile);
    const blocks = typeof job.target === "string";
    // Now, while the bytes are in the processor's cache: 20 µs for a MiB.
    const checksum = blocks ? this.#kernels.checksum() : this.#kernels.checksumOfOutputs();
    const outputs = blocks ? [this.#kernels.output] : this.#kernels.outputs;
    let bytesWritten = 0;
    for (const [index, { path, offset, bytes }] of rangesOf(job, tile).entries()) {
      const output = outputs[index];
      if (output?.length !== bytes) throw new RangeError(`output ${index} has not ${bytes} bytes`);
      this.#write(tile.job, path, offset, output);
      bytesWritten += bytes;
    }
    return { bytesRead: bytesRead(job, tile), bytesWritten, checksum };
  }

  /** Copies what was made before, one output after the other. */
  #copy(job: TensorJob, tile: Tile, copies: readonly JobOutput[]): FinishedTile {
    const from = rangesOf({ ...job, outputs: copies }, tile);
    const checksums: number[] = [];
    for (const [index, { path, offset, bytes }] of rangesOf(job, tile).entries()) {
      const source = from[index]!;
      this.#read(tile.job, source.path, source.offset, 0, bytes);
      checksums.push(this.#kernels.checksumOf(bytes));
      this.#write(tile.job, path, offset, this.#kernels.input.subarray(0, bytes));
    }
    const bytes = bytesRead(job, tile);
    const checksum = typeof job.target === "string" ? checksums[0]! : joinChecksums(checksums);
    return { bytesRead: bytes, bytesWritten: bytes, checksum };
  }

  /** Fills the input of the kernels. */
  #readTile(job: TensorJob, tile: Tile): void {
    const { input, inputOffset, source, row, inputRow = row, inputColumn = 0 } = job;
    if (!isStrided(job)) {
      const position = inputOffset + rowBytes(source, tile.first);
      this.#read(tile.job, input, position, 0, rowBytes(source, tile.values));
      return;
    }
    const wanted = rowBytes(source, row);
    const stride = rowBytes(source, inputRow);
    const start = inputOffset + (tile.first / row) * stride + rowBytes(source, inputColumn);
    const rows = tile.values / row;
    for (let done = 0; done < rows;) {
      const at = done * wanted;
      const room = this.#kernels.input.length - at;
      // What lies between the columns is read along where it is not more than they are, as far as there is room.
      const fitting = stride <= 2 * wanted ? 1 + Math.floor((room - wanted) / stride) : 1;
      const count = Math.min(rows - done, fitting);
      this.#read(tile.job, input, start + done * stride, at, (count - 1) * stride + wanted);
      for (let next = 1; next < count; next++) {
        const from = at + next * stride;
        this.#kernels.input.copyWithin(at + next * wanted, from, from + wanted);
      }
      done += count;
    }
  }

  #round(job: TensorJob, tile: Tile): void {
    const source = this.#multiply(job, tile);
    const bad = this.#convert(job, source, tile);
    if (bad >= 0) throw this.#refused(tile, source, bad);
  }

  /** Packs values as they lie on their lattices. */
  #keep({ job, first, values }: Tile): void {
    const { buffer, byteOffset } = this.#kernels.input;
    const blocks = encodeLattice(new Uint16Array(buffer, byteOffset, values));
    if (typeof blocks === "number")
      throw new Failure({ kind: "off-lattice", job, index: first + blocks * LATTICE_BLOCK });
    this.#kernels.put(blocks);
  }

  /** Applies the job's factors to the input; returns the type that it is of then. */
  #multiply(job: TensorJob, tile: Tile): BlockTypeName {
    const factors = factorsOf(job, tile);
    if (factors === undefined) return job.source;
    const bad = this.#kernels.multiply(job.source, job.row, tile.values / job.row, factors);
    if (bad >= 0) throw this.#refused(tile, job.source, bad);
    return "F32";
  }

  #convert(job: TensorJob, source: BlockTypeName, tile: Tile): number {
    const { target, row, method } = job;
    const importance = job.importance === undefined ? undefined : ofMatrix(job.importance, job, tile);
    if (typeof target === "string") {
      const way = method === "search" ? method : "ggml";
      return this.#kernels.convert(source, target, tile.values, importance, way);
    }
    const way = method === "search" ? method : "nearest";
    return this.#kernels.convertNBits(source, target, row, tile.values / row, importance, way);
  }

  /** Reads bytes of a file to `at` in the input of the kernels. */
  #read(job: number, path: string, position: number, at: number, bytes: number): void {
    attempt("read", job, path, () => {
      const descriptor = this.#files.descriptor(path, "r");
      for (let done = 0; done < bytes;) {
        const got = readSync(descriptor, this.#kernels.input, at + done, bytes - done, position + done);
        if (got === 0) throw new Failure({ kind: "truncated", job, path, position: position + done });
        done += got;
      }
    });
  }

  #write(job: number, path: string, position: number, bytes: Uint8Array): void {
    attempt("write", job, path, () => {
      const descriptor = this.#files.descriptor(path, "r+");
      for (let done = 0; done < bytes.length;) {
        done += writeSync(descriptor, bytes, done, bytes.length - done, position + done);
      }
    });
  }

  #refused(tile: Tile, source: BlockTypeName, index: number): Failure {
    return new Failure({
      kind: this.#kernels.lastProblem ?? "non-finite",
      job: tile.job,
      index: tile.first + index,
      value: numberAt(source, this.#kernels.input, index),
    });
  }
}

function work(): WorkerMessage {
  try {
    new TileWorker(workerData as WorkerOrder).run();
    return { kind: "done" };
  } catch (error) {
    if (error instanceof Failure) return error.reason;
    throw error;
  }
}

parentPort?.postMessage(work(), []);
