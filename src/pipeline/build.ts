import { createHash } from "node:crypto";
import { rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { makeFolder } from "../base/atomic-file.js";
import { withLock } from "../base/lock.js";
import { packageVersion } from "../base/paths.js";
import type { Engine } from "../engines/types.js";
import { checkGateOptions, checkGates, type Gates } from "../verify/gates.js";
import { DTYPES } from "../plan/onnx/dtypes.js";
import type { Metadata } from "../quantize/layout.js";
import { measureThroughput } from "../verify/throughput.js";
import { outcomeOfBench } from "./bench.js";
import { isMeasured, relativeName, stillThere, withArtifact } from "./artifact-records.js";
import { convertAnd, type ConvertRequest, type ConvertSteps } from "./convert.js";
import { PipelineError } from "./errors.js";
import type { ExportReport, ExportRequest } from "./export.js";
import { hashFile, hashFiles, type HashedFile, sameFiles } from "./hash.js";
import {
  type ArtifactRecord,
  type Manifest,
  MANIFEST_VERSION,
  readManifest,
  type SourceRecord,
  type TensorRecord,
  writeManifest,
} from "./manifest.js";
import { folderMetadata, withVocabulary } from "./metadata.js";
import { findPackages, type OnnxPackage } from "./onnx-package.js";
import type { Reporter } from "./progress.js";
import { referenceType } from "./reference.js";
import { openSource, sourceFiles } from "./source.js";
import { hashText } from "./text-identity.js";
import { measurableWindows, type MeasureOptions, measureFile, outcomeOf } from "./verify.js";

export interface BuildRequest extends MeasureOptions, Omit<ConvertRequest, "dryRun" | "matchConverter"> {
  /** What is written for ONNX Runtime, into the same folder; nothing when null or left out. */
  readonly onnx?: Omit<
    ExportRequest,
    "source" | "out" | "threads" | "memory" | "force" | "dryRun" | "redo"
  > | null;
  readonly gates: Gates;
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly repetitions: number;
}

/** What `build --json` prints: the manifest, and the gates that were missed. */
export interface BuildReport {
  readonly manifest: Manifest;
  /** First file of each artifact of this build; the manifest may hold more, from earlier ones. */
  readonly built: readonly string[];
  readonly missed: readonly { readonly file: string; readonly message: string }[];
}

/** Folder inside the output that holds the reference while a build runs. */
const WORK_FOLDER = ".lapidary";
/** Keeps a second build of the same folder away. */
const LOCK_NAME = ".lapidary.lock";

/** The reference while it is there, and what the manifest keeps of it. */
interface MadeReference {
  readonly path: string;
  readonly record: NonNullable<ArtifactRecord["reference"]>;
}

/** Something that was written, in either format. */
interface Built {
  readonly format: "gguf" | "onnx";
  readonly type: string;
  /** Paths; the first one names the artifact. */
  readonly files: readonly string[];
  readonly bytes: number;
  readonly bitsPerWeight: number;
  readonly method: ArtifactRecord["method"];
  /** Path of the importance matrix, or null. */
  readonly importance: string | null;
  readonly balance: ArtifactRecord["balance"];
  readonly lattices: ArtifactRecord["lattices"];
  readonly plan: string;
  readonly tensors: readonly TensorRecord[];
  /** Where it is one. */
  readonly found: OnnxPackage | null;
  /** As this build measured it; null where it did not. */
  readonly range: ArtifactRecord["range"];
}

/** What was written, and a manifest that has it. */
interface Begun {
  readonly built: readonly Built[];
  readonly manifest: Manifest;
}

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
    await makeFolder(request.out);
    return await withLock(join(request.out, LOCK_NAME), request.out, () =>
      new Build(request, reporter, signal, engine, startLlamaEngine).run(),
    );
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
    const { out, gates, types, onnx } = this.#request;
    const measuring = await this.#prepare();
    const begun: Begun[] = [];
    if (types.length > 0) begun.push(await this.#convert(measuring));
    if (onnx !== null && onnx !== undefined) begun.push(await this.#export(onnx, measuring));
    const built = begun.flatMap((each) => each.built);
    let manifest = begun.at(-1)?.manifest ?? (await this.#begin([], measuring.source)).manifest;

    const pending = built.filter(
      (artifact) => !isMeasured(this.#recordOf(manifest, artifact), measuring.settings),
    );
    if (pending.length > 0) {
      await this.#withReference(measuring, async (reference) => {
        for (const artifact of pending) {
          const record = this.#recordOf(manifest, artifact);
          const measured =
            artifact.found === null
              ? await this.#measure(record, artifact, reference, measuring)
              : await this.#measurePackage(record, artifact.found, reference, measuring);
          manifest = withArtifact(manifest, measured);
          await writeManifest(out, manifest);
        }
      });
    }
    manifest = { ...manifest, complete: true };
    await writeManifest(out, manifest);
    await rm(join(out, WORK_FOLDER), { recursive: true, force: true });

    const missed = built.flatMap((artifact) => {
      const { verification } = this.#recordOf(manifest, artifact);
      const failures = verification === null ? [] : checkGates(verification, gates);
      return failures.map(({ message }) => ({ file: artifact.files[0] ?? "", message }));
    });
    return { manifest, built: built.map((artifact) => this.#name(artifact)), missed };
  }

  /** Writes the GGUF files, and keeps them in the manifest before their journals go. */
  async #convert(measuring: Measuring): Promise<Begun> {
    const steps: ConvertSteps<Begun> = {
      later: { type: measuring.referenceType, path: this.#referencePath(measuring) },
      before: (metadata) => this.#checkText(metadata, measuring.source.name),
      settle: async (artifacts) => {
        const built = artifacts.map((artifact) => ({
          ...artifact,
          format: "gguf" as const,
          found: null,
          range: null,
        }));
        return this.#begin(built, measuring.source);
      },
    };
    const request = { ...this.#request, dryRun: false, matchConverter: false };
    return convertAnd(request, this.#reporter, this.#signal, steps);
  }

  /** Writes the package, unless the manifest vouches for all of its graphs. */
  async #export(options: NonNullable<BuildRequest["onnx"]>, { source }: Measuring): Promise<Begun> {
    const { source: path, out, threads, memory, force } = this.#request;
    const request = { ...options, source: path, out, threads, memory, force, dryRun: false };
    const { exportOnnx } = await import("./export.js");
    const planned = await exportOnnx({ ...request, dryRun: true }, this.#reporter, this.#signal);
    if (await this.#vouchesFor(planned, source)) {
      return this.#begin(await this.#packagesOf(planned), source);
    }
    await this.#checkFolderText(path);
    let begun: Begun | undefined;
    await exportOnnx(request, this.#reporter, this.#signal, async (report) => {
      begun = await this.#begin(await this.#packagesOf(report), source);
    });
    return begun!;
  }

  /** Whether the files of an export are those that an earlier build has written from the same source. */
  async #vouchesFor({ graphs, plan }: ExportReport, source: SourceRecord): Promise<boolean> {
    const { out } = this.#request;
    const manifest = await readManifest(out);
    const records = (manifest?.artifacts ?? []).filter(
      (record) => record.plan === plan && sameFiles(record.source.files, source.files),
    );
    const known = new Map(records.flatMap(({ files }) => files.map((file) => [file.file, file] as const)));
    const paths = graphs.flatMap(({ files }) => files);
    if (paths.some((path) => !known.has(relativeName(out, path)))) return false;
    for (const path of paths) {
      const expected = known.get(relativeName(out, path))!;
      const found = await stat(path).catch(() => undefined);
      if (found?.size !== expected.bytes) return false;
      const { sha256 } = await hashFile(path, { signal: this.#signal });
      if (sha256 !== expected.sha256) return false;
    }
    return true;
  }

  /** The decoders of an export, each with its embedding. */
  async #packagesOf({ graphs, plan, range }: ExportReport): Promise<Built[]> {
    const built: Built[] = [];
    const ofFile = new Map(graphs.map((graph) => [resolve(graph.files[0] ?? ""), graph]));
    for (const decoder of graphs.filter(({ graph }) => graph === "decoder_model_merged")) {
      const [found] = await findPackages(decoder.files[0] ?? "");
      const embed = ofFile.get(resolve(found?.embed ?? ""));
      if (found === undefined || embed === undefined) continue;
      const bytes = decoder.bytes + embed.bytes;
      built.push({
        format: "onnx",
        type: decoder.dtype,
        files: [...decoder.files, ...embed.files],
        bytes,
        bitsPerWeight: (bytes * 8) / (decoder.values + embed.values),
        method: decoder.method,
        importance: decoder.importance,
        balance: decoder.balance,
        lattices: null,
        plan,
        tensors: [...decoder.tensors, ...embed.tensors].map(({ name, type, shape, bytes }) => ({
          name,
          type,
          ne: shape.toReversed(),
          bytes,
        })),
        found,
        range: DTYPES[decoder.dtype].internal === "FLOAT16" ? range : null,
      });
    }
    return built;
  }

  /** What the manifest knows an artifact by. */
  #name({ files }: Pick<Built, "files">): string {
    return relativeName(this.#request.out, files[0] ?? "");
  }

  #recordOf(manifest: Manifest, artifact: Built): ArtifactRecord {
    const name = this.#name(artifact);
    const record = manifest.artifacts.find(({ files }) => files[0]?.file === name);
    if (record === undefined) throw new Error(`${name} is not in the manifest`);
    return record;
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
    await readManifest(this.#request.out);
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

  #referencePath({ source, referenceType: type }: Measuring): string {
    return join(this.#request.out, WORK_FOLDER, `${source.name}-${type}.gguf`);
  }

  /** Finds a text that is too short before any file is written: a file of metadata can tokenize it. */
  async #checkText(metadata: Metadata, name: string): Promise<void> {
    await withVocabulary(metadata, async (vocabulary) => {
      await measurableWindows(this.#engine, vocabulary, this.#request, [name]);
    });
  }

  /** The same for a checkpoint of which no GGUF file is written. */
  async #checkFolderText(folder: string): Promise<void> {
    const source = await openSource(folder);
    if (source.kind !== "checkpoint") return;
    const { name, config, bound } = source;
    const weights = bound.weights.map(({ weight }) => weight);
    const metadata = await folderMetadata({ folder, name, config, weights });
    await this.#checkText(metadata(0), name);
  }

  /** A manifest with all artifacts; what an earlier one says of files that are still the same is kept. */
  async #begin(converted: readonly Built[], source: SourceRecord): Promise<Begun> {
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
      artifacts: await stillThere(out, earlier?.artifacts ?? []),
    };
    for (const artifact of converted) {
      const hashed = await this.#hash(artifact.type, artifact.files);
      const files = hashed.map((file, index) => ({
        ...file,
        file: relativeName(out, artifact.files[index]!),
      }));
      const before = earlier?.artifacts.find((record) => sameFiles(record.files, files));
      const matrices =
        artifact.importance === null ? [] : await this.#hash("importance matrix", [artifact.importance]);
      const { format, bytes, type, plan, bitsPerWeight, method, balance, lattices, tensors } = artifact;
      const { settings = null, reference = null, verification = null, throughput = null } = before ?? {};
      const { accuracyLevel = null, exact = null } = before ?? {};
      manifest = withArtifact(manifest, {
        format,
        files,
        bytes,
        type,
        plan,
        bitsPerWeight,
        method,
        importance: matrices[0] ?? null,
        balance,
        lattices,
        source,
        tensors,
        settings,
        reference,
        verification,
        throughput,
        accuracyLevel,
        exact,
        range: artifact.range ?? before?.range ?? null,
      });
    }
    await writeManifest(out, manifest);
    return { built: converted, manifest };
  }

  /** Makes the reference, or takes the one that a build which was broken off has left whole. */
  async #withReference(
    measuring: Measuring,
    use: (reference: MadeReference) => Promise<void>,
  ): Promise<void> {
    const type = measuring.referenceType;
    const path = this.#referencePath(measuring);
    await makeFolder(dirname(path));
    await convertAnd(
      {
        ...this.#request,
        types: [type],
        out: path,
        typeNames: {},
        method: undefined,
        balance: "off",
        imatrix: undefined,
        splitMaxBytes: undefined,
        keepSplit: false,
        matchConverter: false,
        dryRun: false,
        force: true,
      },
      this.#reporter,
      this.#signal,
      {
        settle: async () => {
          const [made] = await this.#hash("reference", [path]);
          if (made === undefined) throw new Error("a conversion without a file");
          await use({ path, record: { ...made, type, source: measuring.source.name } });
        },
      },
    );
  }

  async #measure(
    record: ArtifactRecord,
    artifact: Built,
    reference: MadeReference,
    { settings, source }: Measuring,
  ): Promise<ArtifactRecord> {
    const reporter = this.#reporter;
    const signal = this.#signal;
    const path = artifact.files[0] ?? "";
    reporter.start(`verify ${basename(path)}`);
    const verification = await measureFile(
      this.#engine,
      { path, vocabulary: path },
      reference.path,
      this.#request,
      reporter,
      signal,
      [source.name],
    );
    reporter.finish(outcomeOf(verification));
    reporter.start(`bench ${basename(path)}`);
    const throughput = await measureThroughput({
      ...this.#request,
      startEngine: this.#startEngine,
      path,
      signal,
    });
    reporter.finish(outcomeOfBench(throughput));
    return { ...record, settings, reference: reference.record, verification, throughput };
  }

  /** The same for a package, at its own accuracy level and with exact products. */
  async #measurePackage(
    record: ArtifactRecord,
    found: OnnxPackage,
    reference: MadeReference,
    { settings, source }: Measuring,
  ): Promise<ArtifactRecord> {
    const reporter = this.#reporter;
    const signal = this.#signal;
    const { withPackageEngine } = await import("./verify-onnx.js");
    const { benchOnnx } = await import("../verify/onnx/bench.js");
    const request = this.#request;
    return withPackageEngine([found], { threads: request.threads }, async (engine, candidates) => {
      const measured = [];
      for (const candidate of candidates) {
        const { accuracyLevel, names } = candidate;
        const label = `${record.type}${accuracyLevel === null ? "" : ` at accuracy level ${accuracyLevel}`}`;
        reporter.start(`verify ${label}`);
        const verification = await measureFile(engine, candidate, reference.path, request, reporter, signal, [
          source.name,
          ...names,
        ]);
        reporter.finish(outcomeOf(verification));
        reporter.start(`bench ${label}`);
        const { embed, decoder, config } = found;
        const options = { ...request, embed, decoder, accuracyLevel, vocabulary: config.vocabulary };
        const throughput = { ...(await benchOnnx(options, signal)), model: candidate.model };
        reporter.finish(outcomeOfBench(throughput));
        measured.push({ accuracyLevel, verification, throughput });
      }
      const own = measured.at(-1)!;
      const exact = measured.length > 1 ? measured[0]! : null;
      return {
        ...record,
        settings,
        reference: reference.record,
        ...own,
        exact: exact && { verification: exact.verification, throughput: exact.throughput },
      };
    });
  }

  async #hash(label: string, paths: readonly string[]): Promise<HashedFile[]> {
    return hashFiles(`hash ${label}`, paths, this.#reporter, this.#signal);
  }
}
