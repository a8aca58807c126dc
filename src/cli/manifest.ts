import { join } from "node:path";
import { formatSize } from "../base/sizes.js";
import { meanSpeed } from "../pipeline/bench.js";
import { type ArtifactRecord, type Manifest, MANIFEST_NAME } from "../pipeline/manifest.js";
import { describeRounding } from "./rounding.js";
import { renderTable } from "./table.js";

function row(artifact: ArtifactRecord): string[] {
  const { files, bytes, bitsPerWeight, verification, throughput } = artifact;
  const comparison = verification?.windows.comparison;
  const speed = (kind: "prompt" | "generation"): string =>
    (throughput === null ? undefined : meanSpeed(throughput, kind))?.toFixed(1) ?? "–";
  return [
    files.map(({ file }) => file).join("\n"),
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
    artifacts.map((artifact) => row(artifact)),
  );
  const reference = artifacts[0]?.reference ?? null;
  const against = reference === null ? "" : `Compared with ${reference.type} of ${reference.source}. `;
  const rounding = artifacts
    .map((artifact) => describeRounding(artifact, artifact.importance?.file ?? null))
    .find((text) => text !== "");
  const how = rounding === undefined ? "" : `${rounding} `;
  return `${table}\n${how}${against}All of it is in ${join(folder, MANIFEST_NAME)}.`;
}
