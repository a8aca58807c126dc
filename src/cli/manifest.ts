import { join } from "node:path";
import { formatSize } from "../base/sizes.js";
import { meanSpeed } from "../pipeline/bench.js";
import { type ArtifactRecord, type Manifest, MANIFEST_NAME } from "../pipeline/manifest.js";
import { describeRounding } from "./rounding.js";
import { renderTable } from "./table.js";

/** One row for each accuracy level that an artifact was measured at. */
function rows(artifact: ArtifactRecord): string[][] {
  const { accuracyLevel, exact } = artifact;
  const own = row(artifact, artifact, accuracyLevel === null ? "" : ` (level ${accuracyLevel})`);
  return exact === null ? [own] : [own, row(artifact, exact, " (level 0)")];
}

function row(
  { files, bytes, bitsPerWeight, format }: ArtifactRecord,
  { verification, throughput }: Pick<ArtifactRecord, "verification" | "throughput">,
  level: string,
): string[] {
  const [first] = files;
  const shown = format === "onnx" && first !== undefined ? [first] : files;
  const comparison = verification?.windows.comparison;
  const speed = (kind: "prompt" | "generation"): string =>
    (throughput === null ? undefined : meanSpeed(throughput, kind))?.toFixed(1) ?? "–";
  return [
    shown.map(({ file }) => `${file}${level}`).join("\n"),
    bytes.toLocaleString("en-US"),
    bitsPerWeight.toFixed(3),
    verification?.windows.perplexity.value.toFixed(4) ?? "–",
    comparison?.divergence.value.toFixed(6) ?? "–",
    comparison === null || comparison === undefined
      ? "–"
      : `${(comparison.topAgreement.value * 100).toFixed(2)} %`,
    speed("prompt"),
    speed("generation"),
    throughput === null ? "–" : formatSize(throughput.peakMemory),
  ];
}

/** The table that a build ends with. */
export async function renderManifest(
  manifest: Manifest,
  built: readonly string[],
  folder: string,
): Promise<string> {
  const artifacts = manifest.artifacts.filter(({ files }) => built.includes(files[0]?.file ?? ""));
  const header = [
    "file",
    ">bytes",
    ">bits/weight",
    ">perplexity",
    ">KL divergence",
    ">top-1",
    ">prompt tok/s",
    ">generation tok/s",
    ">peak memory",
  ];
  const table = await renderTable(
    header,
    artifacts.flatMap((artifact) => rows(artifact)),
  );
  const reference = artifacts[0]?.reference ?? null;
  const against = reference === null ? "" : `Compared with ${reference.type} of ${reference.source}. `;
  const rounding = artifacts
    .map((artifact) => describeRounding(artifact, artifact.importance?.file ?? null))
    .find((text) => text !== "");
  const how = rounding === undefined ? "" : `${rounding} `;
  return `${table}\n${how}${against}All of it is in ${join(folder, MANIFEST_NAME)}.`;
}
