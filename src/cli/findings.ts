import type { GraphFinding } from "../pipeline/inspect-onnx.js";
import { renderTable } from "./table.js";

/** Findings of one rule in one file that a table lists; an exporter makes the same mistake at every node. */
const SHOWN_PER_RULE = 3;

type Shown = Omit<GraphFinding, "file"> & { readonly file?: string };

/** Such as `1 error, 2 warnings`. */
export function countFindings(findings: readonly Shown[]): string {
  const counts = (["error", "warning"] as const).map((severity) => {
    const count = findings.filter((finding) => finding.severity === severity).length;
    return count === 0 ? [] : [`${count} ${severity}${count === 1 ? "" : "s"}`];
  });
  return counts.flat().join(", ") || "none";
}

/** A table of findings, errors first, alike ones cut short, with the advice of each rule once. */
export async function renderFindings(findings: readonly Shown[]): Promise<string> {
  const groups = new Map<string, Shown[]>();
  const inOrder = findings.toSorted(
    (a, b) => Number(a.severity === "warning") - Number(b.severity === "warning"),
  );
  for (const finding of inOrder) {
    const key = `${finding.rule} ${finding.file ?? ""}`;
    const group = groups.get(key) ?? [];
    groups.set(key, group);
    group.push(finding);
  }
  const rows = [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const lines = group
      .slice(0, SHOWN_PER_RULE)
      .map(({ node, message }) => (node === null ? message : `${node}: ${message}`));
    if (group.length > SHOWN_PER_RULE) lines.push(`and ${group.length - SHOWN_PER_RULE} more`);
    const where = first.file === undefined ? [] : [first.file];
    return [[...where, first.severity, first.rule, [...lines, first.advice].join("\n")]];
  });
  const files = findings.some(({ file }) => file !== undefined) ? ["file"] : [];
  return renderTable([...files, "severity", "rule", "what was found, and what to do"], rows);
}
