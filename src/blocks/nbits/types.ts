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
