import { createHash } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { outputFailure } from "../base/atomic-file.js";
import { packageVersion } from "../base/paths.js";
import type { Engine } from "../engines/types.js";
import { checkGateOptions, checkGates, type Gates } from "../verify/gates.js";
import { measureThroughput } from "../verify/throughput.js";
import { outcomeOfBench } from "./bench.js";
import { convert, type ConvertedArtifact, type ConvertRequest } from "./convert.js";
import { PipelineError } from "./errors.js";
import { hashFiles, type HashedFile, sameFiles } from "./hash.js";
import {
  type ArtifactRecord,
  type Manifest,
  MANIFEST_VERSION,
  readManifest,
  type SourceRecord,
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

/** What decides whether a measurement that is there still holds. */
interface Measuring {
  readonly settings: string;
  readonly source: SourceRecord;
  readonly referenceType: "F32" | "BF16";
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
  // A missing engine or a text that cannot be read should not cost an hour of work first.
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const engine = await startLlamaEngine();
  try {
    return await new Build(request, reporter, signal, engine, startLlamaEngine).run();
  } finally {
    await engine.close();
  }
}

class Build {
  readonly #request: BuildRequest;
  readonly #reporter: Reporter;
  readonly #signal: AbortSignal;
  /** Measures what was lost; speed is measured in an engine of its own, for the sake of its memory. */
  readonly #engine: Engine;
  readonly #startEngine: () => Promise<Engine>;

  constructor(
    request: BuildRequest,
    reporter: Reporter,
    signal: AbortSignal,
    engine: Engine,
    startEngine: () => Promise<Engine>,
  ) {
    this.#request = request;
    this.#reporter = reporter;
    this.#signal = signal;
    this.#engine = engine;
    this.#startEngine = startEngine;
  }

  async run(): Promise<BuildReport> {
    const { out, gates } = this.#request;
    const measuring = await this.#prepare();
    const converted = await convert(
      { ...this.#request, dryRun: false, matchConverter: false },
      this.#reporter,
      this.#signal,
    );
    let manifest = await this.#begin(converted, measuring.source);

    const missed: { file: string; message: string }[] = [];
    let reference: string | undefined;
    for (const artifact of converted) {
      let record = recordOf(manifest, artifact);
      if (!isMeasured(record, measuring.settings)) {
        if (reference === undefined) {
          const made = await this.#makeReference(manifest, measuring);
          manifest = { ...manifest, reference: made.record };
          await writeManifest(out, manifest);
          reference = made.path;
        }
        record = await this.#measure(record, artifact, reference, measuring);
        manifest = withArtifact(manifest, record);
        await writeManifest(out, manifest);
      }
      const { verification } = record;
      const failures = verification === null ? [] : checkGates(verification, gates);
      missed.push(...failures.map(({ message }) => ({ file: artifact.files[0] ?? "", message })));
    }
    manifest = { ...manifest, complete: true };
    await writeManifest(out, manifest);
    await rm(join(out, WORK_FOLDER), { recursive: true, force: true });
    return { manifest, missed };
  }

  /** Opens and hashes what goes in, so that everything that can be wrong with it comes out first. */
  async #prepare(): Promise<Measuring> {
    const {
      mode,
      context,
      chunks = null,
      threads,
      promptTokens,
      generationTokens,
      repetitions,
    } = this.#request;
    const text = await hashText(this.#request.text);
    const opened = await openSource(this.#request.source);
    const files = await this.#hash(opened.name, await sourceFiles(opened));
    const source = { kind: opened.kind, name: opened.name, files };
    const { name, version } = await this.#engine.info();
    const type = referenceType(opened);
    const parts = [packageVersion(), name, version, files, type, text, mode, context, chunks];
    parts.push(threads, promptTokens, generationTokens, repetitions);
    const settings = createHash("sha256").update(JSON.stringify(parts)).digest("hex");
    return { settings, source, referenceType: type };
  }

  /** A manifest with all artifacts; what an earlier one says of files that are still the same is kept. */
  async #begin(converted: readonly ConvertedArtifact[], source: SourceRecord): Promise<Manifest> {
    const { out } = this.#request;
    const earlier = await readManifest(out);
    const { name, system } = await this.#engine.info();
    let manifest: Manifest = {
      manifestVersion: MANIFEST_VERSION,
      complete: false,
      versions: {
        lapidary: packageVersion(),
        node: process.version,
        platform: `${process.platform} ${process.arch}`,
        engine: name,
        system,
      },
      reference: earlier?.reference ?? null,
      artifacts: earlier?.artifacts ?? [],
    };
    for (const artifact of converted) {
      const files = await this.#hash(artifact.type, artifact.files);
      const before = earlier?.artifacts.find((record) => sameFiles(record.files, files));
      const { bytes, type, plan, bitsPerWeight, tensors } = artifact;
      const { settings = null, verification = null, throughput = null } = before ?? {};
      manifest = withArtifact(manifest, {
        files,
        bytes,
        type,
        plan,
        bitsPerWeight,
        source,
        tensors,
        settings,
        verification,
        throughput,
      });
    }
    await writeManifest(out, manifest);
    return manifest;
  }

  /** Writes the reference, unless a build that was broken off has left the very file. */
  async #makeReference(
    manifest: Manifest,
    { source, referenceType: type }: Measuring,
  ): Promise<{ path: string; record: NonNullable<Manifest["reference"]> }> {
    const folder = join(this.#request.out, WORK_FOLDER);
    await mkdir(folder, { recursive: true }).catch((error: unknown) => {
      throw outputFailure(folder, error);
    });
    const path = join(folder, `${source.name}-${type}.gguf`);
    const [left] = await this.#hash("reference", [path]).catch(() => []);
    const known = manifest.reference;
    if (left !== undefined && known?.sha256 === left.sha256 && known.type === type)
      return { path, record: known };
    await convert(
      {
        ...this.#request,
        types: [type],
        out: path,
        splitMaxBytes: undefined,
        matchConverter: false,
        dryRun: false,
        force: true,
      },
      this.#reporter,
      this.#signal,
    );
    const [made] = await this.#hash("reference", [path]);
    if (made === undefined) throw new Error("a conversion without a file");
    return { path, record: { ...made, type, source: source.name } };
  }

  async #measure(
    record: ArtifactRecord,
    artifact: ConvertedArtifact,
    reference: string,
    { settings, source }: Measuring,
  ): Promise<ArtifactRecord> {
    const reporter = this.#reporter;
    const signal = this.#signal;
    const path = artifact.files[0] ?? "";
    reporter.start(`verify ${basename(path)}`);
    const verification = await measureFile(this.#engine, path, reference, this.#request, reporter, signal, [
      source.name,
    ]);
    reporter.finish(outcomeOf(verification));
    reporter.start(`bench ${basename(path)}`);
    const throughput = await measureThroughput({
      ...this.#request,
      startEngine: this.#startEngine,
      path,
      signal,
    });
    reporter.finish(outcomeOfBench(throughput));
    return { ...record, settings, verification, throughput };
  }

  async #hash(label: string, paths: readonly string[]): Promise<HashedFile[]> {
    return hashFiles(`hash ${label}`, paths, this.#reporter, this.#signal);
  }
}

function isMeasured(record: ArtifactRecord, settings: string): boolean {
  return record.settings === settings && record.verification !== null && record.throughput !== null;
}

function recordOf(manifest: Manifest, artifact: ConvertedArtifact): ArtifactRecord {
  const name = basename(artifact.files[0] ?? "");
  const record = manifest.artifacts.find(({ files }) => files[0]?.file === name);
  if (record === undefined) throw new Error(`${name} is not in the manifest`);
  return record;
}

/** Puts a record in the place of the one of the same file, or at the end. */
function withArtifact(manifest: Manifest, record: ArtifactRecord): Manifest {
  const same = (other: ArtifactRecord): boolean => other.files[0]?.file === record.files[0]?.file;
  const artifacts = manifest.artifacts.some(same)
    ? manifest.artifacts.map((other) => (same(other) ? record : other))
    : [...manifest.artifacts, record];
  return { ...manifest, artifacts };
}
