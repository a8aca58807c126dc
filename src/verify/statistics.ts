import { column } from "./visitor.js";

/** A mean or something derived from one, with its standard error. */
export interface Estimate {
  readonly value: number;
  readonly error: number;
}

/** Values at ranks of a sorted sample, between neighbours by linear interpolation. */
export interface Quantiles {
  readonly min: number;
  readonly p0_1: number;
  readonly p1: number;
  readonly p5: number;
  readonly p10: number;
  readonly median: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
  readonly p99_9: number;
  readonly max: number;
}

/** How far a candidate is from its reference over the same positions. Logarithms are natural, shares are 0…1. */
export interface Comparison {
  readonly referencePerplexity: Estimate;
  /** ln(PPL(candidate) / PPL(reference)); its error knows that both ran over the same tokens. */
  readonly logRatio: Estimate;
  readonly ratio: Estimate;
  readonly difference: Estimate;
  /** Correlation of the two models' losses; null where one of them does not vary. */
  readonly correlation: number | null;
  /** KL(reference ‖ candidate) in nats a token. */
  readonly divergence: Estimate & Quantiles;
  /** Share of positions where both models put the same token first. */
  readonly topAgreement: Estimate;
  /** p(candidate) − p(reference) of the token that follows. */
  readonly probabilityChange: Estimate & Quantiles & { readonly rms: Estimate };
}

/** Row-major scores of `visitor.ts`, `columns` a position. */
export interface Rows {
  readonly columns: number;
  readonly values: Float64Array;
}

export function rowCount(rows: Rows): number {
  return rows.values.length / rows.columns;
}

function takeColumn(rows: Rows, index: number): Float64Array {
  return Float64Array.from(
    { length: rowCount(rows) },
    (_, row) => rows.values[row * rows.columns + index] ?? 0,
  );
}

/**
 * Mean, and standard error √(variance / (n − 1)) with the population's variance, as llama-perplexity has
 * it. The sum of squared distances is taken from the mean, so nearly equal values lose no digits.
 */
export function estimate(values: Float64Array): Estimate {
  const n = values.length;
  let sum = 0;
  for (const value of values) sum += value;
  const mean = sum / n;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return { value: mean, error: n > 1 ? Math.sqrt(squares / n / (n - 1)) : 0 };
}

/** Covariance of two means over the same positions. */
function covariance(a: Float64Array, meanA: number, b: Float64Array, meanB: number): number {
  const n = a.length;
  let sum = 0;
  for (let i = 0; i < n; i++) sum += ((a[i] ?? 0) - meanA) * ((b[i] ?? 0) - meanB);
  return n > 1 ? sum / n / (n - 1) : 0;
}

/** e^x and the error that goes with it, to first order. */
function exponential(log: Estimate): Estimate {
  const value = Math.exp(log.value);
  return { value, error: value * log.error };
}

/** Value at `fraction` of the way through a sorted sample: rank fraction · (n − 1), neighbours interpolated. */
export function quantile(sorted: Float64Array, fraction: number): number {
  const rank = fraction * (sorted.length - 1);
  const below = Math.floor(rank);
  const low = sorted[below] ?? 0;
  const high = sorted[Math.min(below + 1, sorted.length - 1)] ?? 0;
  return low + (rank - below) * (high - low);
}

function quantiles(values: Float64Array): Quantiles {
  const sorted = values.toSorted();
  return {
    min: quantile(sorted, 0),
    p0_1: quantile(sorted, 0.001),
    p1: quantile(sorted, 0.01),
    p5: quantile(sorted, 0.05),
    p10: quantile(sorted, 0.1),
    median: quantile(sorted, 0.5),
    p90: quantile(sorted, 0.9),
    p95: quantile(sorted, 0.95),
    p99: quantile(sorted, 0.99),
    p99_9: quantile(sorted, 0.999),
    max: quantile(sorted, 1),
  };
}

/**
 * Perplexity e^(mean loss) with its error, of the first model (`column.nll`) or the second
 * (`column.candidateNll`).
 */
export function perplexity(rows: Rows, which: number = column.nll): Estimate {
  return exponential(estimate(takeColumn(rows, which)));
}

/**
 * What `llama-perplexity --kl-divergence` prints, by the same formulas: the first model of the rows is the
 * reference, the second the candidate.
 */
export function compare(rows: Rows): Comparison {
  const reference = takeColumn(rows, column.nll);
  const candidate = takeColumn(rows, column.candidateNll);
  const divergence = takeColumn(rows, column.divergence);
  const n = reference.length;

  const referenceLog = estimate(reference);
  const candidateLog = estimate(candidate);
  const shared = covariance(reference, referenceLog.value, candidate, candidateLog.value);
  // √(a² + b² − 2 cov) of the two means is the error of the mean difference, without its cancellation.
  const logRatio = estimate(candidate.map((loss, i) => loss - (reference[i] ?? 0)));
  const referencePerplexity = exponential(referenceLog);
  const candidatePerplexity = exponential(candidateLog);
  const differenceVariance =
    candidatePerplexity.error ** 2 +
    referencePerplexity.error ** 2 -
    2 * candidatePerplexity.value * referencePerplexity.value * shared;

  let same = 0;
  for (const flag of takeColumn(rows, column.sameTop)) same += flag;
  const share = same / n;

  const change = candidate.map((loss, i) => Math.exp(-loss) - Math.exp(-(reference[i] ?? 0)));
  const square = estimate(change.map((value) => value * value));
  const rms = Math.sqrt(square.value);

  return {
    referencePerplexity,
    logRatio,
    ratio: exponential(logRatio),
    difference: {
      value: candidatePerplexity.value - referencePerplexity.value,
      error: Math.sqrt(Math.max(0, differenceVariance)),
    },
    correlation:
      referenceLog.error > 0 && candidateLog.error > 0
        ? shared / (referenceLog.error * candidateLog.error)
        : null,
    divergence: { ...estimate(divergence), ...quantiles(divergence) },
    topAgreement: { value: share, error: n > 1 ? Math.sqrt((share * (1 - share)) / (n - 1)) : 0 },
    probabilityChange: {
      ...estimate(change),
      ...quantiles(change),
      rms: { value: rms, error: rms > 0 ? (0.5 / rms) * square.error : 0 },
    },
  };
}
