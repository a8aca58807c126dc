import { stat } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import type { ArtifactRecord, Manifest } from "./manifest.js";

/** Records whose files somebody has removed are not carried on. */
export async function stillThere(
  folder: string,
  records: readonly ArtifactRecord[],
): Promise<ArtifactRecord[]> {
  const present = await Promise.all(
    records.map(async ({ files }) => {
      const found = await Promise.all(
        files.map(({ file }) =>
          stat(join(folder, file)).then(
            () => true,
            () => false,
          ),
        ),
      );
      return found.every(Boolean);
    }),
  );
  return records.filter((_, index) => present[index]);
}

export function isMeasured(record: ArtifactRecord, settings: string): boolean {
  return record.settings === settings && record.verification !== null && record.throughput !== null;
}

/** Name of a file in the manifest: its path below the folder, with `/`. */
export function relativeName(folder: string, path: string): string {
  return relative(folder, path).split(sep).join("/");
}

/** Puts a record in the place of the one of the same file, or at the end. */
export function withArtifact(manifest: Manifest, record: ArtifactRecord): Manifest {
  const same = (other: ArtifactRecord): boolean => other.files[0]?.file === record.files[0]?.file;
  const artifacts = manifest.artifacts.some(same)
    ? manifest.artifacts.map((other) => (same(other) ? record : other))
    : [...manifest.artifacts, record];
  return { ...manifest, artifacts };
}
