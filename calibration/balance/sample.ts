import { openFile } from "../../formats/file-source.js";
import type { ByteSource } from "../../formats/source.js";
import { bfloatsToFloats, halvesToFloats } from "../../src/blocks/floats.js";
import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import type { BalanceTensor } from "./types.js";

/** Rows that a matrix is judged by: the spread of a column of 64 is known to 9 %, a sixth of a power of two. */
const SAMPLE_ROWS = 64;
/** Of each matrix of a stack whose columns are its own: 128 experts of 64 rows would be read almost whole. */
const STACK_ROWS = 24;
/** Values that are decoded at a time where a matrix is read whole: 4 MiB. */
const PIECE_VALUES = 2 ** 20;

/** Rows of a matrix. */
export interface RowSample {
  /** Row numbers in the whole stack. */
  readonly rows: readonly number[];
  /** [rows, row] */
  readonly values: Float32Array;
}

/** Number of rows, all matrices of a stack together. */
export function rowsOf({ ne }: Pick<BalanceTensor, "ne">): number {
  return ne.slice(1).reduce((product, size) => product * size, 1);
}

function decodeTo(type: BlockTypeName, bytes: Uint8Array, out: Float32Array): void {
  if (type === "BF16") bfloatsToFloats(bytes, out);
  else if (type === "F16") halvesToFloats(bytes, out);
  else new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
}

/** Reads tensors of a few files, which stay open until `close`. */
export class TensorReader {
  readonly #files = new Map<string, ByteSource>();

  async #file(path: string): Promise<ByteSource> {
    const open = this.#files.get(path) ?? (await openFile(path));
    this.#files.set(path, open);
    return open;
  }

  /** @throws FormatError when the file ends early */
  async #read(tensor: BalanceTensor, first: number, out: Float32Array): Promise<void> {
    const { path, offset, source } = tensor;
    const file = await this.#file(path);
    const bytes = new Uint8Array(rowBytes(source, out.length));
    await file.read(bytes, offset + rowBytes(source, first));
    decodeTo(source, bytes, out);
  }

  /** All values of a vector. */
  async vector(tensor: BalanceTensor): Promise<Float32Array> {
    const values = new Float32Array((tensor.ne[0] ?? 1) * rowsOf(tensor));
    await this.#read(tensor, 0, values);
    return values;
  }

  /**
   * Rows that lie evenly in a matrix.
   *
   * @param own whether every matrix of a stack has to be among them
   */
  async sample(tensor: BalanceTensor, own: boolean): Promise<RowSample> {
    const [row = 1, , matrices = 1] = tensor.ne;
    const all = rowsOf(tensor);
    const groups = own ? matrices : 1;
    const each = Math.min(all / groups, groups === 1 ? SAMPLE_ROWS : STACK_ROWS);
    const rows: number[] = [];
    for (let group = 0; group < groups; group++) {
      const start = (group * all) / groups;
      for (let index = 0; index < each; index++)
        rows.push(start + Math.floor(((index + 0.5) * all) / groups / each));
    }
    const values = new Float32Array(rows.length * row);
    for (const [index, number] of rows.entries()) {
      await this.#read(tensor, number * row, values.subarray(index * row, (index + 1) * row));
    }
    return { rows, values };
  }

  /**
   * Root of Σ (scale · value)² of each row. The whole matrix is read.
   *
   * @param scales of the columns, [row]
   */
  async rowNorms(tensor: BalanceTensor, scales: Float64Array, signal: AbortSignal): Promise<Float64Array> {
    const row = tensor.ne[0] ?? 1;
    const norms = new Float64Array(rowsOf(tensor));
    const squares = scales.map((scale) => scale * scale);
    const count = Math.max(1, Math.floor(PIECE_VALUES / row));
    const piece = new Float32Array(count * row);
    for (let first = 0; first < norms.length; first += count) {
      signal.throwIfAborted();
      const rows = Math.min(count, norms.length - first);
      const values = piece.subarray(0, rows * row);
      await this.#read(tensor, first * row, values);
      for (let index = 0; index < rows; index++) {
        let sum = 0;
        const at = index * row;
        for (let column = 0; column < row; column++) {
          const value = values[at + column]!;
          sum += squares[column]! * value * value;
        }
        norms[first + index] = Math.sqrt(sum);
      }
    }
    return norms;
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }
}
