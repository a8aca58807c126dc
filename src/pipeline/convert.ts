import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { checkOutput, makeFolder } from "../base/atomic-file.js";
import type { ImportanceMatrix } from "../../formats/imatrix/types.js";
import { parseBlockType } from "../blocks/table.js";
import type { BlockTypeName, Method } from "../blocks/types.js";
import type { GgufEntry } from "../gemma4/gguf/entries.js";
import type { Fallback, Overrides } from "../plan/assign.js";
import { planCheckpoint } from "../plan/checkpoint.js";
import { planGgufSource } from "../plan/gguf.js";
import type { Plan, PlannedMethod, TypeShare } from "../plan/plan.js";
import {
  importanceMetadata,
  layoutPlan,
  type Metadata,
  type OutputLayout,
  requantizedMetadata,
} from "../quantize/layout.js";
import { findTensors } from "../quantize/redo.js";
import type { RunPlanResult } from "../quantize/quantize.js";
import { checkSpace, type PlannedFile, plannedFiles } from "../quantize/space.js";
import { type BalanceChoice, balanced, type BalancedFold } from "./balance.js";
import { PipelineError } from "./errors.js";
import { type HashedFile, hashFile, sameFiles } from "./hash.js";
import { readManifest, type TensorRecord } from "./manifest.js";
import { folderMetadata } from "./metadata.js";
import type { OpenPlan } from "./plan-file.js";
import { findLattices } from "./lattice.js";
import type { Reporter } from "./progress.js";
import { statisticsFolders } from "./statistics-folders.js";
import type { FeedbackOptions } from "./round.js";
import {
  type CheckpointSource,
  type GgufSource,
  type ModelSource,
  openSource,
  sourceFiles,
  sourceKind,
} from "./source.js";

/** A type for the tensors whose name a regular expression finds. */
export interface TensorTypeName {
  readonly pattern: string;
  readonly type: string;
  /** Where it was written, for messages. */
  readonly where?: string | undefined;
}

/** What stands in front of a mix's rules, with the types by name in any case. */
export interface TypeNames {
  readonly tensorTypes?: readonly TensorTypeName[];
  readonly output?: string | undefined;
  readonly embedding?: string | undefined;
  readonly perLayerEmbedding?: string | undefined;
  readonly pure?: boolean;
  readonly fallback?: Fallback | undefined;
}

export interface TypeOptions {
  readonly typeNames?: TypeNames;
  /** Path of an importance matrix. */
  readonly imatrix?: string | undefined;
  /** How values find their places in blocks; `search` when left out. */
  readonly method?: Method | undefined;
  /** Rounds matrices with feedback of errors, after the method was found for all others. */
  readonly feedback?: FeedbackOptions | undefined;
  /** When left out: `auto`, but `off` for the method of ggml, whose bytes would be others. */
  readonly balance?: BalanceChoice | undefined;
  /**
   * Whether tensors whose values lie on lattices that Q4_0 holds are written in it as they are. When left out: yes,
   * but not with the method of ggml.
   */
  readonly keepLattice?: boolean | undefined;
}

export interface ConvertRequest extends TypeOptions {
  /** Folder of a checkpoint, or a GGUF file. */
  readonly source: string;
  /** Names of mixes, in any case. */
  readonly types: readonly string[];
  /** Types of all tensors that `typeNames` does not name, in place of the mix's rules. */
  readonly plan?: OpenPlan | undefined;
  /** Stands in the name of a file in place of the mix's. */
  readonly name?: string | undefined;
  /** Folder, or path ending in `.gguf` for a single type. */
  readonly out: string;
  /** Write what llama.cpp's converter writes, unused keys and values included. */
  readonly matchConverter: boolean;
  readonly keepUnusedKv: boolean;
  /** Most tensor bytes in a file; one file when left out. */
  readonly splitMaxBytes: number | undefined;
  /** As many files as the source has, with the same tensors. */
  readonly keepSplit?: boolean;
  readonly threads: number;
  /** Ceiling of working memory in bytes. */
  readonly memory: number;
  readonly dryRun: boolean;
  /** Replace files that are there. */
  readonly force: boolean;
  /** Do the tensors again whose names in GGUF this regular expression finds, and keep all others. */
  readonly redo?: string | undefined;
}

/** One artifact that was written, would be written, or is there already. */
export interface ConvertedArtifact {
  /** Mix, such as `Q4_0`. */
  readonly type: string;
  /** Paths, of a split artifact all parts. */
  readonly files: readonly string[];
  /** Bytes of all files. */
  readonly bytes: number;
  /** Bits of all files a weight. */
  readonly bitsPerWeight: number;
  /** How many tensors and bytes each type takes, most bytes first. */
  readonly shares: readonly TypeShare[];
  readonly tensors: readonly TensorRecord[];
  /**
   * `search`: least Σ importance · (value − stored)², for the types that know a search; `ggml`: as llama-quantize;
   * `gptq`: with feedback of errors, where that is done, else by search.
   */
  readonly method: PlannedMethod;
  /** Path of the importance matrix that weighed the errors, or null. */
  readonly importance: string | null;
  /** Tensors whose method heeds an importance and that the matrix given does not have. */
  readonly withoutImportance: readonly string[];
  /** Folds whose channels were scaled before rounding; null where none was looked for, as in a dry run. */
  readonly balance: readonly BalancedFold[] | null;
  /** Tensors whose values lie on lattices and come back from Q4_0 in every bit of BF16. */
  readonly lattices: readonly string[];
  /** Tensors on lattices that this type rounds to fewer than 4 bits, or that a type was named for. */
  readonly roundedLattices: readonly string[];
  /** Identity of plan and header: equal for equal output from equal input. */
  readonly plan: string;
  readonly outcome: "planned" | "written" | "continued" | "unchanged";
  /** Tensors that were finished already, and were kept. */
  readonly resumed: number;
  /** Tensors that were finished already, and had other bytes than were written: they were done again. */
  readonly damaged: number;
  readonly seconds: number;
}

interface Job {
  readonly plan: Plan;
  readonly balance: ConvertedArtifact["balance"];
  readonly output: string;
  readonly metadata: () => Metadata;
}

/** Metadata of a checkpoint's files. */
async function checkpointMetadata(
  { config, folder, bound, name }: CheckpointSource,
  request: ConvertRequest,
): Promise<(fileType: number) => GgufEntry[]> {
  const keepUnused = request.matchConverter || request.keepUnusedKv;
  const weights = bound.weights.map(({ weight }) => weight).filter((weight) => keepUnused || !weight.unused);
  return folderMetadata({ folder, name, config, weights });
}

function parseOptional(name: string | undefined): BlockTypeName | undefined {
  return name === undefined ? undefined : parseBlockType(name).name;
}

/** @throws BlockError `unknown-block-type` */
function overridesOf({ tensorTypes = [], pure, fallback, ...tables }: TypeNames): Overrides {
  return {
    pure,
    fallback,
    tensorTypes: tensorTypes.map(({ type, ...override }) => ({
      ...override,
      type: parseBlockType(type).name,
    })),
    output: parseOptional(tables.output),
    embedding: parseOptional(tables.embedding),
    perLayerEmbedding: parseOptional(tables.perLayerEmbedding),
  };
}

function planOf(
  source: ModelSource,
  mix: string,
  request: ConvertRequest,
  importance: ImportanceMatrix | undefined,
  lattices?: ReadonlySet<string>,
): Plan {
  const { matchConverter, keepSplit } = request;
  const keepUnusedKv = matchConverter || request.keepUnusedKv;
  const options = {
    ...overridesOf(request.typeNames ?? {}),
    mix,
    importance,
    keepUnusedKv,
    method: request.method,
    lattices,
  };
  if (source.kind === "gguf") return planGgufSource({ ...options, model: source.model, keepSplit });
  const { config, bound, checkpoint } = source;
  return planCheckpoint({
    ...options,
    config,
    weights: bound.weights,
    shards: checkpoint.shards,
    matchConverter,
  });
}

/** Where a type goes: the path given, or a file in the folder given. */
function outputPath(request: ConvertRequest, source: ModelSource, plan: Plan): string {
  if (/\.gguf$/i.test(request.out)) return request.out;
  return join(request.out, `${source.name}-${request.name ?? plan.mix}.gguf`);
}

function checkTypes(request: ConvertRequest, plans: readonly Plan[]): void {
  const twice = plans.find((plan, index) => plans.findIndex(({ mix }) => mix === plan.mix) !== index);
  if (twice !== undefined) {
    throw new PipelineError("bad-flag", `--type names ${twice.mix} twice.`, { exitCode: 2 });
  }
  if (request.keepSplit === true && request.splitMaxBytes !== undefined) {
    throw new PipelineError("bad-flag", "--keep-split and --split-max-size exclude each other.", {
      exitCode: 2,
    });
  }
  if (plans.length > 1 && /\.gguf$/i.test(request.out)) {
    throw new PipelineError(
      "bad-output",
      `--out ${request.out} is one file, and --type names ${plans.length}.`,
      {
        exitCode: 2,
        advice: "Give a folder.",
      },
    );
  }
}

function planIdentity(plan: Plan, { layout }: OutputLayout): string {
  const hash = createHash("sha256").update(plan.hash);
  for (const { header } of layout.parts) hash.update(header);
  return hash.digest("hex");
}

type Described = Omit<ConvertedArtifact, "outcome" | "resumed" | "damaged" | "seconds">;

/** What happens around a conversion. */
export interface ConvertSteps<T> {
  /**
   * A type and the path that it is going to be written to on the same disk, in `settle`: there must be
   * room for it too.
   */
  readonly later?: { readonly type: string; readonly path: string };
  /** Gets the metadata of the first file before the first byte is written; what it throws ends the run. */
  readonly before?: (metadata: Metadata) => Promise<void>;
  /** Gets the artifacts, in the order of the types. */
  readonly settle: (artifacts: ConvertedArtifact[]) => Promise<T>;
}

function describe({ plan, balance }: Job, output: OutputLayout): Described {
  return {
    type: plan.mix,
    files: output.paths,
    bytes: output.size,
    bitsPerWeight: (output.size * 8) / plan.values,
    shares: plan.shares,
    tensors: plan.tensors.map(({ name, type, ne, byteLength }) => ({ name, type, ne, bytes: byteLength })),
    method: plan.method,
    importance: plan.importance,
    withoutImportance: plan.withoutImportance,
    balance,
    lattices: plan.lattices,
    roundedLattices: plan.roundedLattices,
    plan: planIdentity(plan, output),
  };
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Tells whether files are there that the manifest of their folder vouches for: same content, plan and source. */
class Vouching {
  readonly #source: ModelSource;
  readonly #signal: AbortSignal;
  #sourceHashes: Promise<readonly HashedFile[]> | undefined;

  constructor(source: ModelSource, signal: AbortSignal) {
    this.#source = source;
    this.#signal = signal;
  }

  async holds(artifact: Pick<ConvertedArtifact, "files" | "plan">): Promise<boolean> {
    const [first] = artifact.files;
    if (first === undefined || !(await exists(first))) return false;
    // A manifest that cannot be read vouches for nothing; whoever needs it will say what is wrong with it.
    const manifest = await readManifest(dirname(first)).catch(() => null);
    const record = manifest?.artifacts.find(
      ({ plan, files }) => plan === artifact.plan && files[0]?.file === basename(first),
    );
    if (record === undefined || record.files.length !== artifact.files.length) return false;
    this.#sourceHashes ??= this.#hashSource();
    if (!sameFiles(record.source.files, await this.#sourceHashes)) return false;
    for (const [index, path] of artifact.files.entries()) {
      const expected = record.files[index];
      const found = await stat(path).catch(() => undefined);
      if (expected === undefined || found?.size !== expected.bytes) return false;
      if (!sameFiles([await hashFile(path, { signal: this.#signal })], [expected])) return false;
    }
    return true;
  }

  async #hashSource(): Promise<readonly HashedFile[]> {
    const hashes: HashedFile[] = [];
    for (const path of await sourceFiles(this.#source))
      hashes.push(await hashFile(path, { signal: this.#signal }));
    return hashes;
  }
}

/** The importance matrix that is named, or the one that belongs to the statistics. */
async function importanceOf({ imatrix, feedback }: ConvertRequest): Promise<ImportanceMatrix | undefined> {
  if (imatrix === undefined && feedback === undefined) return undefined;
  const { readImportance } = await import("../../formats/imatrix/read.js");
  return readImportance(imatrix ?? statisticsFolders(feedback!.statistics).imatrix);
}

/** Types that a plan gives to the tensors of a source, behind those that are named one by one. */
async function withPlan(request: ConvertRequest, source: ModelSource): Promise<ConvertRequest> {
  const { plan, typeNames = {} } = request;
  if (plan === undefined) return request;
  const { ggufTypes } = await import("./plan-types.js");
  // Which tensors there are, and which of them nothing reads, is the same under every mix; this one asks for nothing.
  const { tensors } = planOf(source, "F32", { ...request, typeNames: {}, keepUnusedKv: true }, undefined);
  const tensorTypes = [...(typeNames.tensorTypes ?? []), ...ggufTypes(plan, tensors)];
  return { ...request, typeNames: { ...typeNames, tensorTypes } };
}

/**
 * What to write, type by type, balanced; metadata and layout of each (16 MB for a real vocabulary) are made
 * when it is its turn.
 */
async function planJobs(
  source: ModelSource,
  asked: ConvertRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<Job[]> {
  const request = await withPlan(asked, source);
  const importance = await importanceOf(request);
  const first = request.types.map((type) => planOf(source, type, request, importance));
  // Nothing is read before it is known that there is something to plan.
  const rounds = first.some(({ shares }) => shares.some(({ type }) => !UNROUNDED.has(type)));
  const lattices =
    rounds && keepsLattices(request) ? await findLattices(source, reporter, signal) : new Set<string>();
  const plans =
    lattices.size === 0
      ? first
      : request.types.map((type) => planOf(source, type, request, importance, lattices));
  checkTypes(request, plans);
  if (request.redo !== undefined) for (const plan of plans) findTensors(plan, request.redo);
  const added = importance === undefined ? [] : importanceMetadata(importance);
  const ofCheckpoint = source.kind === "checkpoint" ? await checkpointMetadata(source, request) : undefined;
  const jobs: Job[] = [];
  for (const stock of plans) {
    const { plan, balance } = await balanced(stock, balanceOf(request), reporter, signal);
    jobs.push({
      plan,
      balance,
      output: outputPath(request, source, plan),
      metadata: () => [
        ...(ofCheckpoint?.(plan.fileType) ??
          requantizedMetadata((source as GgufSource).model.metadata, plan)),
        ...(plan.importance === null ? [] : added),
      ],
    });
  }
  return jobs;
}

const UNROUNDED: ReadonlySet<BlockTypeName> = new Set<BlockTypeName>(["F32", "F16", "BF16"]);

/** llama.cpp knows nothing of lattices. */
function keepsLattices({ keepLattice, method, matchConverter }: ConvertRequest): boolean {
  return !matchConverter && (keepLattice ?? method !== "ggml");
}

/** A dry run reads no values, and llama.cpp's bytes are those of the values as they are. */
function balanceOf({ balance, method, matchConverter, dryRun }: ConvertRequest): BalanceChoice {
  if (dryRun || matchConverter) return "off";
  return balance ?? (method === "ggml" ? "off" : "auto");
}

/**
 * Writes a source in one or more types. Everything that can be wrong with the request is found before the
 * first byte is written. Files that the manifest of their folder vouches for are left as they are.
 *
 * @returns one artifact a type, in the order of the types
 * @throws LapidaryError of any room; the signal's reason after an abort
 */
export async function convert(
  request: ConvertRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ConvertedArtifact[]> {
  return convertAnd(request, reporter, signal, { settle: async (artifacts) => artifacts });
}

/**
 * Rounds with feedback what is to be, before the first byte of a file is written: a tensor is kept with the statistics
 * until then, and a run that was stopped goes on behind the last one.
 */
async function roundJobs(
  source: ModelSource,
  jobs: readonly Job[],
  request: ConvertRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<Job[]> {
  const { feedback, threads, memory, dryRun, force, redo } = request;
  if (feedback === undefined) return [...jobs];
  if (source.kind !== "checkpoint") {
    throw new PipelineError("bad-flag", `--method gptq: ${request.source} is a GGUF file.`, {
      exitCode: 2,
      advice: "Rounding with feedback reads the folder of a checkpoint: use lapidary convert.",
    });
  }
  const { prepareRounding } = await import("./round.js");
  const rounded: Job[] = [];
  for (const job of jobs) {
    const prepared = await prepareRounding(
      source,
      job.plan,
      { ...feedback, threads, memory },
      reporter,
      signal,
    );
    if (prepared.open && !dryRun) {
      await checkOutput(job.output, force || redo !== undefined);
      await prepared.run(reporter, signal);
    }
    rounded.push({ ...job, plan: prepared.plan() });
  }
  return rounded;
}

/** A job that was looked at, with nothing written yet. */
interface SurveyedJob extends Job {
  readonly artifact: Described;
  /** Whether its files are there already, just as they would be written. */
  readonly unchanged: boolean;
  readonly files: readonly PlannedFile[];
}

async function surveyJob(job: Job, request: ConvertRequest, vouching: Vouching): Promise<SurveyedJob> {
  const { checkRedo, isComplete } = await import("../quantize/quantize.js");
  const { plan, output } = job;
  const metadata = job.metadata();
  const { splitMaxBytes, keepSplit, dryRun, force, redo } = request;
  const run = { plan, output, metadata, splitMaxBytes, keepSplit, redo };
  const laidOut = layoutPlan(plan, output, metadata, { splitMaxBytes, keepSplit });
  const artifact = describe(job, laidOut);
  // What is to be done again was found wanting, whatever the manifest says.
  const there = async (): Promise<boolean> =>
    (await isComplete(run)) || (redo === undefined && (await vouching.holds(artifact)));
  const unchanged = !dryRun && (await there());
  if (!dryRun && !unchanged) {
    for (const path of artifact.files) await checkOutput(path, force || redo !== undefined);
    if (redo !== undefined) await checkRedo({ ...run, overwrite: force });
  }
  return { ...job, artifact, unchanged, files: plannedFiles(laidOut) };
}

/** The file that comes later: its tensors alone, since the metadata before them hardly counts. */
function laterFile(
  { type, path }: { readonly type: string; readonly path: string },
  source: ModelSource,
  request: ConvertRequest,
): PlannedFile {
  const { tensors } = planOf(source, type, { ...request, matchConverter: false, typeNames: {} }, undefined);
  return { path, bytes: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0) };
}

/** `continued behind 31 tensors, 2 damaged ones done again` */
function outcomeOf({ resumed, damaged, redone }: RunPlanResult): string {
  const words = [
    resumed > 0 ? `continued behind ${resumed} ${resumed === 1 ? "tensor" : "tensors"}` : "written",
  ];
  if (damaged > 0)
    words.push(damaged === 1 ? "a damaged one done again" : `${damaged} damaged ones done again`);
  if (redone > 0) words.push(`${redone} done again as asked`);
  return words.join(", ");
}

/**
 * `convert`, then `settle`. Until that has ended, journals vouch for the files that are written: a run
 * that is stopped between two types, or in `settle`, finds those that are done when it is started again.
 *
 * @returns what `settle` makes of the artifacts
 */
export async function convertAnd<T>(
  request: ConvertRequest,
  reporter: Reporter,
  signal: AbortSignal,
  { later, before, settle }: ConvertSteps<T>,
): Promise<T> {
  const source = await openSource(request.source);
  const planned = await planJobs(source, request, reporter, signal);
  const jobs = await roundJobs(source, planned, request, reporter, signal);
  const { forgetRun, runPlan } = await import("../quantize/quantize.js");
  const vouching = new Vouching(source, signal);
  const surveyed: SurveyedJob[] = [];
  for (const job of jobs) surveyed.push(await surveyJob(job, request, vouching));
  if (!request.dryRun) {
    const toWrite = surveyed.flatMap(({ unchanged, files }) => (unchanged ? [] : files));
    const afterwards = later === undefined || toWrite.length === 0 ? [] : [laterFile(later, source, request)];
    await checkSpace([...toWrite, ...afterwards]);
    if (jobs[0] !== undefined) await before?.(jobs[0].metadata());
  }
  const artifacts: ConvertedArtifact[] = [];
  for (const { plan, output, metadata, artifact, unchanged } of surveyed) {
    if (request.dryRun || unchanged) {
      const outcome = unchanged ? "unchanged" : "planned";
      artifacts.push({ ...artifact, outcome, resumed: 0, damaged: 0, seconds: 0 });
      continue;
    }
    await makeFolder(dirname(output));
    const started = performance.now();
    reporter.start(basename(output));
    const result = await runPlan({
      plan,
      output,
      metadata: metadata(),
      splitMaxBytes: request.splitMaxBytes,
      keepSplit: request.keepSplit,
      threads: request.threads,
      memoryBytes: request.memory,
      overwrite: request.force,
      redo: request.redo,
      keepJournal: true,
      signal,
      onProgress: ({ bytesRead, totalBytes, rate, eta }) =>
        reporter.progress({ done: bytesRead, total: totalBytes, unit: "bytes", pace: { rate, left: eta } }),
    });
    reporter.finish(outcomeOf(result));
    const seconds = (performance.now() - started) / 1000;
    const { resumed, damaged } = result;
    const outcome = resumed > 0 ? "continued" : "written";
    artifacts.push({ ...artifact, outcome, resumed, damaged, seconds });
  }
  const settled = await settle(artifacts);
  if (!request.dryRun) for (const { output } of jobs) await forgetRun(output);
  return settled;
}

/**
 * `convert` for the folder of a checkpoint only.
 *
 * @throws PipelineError when the source is a GGUF file
 */
export async function convertCheckpoint(
  request: ConvertRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ConvertedArtifact[]> {
  if ((await sourceKind(request.source)) === "gguf") {
    throw new PipelineError(
      "no-source",
      `${request.source}: convert reads the folder of a checkpoint, not a GGUF file.`,
      {
        exitCode: 2,
        advice: "Use lapidary quantize for a GGUF file.",
      },
    );
  }
  return convert(request, reporter, signal);
}
