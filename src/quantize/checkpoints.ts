import type { GgufOutput } from "../../formats/gguf/write.js";
import type { Journal } from "./journal.js";

/** Time between two checkpoints: this much work is lost at most when the process is killed. */
const DEFAULT_INTERVAL_MS = 5000;

/**
 * After this many bytes there is a checkpoint too, so that the disk works while tiles are converted
 * instead of after the last one: 1 GB of BF16 in 1.2 s instead of 1.4 s.
 */
const FLUSH_BYTES = 256 * 2 ** 20;

/** Notes finished tensors in the journal, in batches, after their bytes have reached the disk. */
export class Checkpoints {
  readonly #files: GgufOutput;
  readonly #journal: Journal;
  readonly #interval: number;
  #waiting: number[] = [];
  #last = performance.now();
  #flushed = 0;
  #running: Promise<void> | undefined;

  constructor(files: GgufOutput, journal: Journal, interval = DEFAULT_INTERVAL_MS) {
    this.#files = files;
    this.#journal = journal;
    this.#interval = interval;
  }

  /**
   * Takes tensors that are written; makes a checkpoint when it is time and none is running.
   *
   * @param written bytes so far
   */
  note(tensors: readonly number[], written: number, onError: (error: unknown) => void): void {
    this.#waiting.push(...tensors);
    const now = performance.now();
    const due = now - this.#last >= this.#interval || written - this.#flushed >= FLUSH_BYTES;
    if (!due || this.#running !== undefined) return;
    this.#last = now;
    this.#flushed = written;
    this.#running = this.#make()
      .catch(onError)
      .finally(() => {
        this.#running = undefined;
      });
  }

  /** Makes a last checkpoint. */
  async finish(): Promise<void> {
    await this.#running;
    await this.#make();
  }

  /** Waits for a checkpoint that is running. */
  async settle(): Promise<void> {
    await this.#running;
  }

  async #make(): Promise<void> {
    const tensors = this.#waiting;
    this.#waiting = [];
    await this.#files.sync();
    if (tensors.length > 0) await this.#journal.add(tensors);
  }
}
