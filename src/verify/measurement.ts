import type { PlacedWindow } from "../../calibration/text/windows.js";
import type { WindowScores } from "../engines/types.js";
import { VerifyError } from "./errors.js";
import { type Comparison, compare, type Estimate, perplexity, rowCount, type Rows } from "./statistics.js";
import { column, pairColumns } from "./visitor.js";
import type { Span } from "./stream.js";

export interface Measurement {
  /** Tokens of a window. */
  readonly context: number;
  readonly windows: number;
  /** First position of a window that is scored. */
  readonly first: number;
  /** Scored positions of all windows. */
  readonly scored: number;
  /** Perplexity of the candidate. */
  readonly perplexity: Estimate;
  /** Null without a reference. */
  readonly comparison: Comparison | null;
}

/** What a file of the text contributed, in short. */
export interface PartMeasurement {
  readonly file: string;
  readonly scored: number;
  readonly perplexity: Estimate;
  readonly comparison:
    | (Pick<Comparison, "referencePerplexity" | "ratio" | "topAgreement"> & {
        readonly divergence: Estimate;
      })
    | null;
}

function candidatePerplexity(rows: Rows): Estimate {
  return perplexity(rows, rows.columns === pairColumns ? column.candidateNll : column.nll);
}

/** Every score has to be a finite number: logits of a broken file are NaN, and one NaN makes every mean NaN. */
function checkFinite(window: PlacedWindow, { columns, values }: WindowScores): void {
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad === -1) return;
  const which = bad % columns === column.nll && columns === pairColumns ? "reference" : "candidate";
  throw new VerifyError(
    "score-not-finite",
    `At token ${window.start + window.first + Math.floor(bad / columns)} of the text the logits of the ${which} give no finite score.`,
    { advice: "The file is damaged, or overflows in the number format of the machine: write it anew." },
  );
}

function join(scores: readonly WindowScores[]): Rows {
  const columns = scores[0]?.columns ?? pairColumns;
  const values = new Float64Array(scores.reduce((sum, part) => sum + part.values.length, 0));
  let at = 0;
  for (const part of scores) {
    values.set(part.values, at);
    at += part.values.length;
  }
  return { columns, values };
}

/**
 * @param windows at least one, all of one length
 * @param scores the visitor's rows, one entry a window
 * @throws VerifyError `score-not-finite`
 */
export function measure(windows: readonly PlacedWindow[], scores: readonly WindowScores[]): Measurement {
  const [one] = windows as readonly [PlacedWindow];
  for (const [index, window] of windows.entries()) checkFinite(window, scores[index] as WindowScores);
  const rows = join(scores);
  return {
    context: one.tokens.length,
    windows: windows.length,
    first: one.first,
    scored: rowCount(rows),
    perplexity: candidatePerplexity(rows),
    comparison: rows.columns === pairColumns ? compare(rows) : null,
  };
}

/** Takes scores apart by the file that the predicted token comes from; files without a scored token are left out. */
export function partMeasurements(
  windows: readonly PlacedWindow[],
  scores: readonly WindowScores[],
  spans: readonly Span[],
): PartMeasurement[] {
  const found = new Map<Span, Float64Array[]>();
  const columns = scores[0]?.columns ?? pairColumns;
  for (const [index, window] of windows.entries()) {
    const { values } = scores[index] as WindowScores;
    let place = 0;
    for (let row = 0; row * columns < values.length; row++) {
      const target = window.start + window.first + row + 1;
      while (target >= (spans[place]?.end ?? Infinity)) place++;
      const span = spans[place];
      if (span === undefined) break;
      const rows = found.get(span) ?? [];
      if (rows.length === 0) found.set(span, rows);
      rows.push(values.subarray(row * columns, (row + 1) * columns));
    }
  }
  return [...found].map(([span, parts]) => {
    const rows = join(parts.map((values) => ({ columns, values })));
    const full = columns === pairColumns ? compare(rows) : null;
    return {
      file: span.file,
      scored: parts.length,
      perplexity: candidatePerplexity(rows),
      comparison:
        full === null
          ? null
          : {
              referencePerplexity: full.referencePerplexity,
              ratio: full.ratio,
              topAgreement: full.topAgreement,
              divergence: { value: full.divergence.value, error: full.divergence.error },
            },
    };
  });
}
