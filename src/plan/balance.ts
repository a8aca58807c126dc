import { createHash } from "node:crypto";
import { exponentsOf, type FoldedChannels, type TensorExponents } from "../gemma4/folds.js";

/** Powers of two that a tensor's values are multiplied with before they are rounded, in memory that threads share. */
export interface TensorFactors {
  /** One for each column, matrix by matrix. */
  readonly columns?: Float32Array<SharedArrayBuffer>;
  /** One for each row. */
  readonly rows?: Float32Array<SharedArrayBuffer>;
}

function shared(count: number, value: (index: number) => number): Float32Array<SharedArrayBuffer> {
  const floats = new Float32Array(new SharedArrayBuffer(count * 4));
  for (let index = 0; index < count; index++) floats[index] = value(index);
  return floats;
}

function powers(exponents: Int8Array | undefined): Float32Array<SharedArrayBuffer> | undefined {
  if (exponents === undefined || exponents.every((exponent) => exponent === 0)) return undefined;
  return shared(exponents.length, (index) => 2 ** exponents[index]!);
}

function factorsOf({ columns, rows }: TensorExponents): TensorFactors | undefined {
  const found = { columns: powers(columns), rows: powers(rows) };
  if (found.columns === undefined && found.rows === undefined) return undefined;
  return {
    ...(found.columns === undefined ? {} : { columns: found.columns }),
    ...(found.rows === undefined ? {} : { rows: found.rows }),
  };
}

/** What a tensor needs to be balanced: its importance was measured on the model as it is. */
interface Balanceable {
  readonly importance?: Float32Array<SharedArrayBuffer> | undefined;
  readonly factors?: TensorFactors | undefined;
}

/**
 * Balances tensors: what meets a column that is multiplied by s is divided by it, so that its mean square,
 * the importance, is divided by s².
 *
 * @param nameOf name of a tensor in GGUF
 */
export function balanceTensors<T extends Balanceable>(
  tensors: readonly T[],
  folded: readonly FoldedChannels[],
  nameOf: (tensor: T) => string,
): T[] {
  const exponents = exponentsOf(folded);
  return tensors.map((tensor) => {
    const found = exponents.get(nameOf(tensor));
    const factors = found === undefined ? undefined : factorsOf(found);
    if (factors === undefined) return tensor;
    const { importance } = tensor;
    const { columns } = factors;
    if (importance === undefined || columns === undefined) return { ...tensor, factors };
    const scaled = shared(importance.length, (at) => importance[at]! / columns[at]! ** 2);
    return { ...tensor, factors, importance: scaled };
  });
}

/** SHA-256 of the factors of columns, and of those of rows. */
export function factorsHash({ columns, rows }: TensorFactors): string {
  return [columns, rows]
    .map((side) => (side === undefined ? "" : createHash("sha256").update(side).digest("hex")))
    .join(" ");
}
