import type { TensorJob } from "./tiles.js";

const NEXT = 0;
const STOP = 1;
const BYTES_READ = 0;
const BYTES_WRITTEN = 1;

/** Memory that all threads of a run share. */
interface SharedState {
  readonly state: SharedArrayBuffer;
  readonly bytes: SharedArrayBuffer;
  readonly checksums: SharedArrayBuffer;
}

/**
 * What all threads of a run see: the number of the next tile, whether to stop, and what is done so far.
 * The main thread looks at it ten times a second, so a run of 30,000 tiles sends no messages at all
 * unless something fails.
 */
export class Control {
  readonly shared: SharedState;
  readonly #state: Int32Array;
  /** Tiles done, a number a job. */
  readonly #done: Int32Array;
  readonly #bytes: BigInt64Array;
  /** Checksum of what was written, a number a tile: 120 kB for the 30,000 tiles of 61 GB. */
  readonly #checksums: Uint32Array;

  /** @param from numbers of jobs and tiles of a new run, or what another thread shares */
  constructor(from: { readonly jobs: number; readonly tiles: number } | SharedState) {
    this.shared =
      "jobs" in from
        ? {
            state: new SharedArrayBuffer(4 * (2 + from.jobs)),
            bytes: new SharedArrayBuffer(16),
            checksums: new SharedArrayBuffer(4 * from.tiles),
          }
        : from;
    this.#state = new Int32Array(this.shared.state, 0, 2);
    this.#done = new Int32Array(this.shared.state, 8);
    this.#bytes = new BigInt64Array(this.shared.bytes);
    this.#checksums = new Uint32Array(this.shared.checksums);
  }

  /** Number of a tile that nobody else gets. */
  takeTile(): number {
    return Atomics.add(this.#state, NEXT, 1);
  }

  /** Tells all workers to end after the tile at hand. */
  stop(): void {
    Atomics.store(this.#state, STOP, 1);
  }

  get stopped(): boolean {
    return Atomics.load(this.#state, STOP) === 1;
  }

  finishTile(job: number, tile: number, done: FinishedTile): void {
    const { bytesRead, bytesWritten, checksum } = done;
    // Before the count, so that whoever sees the job complete sees all of its checksums.
    Atomics.store(this.#checksums, tile, checksum);
    Atomics.add(this.#bytes, BYTES_READ, BigInt(bytesRead));
    Atomics.add(this.#bytes, BYTES_WRITTEN, BigInt(bytesWritten));
    Atomics.add(this.#done, job, 1);
  }

  tilesDone(job: number): number {
    return Atomics.load(this.#done, job);
  }

  /** Checksums of tiles that are done. */
  checksums(first: number, count: number): Uint32Array {
    return this.#checksums.slice(first, first + count);
  }

  get bytesRead(): number {
    return Number(Atomics.load(this.#bytes, BYTES_READ));
  }

  get bytesWritten(): number {
    return Number(Atomics.load(this.#bytes, BYTES_WRITTEN));
  }
}

/** What a worker has done to one tile. */
export interface FinishedTile {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Of the bytes written to all outputs, 32 bits. */
  readonly checksum: number;
}

/** What a worker is started with. */
export interface WorkerOrder {
  readonly kernels: WebAssembly.Module;
  readonly jobs: readonly TensorJob[];
  readonly tileValues: number;
  readonly shared: SharedState;
}

/** The last word of a worker. */
export type WorkerMessage = { readonly kind: "done" } | WorkerFailure;

/** Why a worker gave up. */
export type WorkerFailure =
  | {
      /** `overflow`: a finite value that the target type cannot hold, or not as the largest of its block. */
      readonly kind: "non-finite" | "overflow";
      readonly job: number;
      /** Index of the value among those of the tensor that are read. */
      readonly index: number;
      readonly value: number;
    }
  | {
      /** A block of 32 values is on no lattice, although all were found to be. */
      readonly kind: "off-lattice";
      readonly job: number;
      /** Index of the block's first value. */
      readonly index: number;
    }
  | { readonly kind: "truncated"; readonly job: number; readonly path: string; readonly position: number }
  | {
      readonly kind: "read" | "write";
      readonly job: number;
      readonly path: string;
      /** System error code, such as `ENOSPC`. */
      readonly code: string;
      readonly message: string;
    };
