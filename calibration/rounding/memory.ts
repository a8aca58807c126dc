import { formatSize } from "../../src/base/sizes.js";
import { RoundingError } from "./errors.js";
import { GROUP_ROWS, squaresOf } from "./metric.js";
import { factorValues, PANEL } from "./reverse-ldl.js";

const FLOAT_BYTES = 4;

/** A thread with ONNX Runtime, its arena at rest, and the kernels. */
const THREAD_BYTES = 96 * 2 ** 20;

/** Fewest rows at once: the products of a panel would cost more than what is made of them. */
const MIN_ROWS = 64;

/** A matrix whose bytes are to be known. */
export interface MatrixShape {
  readonly rows: number;
  readonly columns: number;
  /** Width of the squares of the form over its columns. */
  readonly blockWidth: number;
  /** Bytes of what it is rounded to. */
  readonly byteLength: number;
}

/** Bytes of a form over columns while it is factored: itself, what the runtime cuts out of it, and the factor. */
export function factorBytes(columns: number, blockWidth: number): number {
  const sizes = squaresOf(columns, blockWidth).map(({ size }) => size);
  const values = sizes.reduce((sum, size) => sum + size ** 2 + factorValues(size), 0);
  const widest = Math.max(...sizes);
  return FLOAT_BYTES * (values + widest ** 2 / 4 + 4 * widest * PANEL);
}

/** Bytes that a thread needs for `rows` rows: their errors twice (the runtime copies a part), and panels of both sides. */
function unitBytes(rows: number, columns: number, blockWidth: number): number {
  const width = Math.min(columns, blockWidth);
  const rowForm = Math.min(rows, GROUP_ROWS) ** 2 * 2;
  return FLOAT_BYTES * (2 * rows * columns + 2 * width * PANEL + 6 * rows * PANEL + rowForm) + THREAD_BYTES;
}

/** How a matrix is divided among threads. */
export interface Division {
  /** Rows that a thread takes at once, and which feed back on each other where rows do. */
  readonly rows: number;
  /** Threads at a time. */
  readonly threads: number;
  /** Bytes in all at most. */
  readonly bytes: number;
}

/**
 * Divides memory for a matrix: as many rows at once as one thread has room for, since it is they that feed back on
 * each other, and then as many threads.
 *
 * @throws RoundingError `memory-too-small`
 */
export function divideMatrix(
  name: string,
  shape: MatrixShape,
  { memory, threads }: { readonly memory: number; readonly threads: number },
): Division {
  const { columns, blockWidth, byteLength } = shape;
  const shared = factorBytes(columns, blockWidth) + byteLength;
  for (let each = GROUP_ROWS; each >= MIN_ROWS; each /= 2) {
    const rows = Math.min(each, shape.rows);
    const bytes = unitBytes(rows, columns, blockWidth);
    if (shared + bytes > memory) continue;
    const count = Math.min(threads, Math.floor((memory - shared) / bytes));
    return { rows, threads: count, bytes: shared + count * bytes };
  }
  const needed = shared + unitBytes(Math.min(MIN_ROWS, shape.rows), columns, blockWidth);
  throw new RoundingError(
    "memory-too-small",
    `${formatSize(memory)} do not suffice to round ${name} with feedback, expected ${formatSize(needed)} or more.`,
    { exitCode: 2, advice: "Raise --memory, or round it by search." },
  );
}
