import type { TensorJob } from "./tiles.js";

const NEXT = 0;
const STOP = 1;
const BYTES_READ = 0;
const BYTES_WRITTEN = 1;

/**
 * What all threads of a run see: the number of the next tile, whether to stop, and what is done so far.
 * The main thread looks at it ten times a second, so a run of 30,000 tiles sends no messages at all
 * unless something fails.
 */
export class Control {
  readonly shared: { readonly state: SharedArrayBuffer; readonly bytes: SharedArrayBuffer };
  readonly #state: Int32Array;
  /** Tiles done, a number a job. */
  readonly #done: Int32Array;
  readonly #bytes: BigInt64Array;

  constructor(from: number | Control["shared"]) {
    this.shared =
      typeof from === "number"
        ? { state: new SharedArrayBuffer(4 * (2 + from)), bytes: new SharedArrayBuffer(16) }
        : from;
    this.#state = new Int32Array(this.shared.state, 0, 2);
    this.#done = new Int32Array(this.shared.state, 8);
    this.#bytes = new BigInt64Array(this.shared.bytes);
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

  finishTile(job: number, bytesRead: number, bytesWritten: number): void {
    Atomics.add(this.#bytes, BYTES_READ, BigInt(bytesRead));
    Atomics.add(this.#bytes, BYTES_WRITTEN, BigInt(bytesWritten));
    Atomics.add(this.#done, job, 1);
  }

  tilesDone(job: number): number {
    return Atomics.load(this.#done, job);
  }

  get bytesRead(): number {
    return Number(Atomics.load(this.#bytes, BYTES_READ));
  }

  get bytesWritten(): number {
    return Number(Atomics.load(this.#bytes, BYTES_WRITTEN));
  }
}

/** What a worker is started with. */
export interface WorkerOrder {
  readonly kernels: WebAssembly.Module;
  readonly jobs: readonly TensorJob[];
  readonly tileValues: number;
  readonly shared: Control["shared"];
}

/** Why a worker gave up. A worker that ends well says nothing. */
export type WorkerFailure =
  | {
      /** `overflow`: a finite value that the target type cannot hold, or not as the largest of its block. */
      readonly kind: "non-finite" | "overflow";
      readonly job: number;
      /** Index of the value from the start of the tensor. */
      readonly index: number;
      readonly value: number;
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
