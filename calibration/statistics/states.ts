import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { outputFailure, writeFully } from "../../src/base/atomic-file.js";
import { StatisticsError } from "./errors.js";

/** Numbers of every batch that a later step reads, such as the residual stream. */
export interface States {
  /** The values of a batch, which the caller does not change. */
  read(batch: number): Promise<Float32Array>;
  /** Takes the place of what the batch had. */
  write(batch: number, values: Float32Array): Promise<void>;
  /** Makes what was written last, where it is to. */
  finish(): Promise<void>;
  /** Lets go of them; a file stays. */
  close(): Promise<void>;
  remove(): Promise<void>;
}

/** States that fit in memory. */
class MemoryStates implements States {
  readonly #values: (Float32Array | undefined)[] = [];
  readonly #release: () => void;

  constructor(release: () => void) {
    this.#release = release;
  }

  async read(batch: number): Promise<Float32Array> {
    const values = this.#values[batch];
    if (values === undefined) throw new RangeError(`there are no states of batch ${batch}`);
    return values;
  }

  async write(batch: number, values: Float32Array): Promise<void> {
    this.#values[batch] = values;
  }

  async finish(): Promise<void> {}

  async close(): Promise<void> {
    this.#release();
    this.#values.length = 0;
  }

  remove(): Promise<void> {
    return this.close();
  }
}

/** States in a file, one batch after the other. */
class FileStates implements States {
  readonly #path: string;
  readonly #handle: FileHandle;
  /** Where each batch starts, in values, and where the last one ends. */
  readonly #starts: readonly number[];
  #name: string;

  constructor(path: string, name: string, handle: FileHandle, starts: readonly number[]) {
    this.#path = path;
    this.#name = name;
    this.#handle = handle;
    this.#starts = starts;
  }

  async read(batch: number): Promise<Float32Array> {
    const values = new Float32Array(this.#starts[batch + 1]! - this.#starts[batch]!);
    const bytes = new Uint8Array(values.buffer);
    for (let done = 0; done < bytes.length;) {
      const at = this.#starts[batch]! * 4 + done;
      const { bytesRead } = await this.#handle.read(bytes, done, bytes.length - done, at);
      if (bytesRead === 0) {
        throw new StatisticsError("states-short", `${this.#name}: ends at ${at} bytes, expected more`);
      }
      done += bytesRead;
    }
    return values;
  }

  async write(batch: number, values: Float32Array): Promise<void> {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    await writeFully(this.#handle, bytes, this.#starts[batch]! * 4).catch((error: unknown) => {
      throw outputFailure(this.#path, error);
    });
  }

  async finish(): Promise<void> {
    if (this.#name === this.#path) return;
    await this.#handle.sync();
    await rename(this.#name, this.#path);
    this.#name = this.#path;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.#name, { force: true });
  }
}

export interface StateRoomOptions {
  /** An existing folder. */
  readonly folder: string;
  /** Bytes of states that may be in memory. */
  readonly memory: number;
  /** Tokens of each batch. */
  readonly batches: readonly number[];
}

/** Hands out places for states: in memory while there is room, else in files. */
export class StateRoom {
  readonly #folder: string;
  readonly #batches: readonly number[];
  #memory: number;
  readonly #open = new Set<States>();

  constructor({ folder, memory, batches }: StateRoomOptions) {
    this.#folder = folder;
    this.#memory = memory;
    this.#batches = batches;
  }

  #starts(width: number): number[] {
    const starts = [0];
    for (const tokens of this.#batches) starts.push(starts.at(-1)! + tokens * width);
    return starts;
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.f32`);
  }

  /**
   * Room for states.
   *
   * @param name of the file, without its extension
   * @param width values a token
   * @param kept whether they have to be in a file, which appears when they are finished
   * @throws OutputError when the file cannot be made
   */
  async make(name: string, width: number, kept: boolean): Promise<States> {
    const starts = this.#starts(width);
    const bytes = starts.at(-1)! * 4;
    if (!kept && bytes <= this.#memory) {
      this.#memory -= bytes;
      return this.#track(new MemoryStates(() => (this.#memory += bytes)));
    }
    const path = this.#path(name);
    const temporary = kept ? partial(path) : path;
    const handle = await open(temporary, "w+").catch((error: unknown) => {
      throw outputFailure(path, error);
    });
    return this.#track(new FileStates(path, temporary, handle, starts));
  }

  /** States that an earlier walk has finished, or undefined where there are none of this size. */
  async find(name: string, width: number): Promise<States | undefined> {
    const starts = this.#starts(width);
    const path = this.#path(name);
    const size = await stat(path).then(
      (found) => (found.isFile() ? found.size : -1),
      () => -1,
    );
    if (size !== starts.at(-1)! * 4) return undefined;
    return this.#track(new FileStates(path, path, await open(path, "r+"), starts));
  }

  /** Lets go of states; what is on the disk stays. */
  async close(states: States): Promise<void> {
    if (this.#open.delete(states)) await states.close();
  }

  /** Lets go of states and of what they have on the disk. */
  async remove(states: States): Promise<void> {
    if (this.#open.delete(states)) await states.remove();
  }

  /** Removes what an earlier walk has left under a name. */
  async discard(name: string): Promise<void> {
    const path = this.#path(name);
    for (const file of [path, partial(path)]) await rm(file, { force: true });
  }

  /** Lets go of all states. */
  async end(how: "close" | "remove"): Promise<void> {
    for (const states of this.#open) await this[how](states);
  }

  #track(states: States): States {
    this.#open.add(states);
    return states;
  }
}

/** Name of states that are not finished. */
function partial(path: string): string {
  return `${path}.partial`;
}
