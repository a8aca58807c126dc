import { BlockError } from "../errors.js";

/**
 * Whole numbers of a few bits with a scale for each block of a row, as ONNX Runtime's MatMulNBits and
 * GatherBlockQuantized read them: value = (code − zero point) · scale.
 */
export interface NBitsType {
  readonly bits: 2 | 4 | 8;
  /** Values of a row that share a scale: 16, 32, 64, 128 or 256. The last block of a row may be cut short. */
  readonly block: number;
  /** Whether every block has a zero point of its own; where not it is 2^(bits − 1) for all of them. */
  readonly zeroPoints: boolean;
}

/** Bytes that one row takes in each of the tensors that hold a matrix. */
export interface NBitsRow {
  /** ⌈row / block⌉ blocks of block · bits / 8 bytes, lowest bits first; padded with zero points' codes. */
  readonly codes: number;
  /** A half for each block. */
  readonly scales: number;
  /** ⌈blocks · bits / 8⌉, lowest bits first; 0 for a type without zero points. */
  readonly zeroPoints: number;
}

/** Sizes of a row of `row` values. */
export function nbitsRow({ bits, block, zeroPoints }: NBitsType, row: number): NBitsRow {
  const blocks = Math.ceil(row / block);
  return {
    codes: (blocks * block * bits) / 8,
    scales: 2 * blocks,
    zeroPoints: zeroPoints ? Math.ceil((blocks * bits) / 8) : 0,
  };
}

/**
 * How values find their places. `nearest`: by the scale of the extreme value, or of the range with zero points, as
 * ONNX Runtime's own quantizer does. `search`: the least Σ importance · (value − stored)² that a search finds, with
 * every value as important where none is given; it never loses more than `nearest`.
 */
export type NBitsMethod = "search" | "nearest";

/** Rows of a matrix as the runtime's tensors hold them; see `NBitsRow` for the bytes of each row. */
export interface NBitsTensors {
  readonly codes: Uint8Array;
  /** Little-endian halves. */
  readonly scales: Uint8Array;
  /** Empty for a type without zero points. */
  readonly zeroPoints: Uint8Array;
}

/** A block: value = (code − zero) · scale. */
export interface Fit {
  /** As a half stores it. */
  readonly scale: number;
  /** Code of the value 0. */
  readonly zero: number;
}

/** The highest code of a type. */
export function topOf({ bits }: NBitsType): number {
  return 2 ** bits - 1;
}

/** The zero point of types that store none. */
export function middleOf({ bits }: NBitsType): number {
  return 2 ** (bits - 1);
}

/**
 * Checks a type and the shape of what is stored in it.
 *
 * @throws BlockError `bad-nbits` for bits or a block that the runtime's kernels do not know, or for a row or a number
 *   of rows that is not a whole number from 1 on
 */
export function checkNBits({ bits, block }: NBitsType, row: number, rows: number): void {
  if (![2, 4, 8].includes(bits) || ![16, 32, 64, 128, 256].includes(block)) {
    throw new BlockError("bad-nbits", `codes of ${bits} bits in blocks of ${block} are not known`, {
      advice: "There are 2, 4 and 8 bits, and blocks of 16, 32, 64, 128 and 256 values.",
    });
  }
  if (!Number.isSafeInteger(row) || row < 1 || !Number.isSafeInteger(rows) || rows < 1) {
    throw new BlockError(
      "bad-nbits",
      `${rows} rows of ${row} values cannot be stored: both must be at least 1`,
    );
  }
}
