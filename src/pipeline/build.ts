import { createHash } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { packageVersion } from "../base/paths.js";
import type { Engine, EngineInfo } from "../engines/types.js";
import { checkGateOptions, checkGates, type Gates } from "../verify/gates.js";
import { measureThroughput } from "../verify/throughput.js";
import { meanSpeed } from "./bench.js";
import { convert, type ConvertedArtifact, type ConvertRequest } from "./convert.js";
import { PipelineError } from "./errors.js";
import { hashFile, type HashedFile } from "./hash.js";
import {
  type ArtifactRecord,
  type Manifest,
  MANIFEST_VERSION,
  readManifest,
  writeManifest,
} from "./manifest.js";
import type { Reporter } from "./progress.js";
import { referenceType } from "./reference.js";
import { openSource, sourceFiles } from "./source.js";
import { hashText } from "./text-identity.js";
import { type MeasureOptions, measureFile, outcomeOf } from "./verify.js";

export interface BuildRequest extends MeasureOptions, Omit<ConvertRequest, "dryRun" | "matchConverter"> {
  readonly gates: Gates;
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly repetitions: number;
}

/** What `build --json` prints: the manifest, and the gates that were missed. */
export interface BuildReport {
  readonly manifest: Manifest;
  readonly missed: readonly { readonly file: string; readonly message: string }[];
}

/** Folder inside the output that holds the reference while a build runs. */
const WORK_FOLDER = ".lapidary";

type StartEngine = () => Promise<Engine>;

async function hashAll(
  label: string,
  paths: readonly string[],
  reporter: Reporter,
  signal: AbortSignal,
): Promise<HashedFile[]> {
  reporter.start(label);
  const files: HashedFile[] = [];
  for (const path of paths) files.push(await hashFile(path, { signal }));
  reporter.finish(`${files.length} ${files.length === 1 ? "file" : "files"}`);
  return files;
}

/** Everything that decides a measurement besides the two files. */
async function settingsOf(request: BuildRequest, engine: EngineInfo, reference: HashedFile): Promise<string> {
  const { mode, context, chunks = null, threads, promptTokens, generationTokens, repetitions } = request;
  const text = await hashText(request.text);
  const parts = [
    engine.name,
    engine.version,
    reference.sha256,
    text,
    mode,
    context,
    chunks,
    threads,
    promptTokens,
    generationTokens,
    repetitions,
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

function sameFiles(a: readonly HashedFile[], b: readonly HashedFile[]): boolean {
  return (
    a.length === b.length &&
    a.every((file, index) => file.file === b[index]?.file && file.sha256 === b[index].sha256)
  );
}

/** Puts a record in the place of the one with the same files, or at the end. */
function withArtifact(manifest: Manifest, record: ArtifactRecord): Manifest {
  const same = (other: ArtifactRecord): boolean => other.files[0]?.file === record.files[0]?.file;
  const artifacts = manifest.artifacts.some(same)
    ? manifest.artifacts.map((other) => (same(other) ? record : other))
    : [...manifest.artifacts, record];
  return { ...manifest, artifacts };
}

/**
 * The whole chain: hashes the source, writes every type, makes the reference, measures every file against
 * it in llama.cpp, and keeps the manifest. The manifest is brought up to date after every step, so a
 * build that was broken off goes on where it stopped: files that the manifest vouches for are not written
 * again, measurements of unchanged files with unchanged settings are not made again.
 *
 * @throws LapidaryError of any room; missed gates are in the report, not thrown
 */
export async function build(
  request: BuildRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<BuildReport> {
  checkGateOptions(request.gates, true);
  if (/\.gguf$/i.test(request.out)) {
    throw new PipelineError(
      "bad-output",
      `--out ${request.out}: build writes several files; expected a folder.`,
      { exitCode: 2 },
    );
  }
  // A missing engine, a text that cannot be read or a wrong checkpoint should not cost an hour of work first.
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const engine = await engineInfo(startLlamaEngine);
  await hashText(request.text);
  const source = await openSource(request.source);
  const sourceRecord = {
    kind: source.kind,
    name: source.name,
    files: await hashAll(`hash ${source.name}`, await sourceFiles(source), reporter, signal),
  };
  await mkdir(request.out, { recursive: true });

  const converted = await convert({ ...request, dryRun: false, matchConverter: false }, reporter, signal);
  let manifest: Manifest = {
    manifestVersion: MANIFEST_VERSION,
    complete: false,
    versions: {
      lapidary: packageVersion(),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
      engine: `${engine.name} ${engine.version}`,
      system: engine.system,
    },
    reference: null,
    artifacts: (await readManifest(request.out))?.artifacts ?? [],
  };
  const earlier = manifest.artifacts;
  for (const artifact of converted) {
    const files = await hashAll(`hash ${artifact.type}`, artifact.files, reporter, signal);
    const before = earlier.find((record) => sameFiles(record.files, files));
    manifest = withArtifact(manifest, {
      files,
      bytes: artifact.bytes,
      type: artifact.type,
      plan: artifact.plan,
      bitsPerWeight: artifact.bitsPerWeight,
      source: sourceRecord,
      tensors: artifact.tensors,
      settings: before?.settings ?? null,
      verification: before?.verification ?? null,
      throughput: before?.throughput ?? null,
    });
  }
  await writeManifest(request.out, manifest);

  const workFolder = join(request.out, WORK_FOLDER);
  const reference = await makeReference(request, workFolder, referenceType(source), reporter, signal);
  const [hashedReference] = await hashAll("hash reference", reference.files, reporter, signal);
  const referencePath = reference.files[0];
  if (hashedReference === undefined || referencePath === undefined)
    throw new Error("a conversion without a file");
  manifest = { ...manifest, reference: { ...hashedReference, type: reference.type, source: source.name } };
  const settings = await settingsOf(request, engine, hashedReference);

  const missed: { file: string; message: string }[] = [];
  for (const artifact of converted) {
    const [path] = artifact.files;
    const record = manifest.artifacts.find(({ files }) => files[0]?.file === basename(path ?? ""));
    if (record === undefined || path === undefined) throw new Error("an artifact without a record");
    const measured = await measureArtifact(
      record,
      path,
      referencePath,
      settings,
      request,
      startLlamaEngine,
      source.name,
      reporter,
      signal,
    );
    manifest = withArtifact(manifest, measured);
    await writeManifest(request.out, manifest);
    if (measured.verification !== null) {
      for (const { message } of checkGates(measured.verification, request.gates))
        missed.push({ file: path, message });
    }
  }
  manifest = { ...manifest, complete: true };
  await writeManifest(request.out, manifest);
  await rm(workFolder, { recursive: true, force: true });
  return { manifest, missed };
}

async function engineInfo(start: StartEngine): Promise<EngineInfo> {
  const engine = await start();
  try {
    return await engine.info();
  } finally {
    await engine.close();
  }
}

async function makeReference(
  request: BuildRequest,
  folder: string,
  type: "F32" | "BF16",
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ConvertedArtifact> {
  await mkdir(folder, { recursive: true });
  const [reference] = await convert(
    {
      ...request,
      types: [type],
      out: folder,
      splitMaxBytes: undefined,
      matchConverter: false,
      dryRun: false,
      force: true,
    },
    reporter,
    signal,
  );
  if (reference === undefined) throw new Error("a conversion without a result");
  return reference;
}

async function measureArtifact(
  record: ArtifactRecord,
  path: string,
  reference: string,
  settings: string,
  request: BuildRequest,
  startEngine: StartEngine,
  name: string,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ArtifactRecord> {
  if (record.settings === settings && record.verification !== null && record.throughput !== null)
    return record;
  reporter.start(`verify ${basename(path)}`);
  const engine = await startEngine();
  let verification;
  try {
    verification = await measureFile(engine, path, reference, request, reporter, signal, [name]);
  } finally {
    await engine.close();
  }
  reporter.finish(outcomeOf(verification));
  reporter.start(`bench ${basename(path)}`);
  const throughput = await measureThroughput({ startEngine, path, ...request, signal });
  reporter.finish(
    `prompt ${meanSpeed(throughput, "prompt")?.toFixed(1) ?? "–"}, generation ${meanSpeed(throughput, "generation")?.toFixed(1) ?? "–"} tokens/s`,
  );
  return { ...record, settings, verification, throughput };
}
