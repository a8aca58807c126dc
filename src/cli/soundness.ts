import { formatSize } from "../base/sizes.js";
import type { CheckReport, ManifestCheck } from "../pipeline/check.js";
import { countFindings, renderFindings } from "./findings.js";
import { renderTable } from "./table.js";

const MANIFEST_WORDS: Readonly<Record<ManifestCheck["state"], (check: ManifestCheck) => string>> = {
  matches: ({ path, files }) =>
    `${files.length === 1 ? "size and SHA-256 are" : "sizes and SHA-256 of all parts are"} those in ${path}`,
  differs: ({ path }) => `differs from ${path}`,
  unlisted: ({ path, files }) =>
    `${path} does not list ${files
      .filter(({ expected }) => expected === null)
      .map(({ file }) => file)
      .join(", ")}: hash not checked`,
  none: ({ path }) => `there is no ${path}: hash not checked`,
  unreadable: ({ path }) => `${path} cannot be read: hash not checked`,
};

/** A table of facts, and one of what is damaged. */
export async function renderCheck(report: CheckReport): Promise<string> {
  const { bad, unread, manifest, findings, tensors, values, bytes } = report;
  const rows: (readonly [string, string])[] = [
    ["tensors", `${tensors}: ${values.toLocaleString("en-US")} values, ${formatSize(bytes)}`],
    [
      "values",
      bad.length === 0
        ? unread.length === 0
          ? "all finite"
          : "all finite that were read"
        : `not finite in ${bad.length} of ${tensors} tensors`,
    ],
  ];
  if (unread.length > 0) {
    rows.push(["not read", unread.map(({ name, type }) => `${name} (${type})`).join("\n")]);
  }
  if (manifest !== null) rows.push(["manifest", MANIFEST_WORDS[manifest.state](manifest)]);
  if (findings.length > 0) rows.push(["graphs", countFindings(findings)]);
  else if (report.source === "onnx") rows.push(["graphs", "no findings"]);
  const parts = [report.path, await renderTable(["", ""], rows)];
  if (findings.length > 0) parts.push(await renderFindings(findings));
  if (bad.length > 0) {
    parts.push(
      await renderTable(
        ["tensor", "type", "file", ">first row", ">column", "value", ">not finite"],
        bad.map(({ name, type, file, row, column, value, values }) => [
          name,
          type,
          file,
          String(row),
          String(column),
          value,
          values.toLocaleString("en-US"),
        ]),
      ),
    );
  }
  return parts.join("\n\n");
}
