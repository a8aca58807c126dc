import { BlockError } from "../errors.js";
import { halfToFloat } from "../floats.js";
import { codeAt } from "./pack.js";
import { checkNBits, middleOf, nbitsRow, type NBitsTensors, type NBitsType } from "./types.js";

/**
 * Unpacks whole rows: (code − zero point) · scale, which float32 holds exactly.
 *
 * @param row values in a row
 * @param out the values of the rows, without the padding of their last blocks
 * @throws BlockError `bad-nbits`; `wrong-length` when a tensor is not as long as the rows of `out`
 */
export function decodeNBits(type: NBitsType, row: number, tensors: NBitsTensors, out: Float32Array): void {
  const rows = out.length / row;
  checkNBits(type, row, rows);
  const sizes = nbitsRow(type, row);
  for (const part of ["codes", "scales", "zeroPoints"] as const) {
    if (tensors[part].length === rows * sizes[part]) continue;
    throw new BlockError(
      "wrong-length",
      `${part} of ${rows} rows of ${row} values take ${rows * sizes[part]} bytes, not ${tensors[part].length}`,
    );
  }
  const { bits, block, zeroPoints } = type;
  for (let r = 0; r < rows; r++) {
    const codes = tensors.codes.subarray(r * sizes.codes, (r + 1) * sizes.codes);
    const scales = tensors.scales.subarray(r * sizes.scales, (r + 1) * sizes.scales);
    const points = tensors.zeroPoints.subarray(r * sizes.zeroPoints, (r + 1) * sizes.zeroPoints);
    for (let k = 0; k < row; k++) {
      const b = Math.floor(k / block);
      const zero = zeroPoints ? codeAt(points, bits, b) : middleOf(type);
      const scale = halfToFloat(scales[2 * b]! | (scales[2 * b + 1]! << 8));
      out[r * row + k] = (codeAt(codes, bits, k) - zero) * scale;
    }
  }
}
