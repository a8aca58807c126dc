import type { ElementTypeName } from "../../../formats/onnx/element-types.js";
import { Gemma4Error } from "../errors.js";
import type { Weight } from "../types.js";

/** Values as they are: a number each. */
export interface FloatForm {
  readonly kind: "float";
  readonly type: "FLOAT" | "FLOAT16" | "BFLOAT16";
}

/**
 * Codes of a few bits with a scale, and perhaps a zero point, for each block of a row, as MatMulNBits and
 * GatherBlockQuantized read them; the scales are halves.
 */
export interface NBitsForm {
  readonly kind: "nbits";
  readonly bits: 2 | 4 | 8;
  /** Values of a row that share a scale. */
  readonly block: number;
  readonly zeroPoints: boolean;
}

/** How the values of a weight lie in a model. */
export type StoredForm = FloatForm | NBitsForm;

/** A run of rows or columns. */
export interface Range {
  readonly first: number;
  readonly count: number;
}

/** A tensor that a graph needs, and what of which weight it holds. */
export interface GraphTensor {
  readonly name: string;
  readonly type: ElementTypeName;
  readonly dims: readonly number[];
  readonly weight: Weight;
  readonly form: StoredForm;
  readonly part: "values" | "codes" | "scales" | "zeroPoints";
  /** Where the weight is cut into several tensors: which of its rows (all but the last dimension) this one has. */
  readonly rows?: Range;
  /** Which of its columns. */
  readonly columns?: Range;
}

/** Decides how weights come into a graph. */
export interface WeightSource {
  form(weight: Weight): StoredForm;
  /** Largest tensor in bytes: what is larger is cut into several. */
  readonly maxTensorBytes: number;
}

/** Bytes that a row of `row` values takes in the largest tensor of a form. */
export function largestRow(form: StoredForm, row: number): number {
  if (form.kind === "float") return row * (form.type === "FLOAT" ? 4 : 2);
  return (Math.ceil(row / form.block) * form.block * form.bits) / 8;
}

/**
 * Cuts `total` into as few runs as it takes for none to be longer than `most`, all but the last of one length, which
 * is a multiple of `quantum`.
 *
 * @param name of the weight, for messages
 * @throws Gemma4Error `tensor-too-large` when `quantum` is longer than `most`
 */
export function cut(total: number, most: number, quantum: number, name: string): Range[] {
  if (total <= most) return [{ first: 0, count: total }];
  const longest = Math.floor(most / quantum) * quantum;
  if (longest === 0) {
    throw new Gemma4Error(
      "tensor-too-large",
      `${name}: a data file holds ${most} of its ${total} rows or columns, expected at least ${quantum}.`,
      { advice: "Give it a type of fewer bits." },
    );
  }
  const runs = Math.ceil(total / longest);
  const length = Math.ceil(total / runs / quantum) * quantum;
  const ranges: Range[] = [];
  for (let first = 0; first < total; first += length) {
    ranges.push({ first, count: Math.min(length, total - first) });
  }
  return ranges;
}
