import type { CalibrateReport } from "../pipeline/calibrate.js";
import { printable } from "./printable.js";
import { renderTable } from "./table.js";

/** Starved experts that are named. */
const SHOWN_EXPERTS = 12;
/** Scripts that are named, most characters first. */
const SHOWN_SCRIPTS = 8;

/** What a calibration took in and where it is. */
export async function renderCalibration(report: CalibrateReport): Promise<string> {
  const { text, starved, imatrix, tensors, out } = report;
  const table = await renderTable(
    ["text", "kind", ">weight", ">documents", ">tokens", ">windows"],
    text.sources.map(({ name, kind, weight, documents, tokens, windows }) =>
      [name, kind, weight, documents, tokens, windows].map(String),
    ),
  );
  const scripts = Object.entries(text.scripts)
    .toSorted(([, a], [, b]) => b - a)
    .slice(0, SHOWN_SCRIPTS)
    .map(([name, count]) => `${name} ${count}`);
  const lines = [
    table,
    `${text.windows} windows of ${text.context} tokens (${text.mode}); characters by script: ${scripts.join(", ")}`,
    printable(`Statistics in ${out}; importance of ${tensors} tensors in ${imatrix}`),
  ];
  if (starved.length > 0) {
    const named = starved
      .slice(0, SHOWN_EXPERTS)
      .map(({ layer, expert, tokens }) => `layer ${layer} expert ${expert} (${tokens})`);
    const more = starved.length > SHOWN_EXPERTS ? `, and ${starved.length - SHOWN_EXPERTS} more` : "";
    lines.push(`Experts that saw too few tokens: ${named.join(", ")}${more}`);
  }
  return lines.join("\n");
}
