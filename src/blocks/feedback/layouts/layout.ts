import { floatToHalf } from "../../floats.js";
import type { Grid } from "../grid.js";

/** One block as its grid has it. Arrays are as long as the most groups and values of a block. */
export interface Fields {
  scale: number;
  offset: number;
  /** Code of the value 0, for types with zero points; 0 for others. */
  zero: number;
  readonly scaleCodes: Float32Array;
  readonly offsetCodes: Float32Array;
  readonly levels: Float32Array;
}

/** Reads and writes the blocks of a type. */
export interface Layout {
  readonly grid: Grid;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Takes everything but the levels from a block. */
  read(block: Uint8Array, fields: Fields): void;
  /** Writes a block; its scale and offset are halves already. */
  write(fields: Fields, block: Uint8Array): void;
}

/** Levels counted from the lowest. */
export function countedFrom(lowest: number, levels: Float32Array, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, j) => levels[j]! - lowest);
}

/** Stores a half, low byte first. */
export function storeHalf(value: number, out: Uint8Array, at: number): void {
  const half = floatToHalf(value);
  out[at] = half;
  out[at + 1] = half >>> 8;
}
