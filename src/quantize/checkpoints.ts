import type { Journal } from "./journal.js";
import type { PartialFiles } from "./partial-files.js";

/**
 * Time between two checkpoints. Each one waits for the disk, which the end of the run has to do anyway;
 * this much work is lost at most when the process is killed.
 */
const DEFAULT_INTERVAL_MS = 5000;

/** Notes finished tensors in the journal, in batches, after their bytes have reached the disk. */
export class Checkpoints {
  readonly #files: PartialFiles;
  readonly #journal: Journal;
  readonly #interval: number;
  #waiting: number[] = [];
  #last = performance.now();
  #running: Promise<void> | undefined;

  constructor(files: PartialFiles, journal: Journal, interval = DEFAULT_INTERVAL_MS) {
    this.#files = files;
    this.#journal = journal;
    this.#interval = interval;
  }

  /** Takes tensors that are written; makes a checkpoint when it is time and none is running. */
  note(tensors: readonly number[], onError: (error: unknown) => void): void {
    this.#waiting.push(...tensors);
    const due = performance.now() - this.#last >= this.#interval;
    if (!due || this.#waiting.length === 0 || this.#running !== undefined) return;
    this.#running = this.#make()
      .catch(onError)
      .finally(() => {
        this.#last = performance.now();
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
    await this.#journal.add(tensors);
  }
}
