import { readSync } from "node:fs";
import { bfloatsToFloats, halvesToFloats } from "../../src/blocks/floats.js";
import { rowBytes } from "../../src/blocks/table.js";
import { RoundingError } from "./errors.js";

/** A matrix of a checkpoint. */
export interface MatrixSource {
  /** For messages. */
  readonly name: string;
  readonly path: string;
  /** Of the first value, in bytes. */
  readonly offset: number;
  readonly type: "F32" | "F16" | "BF16";
  readonly rows: number;
  readonly columns: number;
  /** What each column is multiplied by before it is rounded, [columns]: powers of two. */
  readonly columnScales?: Float32Array<SharedArrayBuffer> | undefined;
  /** The same for each row, [rows]. */
  readonly rowScales?: Float32Array<SharedArrayBuffer> | undefined;
}

const converters = {
  F32: (bytes: Uint8Array, out: Float32Array): void => {
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
  },
  F16: halvesToFloats,
  BF16: bfloatsToFloats,
};

/**
 * Reads rows of a matrix.
 *
 * @param descriptor the open file
 * @returns [rows, columns]
 * @throws RoundingError `input-truncated`, `non-finite`; the system's own errors
 */
export function readRows(
  descriptor: number,
  source: MatrixSource,
  first: number,
  rows: number,
): Float32Array<ArrayBuffer> {
  const { name, path, offset, type, columns, columnScales, rowScales } = source;
  const bytes = new Uint8Array(rowBytes(type, columns) * rows);
  const start = offset + rowBytes(type, columns) * first;
  for (let done = 0; done < bytes.length;) {
    const got = readSync(descriptor, bytes, done, bytes.length - done, start + done);
    if (got === 0) {
      throw new RoundingError(
        "input-truncated",
        `${path} ends at byte ${start + done}, inside tensor ${name}.`,
      );
    }
    done += got;
  }
  const values = new Float32Array(rows * columns);
  converters[type](bytes, values);
  for (let row = 0; row < rows; row++) {
    const factor = rowScales?.[first + row] ?? 1;
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      const value = values[at]! * factor * (columnScales?.[column] ?? 1);
      if (!Number.isFinite(value)) {
        throw new RoundingError(
          "non-finite",
          `tensor ${name} in ${path}: the value at row ${first + row}, column ${column} is ${values[at]}, expected finite numbers only.`,
          { advice: "The file is damaged or the training went wrong: fetch the checkpoint anew." },
        );
      }
      values[at] = value;
    }
  }
  return values;
}
