import type { CreateVisitor } from "../engines/types.js";
import { exponential, vanishing } from "./exponential.js";

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

/**
 * Logits that are added in one call. Rows are cut up so that the functions with the loops return often: V8
 * then compiles them whole, instead of in the middle of a loop of 262,144 rounds, where it has not seen yet
 * what comes after (which made a row two to four times as slow).
 */
const blockLength = 2048;

/** Index of the largest logit from `from` on, the first one where several are equal, or `best` if none is larger. */
function largestInBlock(row: Float32Array, from: number, to: number, best: number): number {
  let most = row[best] as number;
  let found = best;
  for (let i = from; i < to; i++) {
    const value = row[i] as number;
    if (value > most) {
      most = value;
      found = i;
    }
  }
  return found;
}

function largest(row: Float32Array): number {
  let best = 0;
  for (let from = 0; from < row.length; from += blockLength) {
    best = largestInBlock(row, from, Math.min(row.length, from + blockLength), best);
  }
  return best;
}

/** Σ e^(logit − most) over a block. */
function sumBlock(row: Float32Array, from: number, to: number, most: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) {
    const x = (row[i] as number) - most;
    if (x >= vanishing) sum += exponential(x);
    else if (Number.isNaN(x)) sum = x;
  }
  return sum;
}

/** ln Σ e^logit, less the largest logit. */
function logSum(row: Float32Array, most: number): number {
  let sum = 0;
  for (let from = 0; from < row.length; from += blockLength) {
    sum += sumBlock(row, from, Math.min(row.length, from + blockLength), most);
  }
  return Math.log(sum);
}

function visitOne(row: Float32Array, target: number, out: Float64Array): void {
  const most = row[largest(row)] as number;
  out[column.nll] = most + logSum(row, most) - (row[target] as number);
}

/** Adds a block's Σ e^a, Σ e^b and Σ e^a (a − b) to `sums`; a and b are logits less the largest of their row. */
function pairBlock(
  base: Float32Array,
  other: Float32Array,
  from: number,
  to: number,
  baseMost: number,
  otherMost: number,
  sums: Float64Array,
): void {
  let baseSum = 0;
  let otherSum = 0;
  let weighted = 0;
  for (let i = from; i < to; i++) {
    const a = (base[i] as number) - baseMost;
    const b = (other[i] as number) - otherMost;
    // A token that the reference rules out counts nothing, whatever the candidate says of it.
    if (a >= vanishing) {
      const weight = exponential(a);
      baseSum += weight;
      weighted += weight * (a - b);
    } else if (Number.isNaN(a)) baseSum = a;
    if (b >= vanishing) otherSum += exponential(b);
    else if (Number.isNaN(b)) otherSum = b;
  }
  sums[0] = (sums[0] as number) + baseSum;
  sums[1] = (sums[1] as number) + otherSum;
  sums[2] = (sums[2] as number) + weighted;
}

/**
 * KL(p ‖ q) = Σ p (a − b) − ln Σ e^a + ln Σ e^b, with p = e^a / Σ e^a. Everything is added in double
 * precision, so nothing is lost where the two rows hardly differ.
 */
function visitPair(
  base: Float32Array,
  other: Float32Array,
  target: number,
  sums: Float64Array,
  out: Float64Array,
): void {
  const baseTop = largest(base);
  const otherTop = largest(other);
  const baseMost = base[baseTop] as number;
  const otherMost = other[otherTop] as number;
  sums.fill(0);
  for (let from = 0; from < base.length; from += blockLength) {
    pairBlock(base, other, from, Math.min(base.length, from + blockLength), baseMost, otherMost, sums);
  }
  const baseSum = sums[0] as number;
  const baseLog = Math.log(baseSum);
  const otherLog = Math.log(sums[1] as number);
  out[column.nll] = baseMost + baseLog - (base[target] as number);
  out[column.candidateNll] = otherMost + otherLog - (other[target] as number);
  out[column.divergence] = (sums[2] as number) / baseSum - baseLog + otherLog;
  out[column.sameTop] = baseTop === otherTop ? 1 : 0;
}

export const createVisitor: CreateVisitor = (_vocabulary, models) => {
  const sums = new Float64Array(3);
  return models === 1
    ? { columns: singleColumns, visit: ([row], target, out) => visitOne(row as Float32Array, target, out) }
    : {
        columns: pairColumns,
        visit: ([base, other], target, out) =>
          visitPair(base as Float32Array, other as Float32Array, target, sums, out),
      };
};
