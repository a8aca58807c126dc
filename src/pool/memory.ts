import { formatSize } from "../base/sizes.js";
import { PoolError } from "./errors.js";

/**
 * What a worker thread takes besides its tile: its own JavaScript heap, stack and compiled code. Resident
 * memory of Node 20 grows by 7 MiB a worker.
 */
const WORKER_BYTES = 8 * 2 ** 20;

/** Bytes of WebAssembly memory for each value of a tile: F32 at most on either side; codes with scales take 1.2. */
const BYTES_PER_VALUE = 8;

/*
 * Values in a tile. One core, BF16 in the page cache, MB/s of processor time by size of the tile:
 *
 *           64 Ki  128 Ki  256 Ki  512 Ki   1 Mi
 *   BF16     1610    1870    2050    2130   2370
 *   F16      1260    1200    1300    1390   1510
 *   Q8_0     1080    1310    1350    1380   1300
 *   Q4_0     1110    1180    1310    1340   1400
 *
 * Larger tiles buy little and fall out of the processor's cache between reading, converting and writing
 * when every core works.
 */
const MIN_TILE_VALUES = 2 ** 16;
export const MAX_TILE_VALUES = 2 ** 19;

/** Smallest ceiling that one worker can live under. */
export const MIN_MEMORY_BYTES = WORKER_BYTES + MIN_TILE_VALUES * BYTES_PER_VALUE;

export interface MemorySplit {
  /** At most the number asked for. */
  readonly threads: number;
  /** Most values in a tile. */
  readonly tileValues: number;
}

/**
 * Divides a memory ceiling among workers: as many of the threads asked for as fit, each with the largest
 * tile that is still useful.
 *
 * @throws PoolError `memory-too-small`
 */
export function splitMemory(options: {
  readonly memoryBytes: number;
  readonly threads: number;
  /** Bytes that were taken off the ceiling already, for what the workers share. */
  readonly shared?: number;
}): MemorySplit {
  const { memoryBytes, threads, shared = 0 } = options;
  if (memoryBytes < MIN_MEMORY_BYTES) {
    throw new PoolError(
      "memory-too-small",
      `a memory ceiling of ${formatSize(memoryBytes + shared)} is too low, expected ${formatSize(MIN_MEMORY_BYTES + shared)} or more`,
      { exitCode: 2, advice: "Raise --memory." },
    );
  }
  const fitting = Math.max(1, Math.min(threads, Math.floor(memoryBytes / MIN_MEMORY_BYTES)));
  const values = Math.floor((memoryBytes / fitting - WORKER_BYTES) / BYTES_PER_VALUE);
  const step = MIN_TILE_VALUES;
  return { threads: fitting, tileValues: Math.min(MAX_TILE_VALUES, Math.floor(values / step) * step) };
}
