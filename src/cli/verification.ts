import type { VerifyReport } from "../pipeline/verify.js";
import type { Measurement } from "../verify/measurement.js";
import type { Estimate } from "../verify/statistics.js";
import { renderTable } from "./table.js";

function withError({ value, error }: Estimate, digits: number): string {
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
}

function percent({ value, error }: Estimate): string {
  return `${(value * 100).toFixed(2)} ± ${(error * 100).toFixed(2)} %`;
}

/** The figures of one set of windows, as rows of name and value. */
function rowsOf(block: Measurement): [string, string][] {
  const { perplexity, comparison } = block;
  const rows: [string, string][] = [["perplexity", withError(perplexity, 4)]];
  if (comparison === null) return rows;
  const { divergence, probabilityChange } = comparison;
  return [
    ...rows,
    ["perplexity of the reference", withError(comparison.referencePerplexity, 4)],
    ["perplexity ratio", withError(comparison.ratio, 5)],
    ["KL divergence, mean", withError(divergence, 6)],
    ["KL divergence, median", divergence.median.toFixed(6)],
    [
      "KL divergence, 90 / 95 / 99 %",
      [divergence.p90, divergence.p95, divergence.p99].map((x) => x.toFixed(6)).join(" / "),
    ],
    ["KL divergence, 99.9 % / max", [divergence.p99_9, divergence.max].map((x) => x.toFixed(6)).join(" / ")],
    ["top-1 agreement", percent(comparison.topAgreement)],
    ["Δp, mean", percent(probabilityChange)],
    ["Δp, RMS", percent(probabilityChange.rms)],
  ];
}

function title(block: Measurement): string {
  return `>${block.windows} × ${block.context} tokens`;
}

/** One table a file: ordinary windows, and long ones beside them where there are any. */
export async function renderVerification(report: VerifyReport): Promise<string> {
  const parts: string[] = [];
  for (const { file, accuracyLevel, result } of report.files) {
    const { windows, longWindows, text } = result;
    const long = longWindows === null ? undefined : new Map(rowsOf(longWindows));
    const rows = rowsOf(windows).map(([name, value]) =>
      long === undefined ? [name, value] : [name, value, long.get(name) ?? ""],
    );
    const header = ["", title(windows), ...(longWindows === null ? [] : [title(longWindows)])];
    const against = result.reference === null ? "" : `, reference ${result.reference.path}`;
    parts.push(
      `${file} (${accuracyLevel === null ? "" : `accuracy level ${accuracyLevel}, `}${text.mode} text, ${windows.scored} tokens scored${against})`,
      await renderTable(header, rows),
      "",
    );
  }
  return parts.join("\n").trimEnd();
}
