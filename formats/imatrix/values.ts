import { ImatrixError } from "./errors.js";

/** Real: 54 MB, every expert of the 26B. */
export const MAX_VALUES_BYTES = 2 ** 30;

export function shared(length: number): Float32Array<SharedArrayBuffer> {
  return new Float32Array(new SharedArrayBuffer(length * 4));
}

/** @throws ImatrixError for a value that no sum of squares and no count can have */
export function checkValues(path: string, name: string, values: Float32Array): void {
  const at = values.findIndex((value) => !(value >= 0 && value < Infinity));
  if (at === -1) return;
  throw new ImatrixError(
    "imatrix-value",
    `${path}: value ${at} of ${name} is ${values[at]}, expected a finite number from 0 up.`,
    { advice: "The calibration went wrong or the file is damaged: make it again." },
  );
}
