import { formatDuration, formatSize } from "../base/sizes.js";
import type { ConvertedArtifact } from "../pipeline/convert.js";
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

/** A table of what was written, or would be. */
export function renderArtifacts(artifacts: readonly ConvertedArtifact[]): Promise<string> {
  return renderTable(
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
}
