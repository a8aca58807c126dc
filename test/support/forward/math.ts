/**
 * The few operations that Gemma 4 is made of, each as its definition has it, in double precision.
 * Speed comes second: the largest input is some hundred tokens of a miniature.
 */

/** Values of a weight, in the precision that they were decoded to; every product is computed in doubles. */
export type Values = Float32Array | Float64Array;

/** Numbers, row by row: one row a token, or one a token and head. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns] */
  readonly values: Float64Array;
}

/** A matrix of zeros. */
export function zeros(rows: number, columns: number): Matrix {
  return { rows, columns, values: new Float64Array(rows * columns) };
}

/** One row, sharing its memory with the matrix. */
export function rowOf({ columns, values }: Matrix, row: number): Float64Array {
  return values.subarray(row * columns, (row + 1) * columns);
}

/** The same numbers in rows of another length: [T, heads · headDim] as [T · heads, headDim] and back. */
export function reshape({ values }: Matrix, columns: number): Matrix {
  return { rows: values.length / columns, columns, values };
}

function map(x: Matrix, f: (value: number, index: number) => number): Matrix {
  return { ...x, values: x.values.map(f) };
}

export function scale(x: Matrix, factor: number): Matrix {
  return map(x, (value) => value * factor);
}

/** x + y, of the same shape. */
export function add(x: Matrix, y: Matrix): Matrix {
  return map(x, (value, index) => value + y.values[index]!);
}

/** x ⊙ y, of the same shape. */
export function multiply(x: Matrix, y: Matrix): Matrix {
  return map(x, (value, index) => value * y.values[index]!);
}

/**
 * Σ a[i] · b[i] over the length of `a`, with `b` read from `start` on. Nearly all time is spent here, most of
 * it waiting for one addition before the next: hence four sums side by side.
 */
export function dot(a: Float64Array, b: Values, start = 0): number {
  const fours = a.length - (a.length % 4);
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let i = 0; i < fours; i += 4) {
    s0 += a[i]! * b[start + i]!;
    s1 += a[i + 1]! * b[start + i + 1]!;
    s2 += a[i + 2]! * b[start + i + 2]!;
    s3 += a[i + 3]! * b[start + i + 3]!;
  }
  for (let i = fours; i < a.length; i++) s0 += a[i]! * b[start + i]!;
  return s0 + s1 + s2 + s3;
}

/** Sees the rows that a matrix reads: all of a sequence, or one of an expert's. */
export type Watcher = (x: Matrix, expert: number | null) => void;

const watchers = new WeakMap<Values, Watcher>();

/** Shows a watcher whatever is multiplied by a matrix from now on. */
export function watch(weight: Values, watcher: Watcher): void {
  watchers.set(weight, watcher);
}

/** Shows the watcher of a matrix, or of a stack of them, what it reads. */
export function show(weight: Values, x: Matrix, expert: number | null = null): void {
  watchers.get(weight)?.(x, expert);
}

/**
 * x · Wᵀ
 *
 * @param x [rows, in]
 * @param weight W, [out, in] as PyTorch stores a linear layer
 * @returns [rows, out]
 */
export function linear(x: Matrix, weight: Values): Matrix {
  show(weight, x);
  const out = weight.length / x.columns;
  const y = zeros(x.rows, out);
  for (let row = 0; row < x.rows; row++) {
    const input = rowOf(x, row);
    for (let o = 0; o < out; o++) y.values[row * out + o] = dot(input, weight, o * x.columns);
  }
  return y;
}

/**
 * Every row divided by its root mean square, then multiplied by the weight as it is stored: Gemma 4 does not
 * add one to it, as Gemma 1 to 3 do.
 *
 * @param weight [columns]; null for the norms without one
 */
export function rmsNorm(x: Matrix, weight: Values | null, epsilon: number): Matrix {
  const y = zeros(x.rows, x.columns);
  for (let row = 0; row < x.rows; row++) {
    const input = rowOf(x, row);
    const meanSquare = dot(input, input) / x.columns;
    const factor = 1 / Math.sqrt(meanSquare + epsilon);
    const output = rowOf(y, row);
    for (let i = 0; i < x.columns; i++) output[i] = input[i]! * factor * (weight?.[i] ?? 1);
  }
  return y;
}

/** GELU by its tanh approximation, which is the function the model was trained with. */
export function geluTanh(x: Matrix): Matrix {
  const root = Math.sqrt(2 / Math.PI);
  return map(x, (value) => 0.5 * value * (1 + Math.tanh(root * (value + 0.044715 * value ** 3))));
}

/** Probabilities in proportion to exp(score); the largest is taken off first, so that none overflows. */
export function softmax(scores: Float64Array): Float64Array {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = scores.map((score) => Math.exp(score - largest));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
}
