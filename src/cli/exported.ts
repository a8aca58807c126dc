import { formatDuration, formatSize } from "../base/sizes.js";
import type { ExportReport } from "../pipeline/export.js";
import { describeBalance } from "./rounding.js";
import { renderTable } from "./table.js";

const OUTCOMES: Readonly<Record<ExportReport["outcome"], (report: ExportReport) => string>> = {
  planned: () => "Nothing was written (dry run).",
  written: ({ seconds }) => `Written in ${formatDuration(seconds)}.`,
  continued: ({ resumed, damaged, seconds }) =>
    `Continued behind ${resumed} tensors${damaged > 0 ? ` (${damaged} damaged ones done again)` : ""}, finished in ${formatDuration(seconds)}.`,
  unchanged: () => "All of it was there already.",
};

const METHODS = {
  gptq: "Codes with feedback of errors, for the least tr(E·H·Eᵀ)",
  search: "Codes by a search for the least Σ importance · error²",
  nearest: "Codes by rounding to the nearest",
} as const;

/** A table of the graphs that were exported, and how. */
export async function renderExport(report: ExportReport): Promise<string> {
  const table = await renderTable(
    ["graph", ">bytes", ">size", ">bits/weight", "tensors"],
    report.graphs.map(({ files, bytes, bitsPerWeight, shares }) => [
      files.join("\n"),
      bytes.toLocaleString("en-US"),
      formatSize(bytes),
      bitsPerWeight.toFixed(3),
      shares.map(({ type, tensors }) => `${type} × ${tensors}`).join(", "),
    ]),
  );
  const [first] = report.graphs;
  const codes = report.graphs.some(({ shares }) => shares.some(({ type }) => type.startsWith("q")));
  const weighed = first?.importance === null ? "" : ` weighed by ${first?.importance}`;
  const rounding =
    first === undefined || !codes
      ? ""
      : `\n${METHODS[first.method]}${weighed}, blocks of ${first.block}, accuracy level ${first.accuracyLevel}.`;
  const { range } = report;
  const halves =
    range === null
      ? ""
      : `\nOn ${range.tokens.toLocaleString("en-US")} tokens of text products reach ${range.product.toPrecision(3)} (${range.largest}) and the residual stream, which stays in single precision, ${range.residual.toPrecision(3)}.`;
  const scaled = report.graphs
    .map(({ graph, dtype, balance }) => describeBalance(`${graph} ${dtype}`, balance))
    .filter((text) => text !== "")
    .map((text) => `\n${text}`)
    .join("");
  return `${table}${rounding}${scaled}${halves}\n${OUTCOMES[report.outcome](report)}`;
}
