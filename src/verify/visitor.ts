import type { CreateVisitor } from "../engines/types.js";

/**
 * What the visitor makes of a scored position, in the order of its columns. With one model only `nll` is
 * there. The reference is the first model, the candidate the second.
 */
export const column = {
  /** Negative log-likelihood of the token that follows, in nats, by the first model. */
  nll: 0,
  /** The same by the second model. */
  candidateNll: 1,
  /** KL(first ‖ second) over the whole vocabulary, in nats. */
  divergence: 2,
  /** 1 when both models put the same token first (the lowest id where logits are equal), else 0. */
  sameTop: 3,
} as const;

export const singleColumns = 1;
export const pairColumns = 4;

/** Index of the largest logit, the first one where several are equal; -1 when there is a NaN. */
function argmax(row: Float32Array): number {
  let best = 0;
  let most = row[0] as number;
  let sound = most === most;
  for (let i = 1; i < row.length; i++) {
    const value = row[i] as number;
    if (value > most) {
      most = value;
      best = i;
    }
    sound &&= value === value;
  }
  return sound ? best : -1;
}

function visitOne(row: Float32Array, target: number, out: Float64Array): void {
  const top = argmax(row);
  const most = row[top] ?? Number.NaN;
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp((row[i] as number) - most);
  out[column.nll] = most + Math.log(sum) - (row[target] as number);
}

function visitPair(base: Float32Array, other: Float32Array, target: number, out: Float64Array): void {
  const baseTop = argmax(base);
  const otherTop = argmax(other);
  const baseMost = base[baseTop] ?? Number.NaN;
  const otherMost = other[otherTop] ?? Number.NaN;
  let baseSum = 0;
  let otherSum = 0;
  let weighted = 0;
  for (let i = 0; i < base.length; i++) {
    const a = (base[i] as number) - baseMost;
    const b = (other[i] as number) - otherMost;
    const weight = Math.exp(a);
    baseSum += weight;
    otherSum += Math.exp(b);
    // A token that the reference rules out (-inf) counts nothing, whatever the candidate says of it.
    if (weight !== 0) weighted += weight * (a - b);
  }
  const baseLog = Math.log(baseSum);
  const otherLog = Math.log(otherSum);
  out[column.nll] = baseMost + baseLog - (base[target] as number);
  out[column.candidateNll] = otherMost + otherLog - (other[target] as number);
  out[column.divergence] = weighted / baseSum - baseLog + otherLog;
  out[column.sameTop] = baseTop === otherTop ? 1 : 0;
}

export const createVisitor: CreateVisitor = (_vocabulary, models) =>
  models === 1
    ? { columns: singleColumns, visit: (rows, target, out) => visitOne(rows[0] as Float32Array, target, out) }
    : {
        columns: pairColumns,
        visit: (rows, target, out) =>
          visitPair(rows[0] as Float32Array, rows[1] as Float32Array, target, out),
      };
