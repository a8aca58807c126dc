import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { joinChecksums } from "../blocks/kernels/checksums.js";
import { Kernels } from "../blocks/kernels/kernels.js";
import { compileKernels } from "../blocks/kernels/load.js";
import { PoolError } from "./errors.js";
import { MAX_TILE_VALUES } from "./memory.js";
import { type OutputRange, rangesOf, TILE_QUANTUM, Tiling, type TensorJob } from "./tiles.js";

/** 64 bits: more than enough to tell some thousand tensors from what damage makes of them. */
const HASH_DIGITS = 16;

/**
 * Hash of a job's outputs: of the checksums of its tiles, in order. It depends on how the job was cut, so it
 * says something only together with the size of the tiles.
 */
export function hashOfChecksums(checksums: Uint32Array): string {
  return createHash("sha256").update(checksums).digest("hex").slice(0, HASH_DIGITS);
}

/** Whether a number may be the size of tiles that a run has cut jobs into. */
export function isTileSize(tileValues: number): boolean {
  return Number.isSafeInteger(tileValues) && tileValues >= TILE_QUANTUM && tileValues <= MAX_TILE_VALUES;
}

/**
 * Reads the outputs of jobs and hashes them as `runTiles` does while it writes. It works on the thread that
 * calls it, a tile at a time (2 MiB at most): the disk is the limit, since a checksum takes a hundredth of what
 * reading takes.
 */
export class OutputReader {
  readonly #kernels: Kernels;
  readonly #files = new Map<string, FileHandle>();

  private constructor(kernels: Kernels) {
    this.#kernels = kernels;
  }

  /** `close` has to be called. */
  static async create(): Promise<OutputReader> {
    return new OutputReader(new Kernels(await compileKernels(), MAX_TILE_VALUES));
  }

  /**
   * @param tileValues size of the tiles, one that `isTileSize` takes
   * @param onRead gets the values of each tile that was read; what it throws ends the reading
   * @returns what `runTiles` reports for the job where its bytes are those that were written; undefined where
   *   they cannot be read, or no run can have cut the job like that
   */
  async hash(
    job: TensorJob,
    tileValues: number,
    onRead: (values: number) => void = () => {},
  ): Promise<string | undefined> {
    const tiling = tilingOf(job, tileValues);
    if (tiling === undefined) return undefined;
    const checksums = new Uint32Array(tiling.total);
    for (let number = 0; number < tiling.total; number++) {
      const tile = tiling.at(number);
      const ofOutputs: number[] = [];
      for (const range of rangesOf(job, tile)) {
        if (!(await this.#read(range))) return undefined;
        ofOutputs.push(this.#kernels.checksumOf(range.bytes));
      }
      checksums[number] = typeof job.target === "string" ? ofOutputs[0]! : joinChecksums(ofOutputs);
      onRead(tile.values);
    }
    return hashOfChecksums(checksums);
  }

  /** Fills the input of the kernels; false where the file does not give so much. */
  async #read({ path, offset, bytes }: OutputRange): Promise<boolean> {
    try {
      let file = this.#files.get(path);
      if (file === undefined) {
        file = await open(path, "r");
        this.#files.set(path, file);
      }
      for (let done = 0; done < bytes;) {
        const { bytesRead } = await file.read(this.#kernels.input, done, bytes - done, offset + done);
        if (bytesRead === 0) return false;
        done += bytesRead;
      }
      return true;
    } catch {
      // Bytes that a failing disk does not give back are as lost as wrong ones.
      return false;
    }
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }
}

function tilingOf(job: TensorJob, tileValues: number): Tiling | undefined {
  try {
    return new Tiling([job], tileValues);
  } catch (error) {
    // Rows that may not be cut and are longer than the tiles.
    if (error instanceof PoolError) return undefined;
    throw error;
  }
}
