import { formatDuration, formatSize } from "../base/sizes.js";
import type { ConvertedArtifact } from "../pipeline/convert.js";
import { describeBalance, describeLattices, describeRounding } from "./rounding.js";
import { renderTable } from "./table.js";

function shares(artifact: ConvertedArtifact): string {
  return artifact.shares.map(({ type, tensors }) => `${type} × ${tensors}`).join(", ");
}

const OUTCOMES: Readonly<Record<ConvertedArtifact["outcome"], (artifact: ConvertedArtifact) => string>> = {
  planned: () => "not written (dry run)",
  written: ({ seconds }) => `written in ${formatDuration(seconds)}`,
  continued: ({ damaged, seconds }) =>
    `continued${damaged > 0 ? ` (${damaged} damaged)` : ""}, finished in ${formatDuration(seconds)}`,
  unchanged: () => "there already",
};

/** A table of what was written, or would be, and what was made least by it. */
export async function renderArtifacts(artifacts: readonly ConvertedArtifact[]): Promise<string> {
  const table = await renderTable(
    ["file", ">bytes", ">size", ">bits/weight", "tensors", "outcome"],
    artifacts.map((artifact) => [
      artifact.files.join("\n"),
      artifact.bytes.toLocaleString("en-US"),
      formatSize(artifact.bytes),
      artifact.bitsPerWeight.toFixed(3),
      shares(artifact),
      OUTCOMES[artifact.outcome](artifact),
    ]),
  );
  const objective = artifacts
    .map((artifact) => describeRounding(artifact, artifact.importance))
    .find((text) => text !== "");
  const scaled = artifacts.map(({ type, balance }) => describeBalance(type, balance));
  const kept = artifacts.map((artifact) => describeLattices(artifact.type, artifact));
  return [table, objective, ...kept, ...scaled]
    .filter((text) => text !== undefined && text !== "")
    .join("\n");
}
