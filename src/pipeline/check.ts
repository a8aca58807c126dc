import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { ReportedError } from "../base/errors.js";
import { checkOnnx } from "./check-onnx.js";
import { PipelineError } from "./errors.js";
import { type HashedFile, hashFiles } from "./hash.js";
import type { GraphFinding } from "./inspect-onnx.js";
import { MANIFEST_NAME, type Manifest, readManifest } from "./manifest.js";
import { findOnnx } from "./onnx-source.js";
import type { Reporter } from "./progress.js";
import { type BadTensor, badSentence, scanTensors, type ScannedTensors } from "./scan-tensors.js";
import { type ModelSource, openSource } from "./source.js";
import { storedTensors, withFiles } from "./stored-tensors.js";

export interface CheckedFile {
  readonly file: string;
  readonly bytes: number;
  /** Null where it was not needed: the file is not in the manifest, or its size is wrong already. */
  readonly sha256: string | null;
  /** What the manifest says; null when the file is not in it. */
  readonly expected: Pick<HashedFile, "bytes" | "sha256"> | null;
}

export interface ManifestCheck {
  readonly path: string;
  /** `none`: the folder has no manifest; `unlisted`: it does not name (all parts of) the file. */
  readonly state: "matches" | "differs" | "unlisted" | "none" | "unreadable";
  readonly files: readonly CheckedFile[];
}

/** What `inspect --check --json` prints. */
export interface CheckReport extends ScannedTensors {
  readonly kind: "check";
  readonly source: "checkpoint" | "gguf" | "onnx";
  readonly path: string;
  readonly tensors: number;
  readonly values: number;
  readonly bytes: number;
  /** Null for a checkpoint, for manifests list what was made from one, and for ONNX. */
  readonly manifest: ManifestCheck | null;
  /** What is wrong or doubtful in the graphs of ONNX models; empty for all else. */
  readonly findings: readonly GraphFinding[];
  /** What is wrong; null when all is well. */
  readonly error: ReportedError | null;
}

function recordOf(manifest: Manifest, file: string): HashedFile | undefined {
  return manifest.artifacts.flatMap(({ files }) => files).find((record) => record.file === file);
}

function stateOf(files: readonly CheckedFile[]): ManifestCheck["state"] {
  const differs = files.some(
    ({ bytes, sha256, expected }) =>
      expected !== null && (bytes !== expected.bytes || sha256 !== expected.sha256),
  );
  if (differs) return "differs";
  return files.some(({ expected }) => expected === null) ? "unlisted" : "matches";
}

interface AgainstManifest {
  readonly check: ManifestCheck;
  /** Why the manifest cannot be read. */
  readonly failure: PipelineError | null;
}

/** Holds files against the manifest of their folder, if it names them. */
async function checkManifest(
  paths: readonly string[],
  reporter: Reporter,
  signal: AbortSignal,
): Promise<AgainstManifest> {
  const folder = dirname(paths[0] ?? "");
  const path = join(folder, MANIFEST_NAME);
  let manifest: Manifest | null;
  try {
    manifest = await readManifest(folder);
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    return { check: { path, state: "unreadable", files: [] }, failure: error };
  }
  if (manifest === null) return { check: { path, state: "none", files: [] }, failure: null };
  const files: { path: string; file: string; bytes: number; expected: HashedFile | undefined }[] = [];
  for (const path of paths) {
    const file = basename(path);
    files.push({ path, file, bytes: (await stat(path)).size, expected: recordOf(manifest, file) });
  }
  const worthHashing = files.filter(({ bytes, expected }) => bytes === expected?.bytes);
  const hashed = new Map<string, string>();
  if (worthHashing.length > 0) {
    const label = `hash ${worthHashing.map(({ file }) => file).join(", ")}`;
    const hashes = await hashFiles(
      worthHashing.length > 2 ? `hash ${worthHashing.length} parts` : label,
      worthHashing.map(({ path }) => path),
      reporter,
      signal,
    );
    for (const { file, sha256 } of hashes) hashed.set(file, sha256);
  }
  const checked = files.map(({ file, bytes, expected }) => ({
    file,
    bytes,
    sha256: hashed.get(file) ?? null,
    expected: expected === undefined ? null : { bytes: expected.bytes, sha256: expected.sha256 },
  }));
  return { check: { path, state: stateOf(checked), files: checked }, failure: null };
}

function fileSentence(manifest: string, { file, bytes, sha256, expected }: CheckedFile): string | null {
  if (expected === null) return null;
  if (bytes !== expected.bytes)
    return `${file} has ${bytes} bytes, expected ${expected.bytes} by ${manifest}`;
  if (sha256 !== expected.sha256)
    return `${file} has SHA-256 ${sha256}, expected ${expected.sha256} by ${manifest}`;
  return null;
}

/** All that is wrong, as one error. */
function errorOf(
  path: string,
  bad: readonly BadTensor[],
  manifest: AgainstManifest | null,
): ReportedError | null {
  const sentences = bad.length === 0 ? [] : [badSentence(path, bad)];
  const { check, failure } = manifest ?? { check: null, failure: null };
  const files = check?.files.flatMap((file) => fileSentence(check.path, file) ?? []) ?? [];
  sentences.push(...files);
  if (failure !== null) sentences.push(failure.message.replace(/\.$/, ""));
  if (sentences.length === 0) return null;
  const changed = "The file was changed or damaged after it was made: make it again, or fetch it again.";
  const damaged = "Make the file again from sound weights, or fetch it again.";
  const code = bad.length > 0 ? "non-finite" : files.length > 0 ? "hash-mismatch" : "manifest";
  const advice = files.length > 0 ? changed : bad.length > 0 ? damaged : failure?.advice;
  return {
    code,
    message: `${sentences.join("; ")}.`,
    ...(advice === undefined ? {} : { advice }),
    exitCode: 1,
  };
}

function pathsOf(source: ModelSource): readonly string[] | null {
  return source.kind === "gguf" ? source.model.paths : null;
}

/**
 * Reads all of a model: every value of every tensor must be finite, a GGUF that the manifest of its folder
 * lists must be the file that was listed, and ONNX graphs must be sound. What is wrong is in the report, not
 * thrown.
 *
 * @param path GGUF file (any part of a split one), folder of a checkpoint, ONNX file, or folder of such
 * @throws LapidaryError of the rooms that read, for a file that cannot be read at all; the signal's reason
 *   after an abort
 */
export async function check(path: string, reporter: Reporter, signal: AbortSignal): Promise<CheckReport> {
  const graphs = await findOnnx(path);
  if (graphs !== null) {
    return {
      kind: "check",
      source: "onnx",
      path,
      manifest: null,
      ...(await checkOnnx(path, graphs, reporter, signal)),
    };
  }
  const source = await openSource(path);
  const tensors = storedTensors(source, "own");
  const paths = pathsOf(source);
  const manifest = paths === null ? null : await checkManifest(paths, reporter, signal);
  const { bad, unread } = await withFiles(tensors, (files) =>
    scanTensors(`check ${path}`, tensors, files, reporter, signal),
  );
  return {
    kind: "check",
    source: source.kind,
    path,
    tensors: tensors.length,
    values: tensors.reduce((sum, { values }) => sum + values, 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    bad,
    unread,
    manifest: manifest?.check ?? null,
    findings: [],
    error: errorOf(path, bad, manifest),
  };
}
