import { Pace } from "./pace.js";
import { readBytes, type WorkTensor, writtenBytes } from "./work.js";

/** A run, about ten times a second. */
export interface QuantizeProgress {
  /** Bytes of tensors read, those of an earlier run included. */
  readonly bytesRead: number;
  /** Bytes of tensors written, those of an earlier run included. */
  readonly bytesWritten: number;
  /** Bytes of all tensors to read; what `bytesRead` ends at. */
  readonly totalBytes: number;
  /** First tensor that is not finished, or null at the end. */
  readonly tensor: string | null;
  /** Bytes read a second, lately; 0 while the tensors of an earlier run are being checked. */
  readonly rate: number;
  /** Seconds to go at that rate; null while there is none. */
  readonly eta: number | null;
}

/** Reports while tensors of an earlier run are checked: this often. */
const CHECK_INTERVAL_MS = 100;

/** Counts what is done, and tells it. */
export class ProgressReport {
  readonly #tensors: readonly WorkTensor[];
  readonly #tell: ((progress: QuantizeProgress) => void) | undefined;
  readonly #totalBytes: number;
  /** Of the tensors that an earlier run finished. */
  #earlierRead = 0;
  #earlierWritten = 0;
  #last = performance.now();
  #pace: Pace | undefined;
  #first = 0;

  constructor(tensors: readonly WorkTensor[], tell: ((progress: QuantizeProgress) => void) | undefined) {
    this.#tensors = tensors;
    this.#tell = tell;
    this.#totalBytes = tensors.reduce((sum, tensor) => sum + readBytes(tensor), 0);
  }

  /** Counts a tensor as done before this run. */
  keep(tensor: WorkTensor): void {
    this.#earlierRead += readBytes(tensor);
    this.#earlierWritten += writtenBytes(tensor);
  }

  /** Tells which tensor is being checked, when it is time. */
  checking(name: string): void {
    if (performance.now() - this.#last < CHECK_INTERVAL_MS) return;
    this.#last = performance.now();
    this.#tell?.({
      bytesRead: this.#earlierRead,
      bytesWritten: this.#earlierWritten,
      totalBytes: this.#totalBytes,
      tensor: name,
      rate: 0,
      eta: null,
    });
  }

  /** Begins to measure the pace: what was kept took no time. */
  start(): void {
    this.#pace = new Pace(performance.now(), this.#earlierRead);
  }

  /**
   * Tells how far this run is.
   *
   * @param read bytes that it has read
   * @param written bytes that it has written
   * @param done indices of all tensors that are done
   */
  running(read: number, written: number, done: ReadonlySet<number>): void {
    if (this.#tell === undefined) return;
    while (done.has(this.#first)) this.#first++;
    const bytesRead = this.#earlierRead + read;
    const rate = this.#pace?.add(performance.now(), bytesRead) ?? 0;
    this.#tell({
      bytesRead,
      bytesWritten: this.#earlierWritten + written,
      totalBytes: this.#totalBytes,
      tensor: this.#tensors[this.#first]?.name ?? null,
      rate,
      eta: rate > 0 ? (this.#totalBytes - bytesRead) / rate : null,
    });
  }
}
