import type { TargetType } from "../../src/pool/tiles.js";
import type { Moments } from "../statistics/types.js";
import type { Crew } from "./crew.js";
import { divideMatrix, type MatrixShape } from "./memory.js";
import { addSquare, type InputMetric, squaresOf, traceOf } from "./metric.js";
import type { Factor } from "./reverse-ldl.js";
import { outputBytes } from "./round-rows.js";
import type { MatrixSource } from "./source.js";
import type { Effort } from "./types.js";

/** Part of the mean of G's diagonal that is added to it: gradients are fewer and noisier than inputs. */
export const ROW_DAMPING = 0.07;

/** The form over the columns of a matrix, ready to be used. */
export interface ColumnForm {
  readonly columns: number;
  readonly blockWidth: number;
  readonly factors: readonly Factor<SharedArrayBuffer>[];
}

/** Factors the form over the inputs of some matrices; its squares are moved away. */
export async function factorMetric(crew: Crew, metric: InputMetric, damping?: number): Promise<ColumnForm> {
  const factors: Factor<SharedArrayBuffer>[] = [];
  for (const square of metric.squares) factors.push(await crew.factor(square, damping));
  return { columns: metric.columns, blockWidth: metric.blockWidth, factors };
}

export interface MatrixJob {
  readonly source: MatrixSource;
  readonly target: TargetType;
  readonly effort: Effort;
  readonly form: ColumnForm;
  /** G, second moments of the gradients at the outputs, of as many columns as the matrix has rows; null without. */
  readonly gradients: Moments | null;
  /** Bytes for all that is in memory for the matrix. */
  readonly memory: number;
  readonly rowDamping?: number;
}

export interface RoundedMatrix {
  /** Blocks; or codes, scales and, where the type has them, zero points. */
  readonly outputs: readonly Uint8Array<SharedArrayBuffer>[];
  /**
   * Σ over rows and columns of what the forms say, damping included. The mean of the diagonal of the form over the
   * columns is 1, and so is that of the form over the rows.
   */
  readonly loss: number;
  /** The largest part of the mean that had to be added to the diagonals of the forms. */
  readonly damping: { readonly columns: number; readonly rows: number | null };
  /** Rows that fed back on each other. */
  readonly groupRows: number;
}

/**
 * Rounds a matrix with feedback on the threads of a crew, some rows each.
 *
 * @throws RoundingError `memory-too-small`, `non-finite`, `input-truncated`
 */
export async function roundMatrix(crew: Crew, job: MatrixJob): Promise<RoundedMatrix> {
  const { source, target, effort, form, gradients, memory, rowDamping = ROW_DAMPING } = job;
  const { rows, columns } = source;
  if (form.columns !== columns) {
    throw new RangeError(`${source.name} has ${columns} columns, its inputs have ${form.columns}`);
  }
  if (gradients !== null && gradients.columns !== rows) {
    throw new RangeError(`${source.name} has ${rows} rows, its gradients have ${gradients.columns}`);
  }
  const sizes = outputBytes(target, columns, rows);
  const shape: MatrixShape = {
    rows,
    columns,
    blockWidth: form.blockWidth,
    byteLength: sizes.reduce((sum, bytes) => sum + bytes, 0),
  };
  const division = divideMatrix(source.name, shape, { memory, threads: crew.threads });
  const outputs = sizes.map((bytes) => new Uint8Array(new SharedArrayBuffer(bytes)));
  const strides = outputBytes(target, columns, 1);
  const groups = squaresOf(rows, groupRows(rows, division.rows, division.threads, gradients !== null));
  const trace = gradients === null ? 0 : traceOf(gradients);
  let loss = 0;
  let damping: number | null = null;
  let next = 0;
  const take = async (): Promise<void> => {
    for (let group = groups[next++]; group !== undefined; group = groups[next++]) {
      const { start: first, size } = group;
      let rowForm = null;
      if (gradients !== null && trace > 0) {
        const matrix = new Float32Array(size ** 2);
        addSquare(matrix, gradients, group, rows / trace);
        rowForm = { matrix, damping: rowDamping };
      }
      const done = await crew.round({
        source,
        first,
        rows: size,
        target,
        effort,
        columnFactors: form.factors,
        rowForm,
        outputs: outputs.map((output, index) => {
          const stride = strides[index]!;
          return output.subarray(first * stride, (first + size) * stride);
        }),
      });
      loss += done.loss;
      if (done.damping !== null) damping = Math.max(damping ?? 0, done.damping);
    }
  };
  await Promise.all(Array.from({ length: division.threads }, take));
  return {
    outputs,
    loss,
    damping: { columns: Math.max(...form.factors.map((factor) => factor.damping)), rows: damping },
    groupRows: gradients === null ? 1 : division.rows,
  };
}

/** Rows of a group: those that feed back on each other, or an even share of each thread. */
function groupRows(rows: number, most: number, threads: number, together: boolean): number {
  if (together) return most;
  const turns = Math.ceil(rows / (most * threads));
  return Math.min(most, Math.ceil(rows / (turns * threads) / 4) * 4);
}
