import { stat } from "node:fs/promises";
import type { Engine, ModelInfo } from "../engines/types.js";
import { accuracyLevelOf } from "../gemma4/graph/verification.js";
import { readTextGraphs, type TextGraphs } from "../gemma4/graph/files.js";
import { listWeights, parameterCount } from "../gemma4/weights.js";
import type { OnnxVerified } from "../verify/onnx/engine.js";
import { openGguf } from "../../formats/gguf/read.js";
import { PipelineError } from "./errors.js";
import {
  checkNoFolder,
  findPackages,
  isOnnxPath,
  knownAs,
  type OnnxPackage,
  withPackageVocabulary,
} from "./onnx-package.js";
import type { Reporter } from "./progress.js";
import {
  type Candidate,
  ggufCandidate,
  verifyCandidates,
  type VerifyReport,
  type VerifyRequest,
} from "./verify.js";

/** A package with its graphs read, and the file that stands for its vocabulary. */
interface Opened {
  readonly found: OnnxPackage;
  readonly info: ModelInfo;
  readonly model: OnnxVerified;
  /** Level in the file; null where no product has one. */
  readonly level: number | null;
  readonly names: readonly string[];
}

async function openPackage(found: OnnxPackage, vocabulary: string): Promise<Opened> {
  const { graphs, level, model: info } = await describePackage(found);
  const { path, parameters, bytes, description } = info;
  return {
    found,
    info,
    model: { name: path, graphs, vocabulary, parameters, bytes, description },
    level,
    names: await knownAs(found),
  };
}

/** Reads the graphs of a package, and tells what kind of model it is. */
export async function describePackage(
  found: OnnxPackage,
): Promise<{ readonly graphs: TextGraphs; readonly level: number | null; readonly model: ModelInfo }> {
  const { config, embed, decoder, path } = found;
  const graphs = await readTextGraphs(embed, decoder);
  const weights = listWeights(config).filter(({ unused }) => !unused);
  const model = {
    path,
    vocabulary: config.vocabulary,
    parameters: weights.reduce((sum, weight) => sum + parameterCount(weight), 0),
    bytes: await sizeOf(graphs.files),
    description: `gemma4 ${config.member}, ONNX`,
    bos: config.specialTokenIds.bos ?? 2,
    addsBos: true,
  };
  return { graphs, level: accuracyLevelOf(graphs.decoder), model };
}

async function sizeOf(paths: readonly string[]): Promise<number> {
  const sizes = await Promise.all(paths.map(async (path) => (await stat(path)).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Levels at which a package is measured: as asked for, or exactly and as it is used. */
function levelsOf({ level }: Opened, asked: readonly number[] | undefined): (number | null)[] {
  if (level === null) return [null];
  return [...new Set(asked ?? [0, level])];
}

/** Name of a package at a level, which is what the engine loads. */
function nameAt({ path }: OnnxPackage, level: number | null): string {
  return level === null ? path : `${path} at accuracy level ${level}`;
}

/** Hands over all packages with their vocabularies, which live as long as `use` runs. */
async function withPackages<T>(
  packages: readonly OnnxPackage[],
  opened: readonly Opened[],
  use: (opened: readonly Opened[]) => Promise<T>,
): Promise<T> {
  const [first, ...rest] = packages;
  if (first === undefined) return use(opened);
  const known = opened.find(({ found }) => found.folder === first.folder);
  if (known !== undefined) {
    return withPackages(rest, [...opened, await openPackage(first, known.model.vocabulary)], use);
  }
  return withPackageVocabulary(first, async (path) =>
    withPackages(rest, [...opened, await openPackage(first, path)], use),
  );
}

/** The one package that a reference names. */
async function referencePackage(path: string | null): Promise<OnnxPackage | null> {
  if (path === null || !(await isOnnxPath(path))) return null;
  const found = await findPackages(path);
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  throw new PipelineError(
    "bad-reference",
    `--reference ${path}: it holds ${found.length} decoders, expected one.`,
    { exitCode: 2, advice: `Name one of them, such as ${only?.decoder ?? "decoder_model_merged.onnx"}.` },
  );
}

/** A package at one accuracy level, as the engine knows it. */
export interface PackageCandidate extends Candidate {
  readonly found: OnnxPackage;
  readonly model: ModelInfo;
}

export interface PackageEngineOptions {
  readonly threads: number;
  /** Levels to measure at; 0 and that of the file when left out. */
  readonly accuracyLevels?: readonly number[] | undefined;
  /** A package that the others are compared with, under the name that the request has for it. */
  readonly reference?: { readonly name: string; readonly found: OnnxPackage } | undefined;
}

/**
 * Hands over an engine in which packages run beside GGUF files, and every package at each of its levels.
 *
 * @throws LapidaryError of any room
 */
export async function withPackageEngine<T>(
  packages: readonly OnnxPackage[],
  { threads, accuracyLevels, reference }: PackageEngineOptions,
  use: (engine: Engine, candidates: readonly PackageCandidate[]) => Promise<T>,
): Promise<T> {
  const all = reference === undefined ? packages : [...packages, reference.found];
  return withPackages(all, [], async (opened) => {
    const models: OnnxVerified[] = [];
    const candidates: PackageCandidate[] = [];
    for (const each of opened.slice(0, packages.length)) {
      const { found, model, names, info } = each;
      for (const accuracyLevel of levelsOf(each, accuracyLevels)) {
        const path = nameAt(found, accuracyLevel);
        models.push({ ...model, name: path, ...(accuracyLevel === null ? {} : { accuracyLevel }) });
        const { vocabulary } = model;
        candidates.push({ found, file: found.path, path, vocabulary, accuracyLevel, names, model: info });
      }
    }
    const other = reference === undefined ? undefined : opened.at(-1);
    if (other !== undefined) models.push({ ...other.model, name: reference!.name });
    const engine = await startEngine(models, threads);
    try {
      return await use(engine, candidates);
    } finally {
      await engine.close();
    }
  });
}

/**
 * `verify` where packages for ONNX Runtime are among the models: those run there, GGUF files in llama.cpp, on the same
 * tokens. Packages are measured at accuracy level 0 and at their own.
 *
 * @throws LapidaryError of any room
 */
export async function verifyAcross(
  request: VerifyRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const ofFile = new Map<string, readonly OnnxPackage[]>();
  for (const file of request.files) {
    if (await isOnnxPath(file)) ofFile.set(file, await findPackages(file));
    else {
      await checkNoFolder(file);
      await openGguf(file);
    }
  }
  const found = await referencePackage(request.reference);
  const reference = found === null ? undefined : { name: request.reference!, found };
  const options = { ...request, reference };
  return withPackageEngine([...ofFile.values()].flat(), options, async (engine, candidates) => {
    const ordered = request.files.flatMap((file): readonly Candidate[] => {
      const packages = ofFile.get(file);
      if (packages === undefined) return [ggufCandidate(file)];
      return candidates.filter((candidate) => packages.includes(candidate.found));
    });
    return verifyCandidates(engine, ordered, request, reporter, signal);
  });
}

/** Both runtimes as one engine. */
async function startEngine(models: readonly OnnxVerified[], threads: number): Promise<Engine> {
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  const { VerificationEngine } = await import("../verify/onnx/engine.js");
  const onnx = await startOnnxEngine();
  const llama = await startLlamaEngine().catch(async (error: unknown) => {
    await onnx.close();
    throw error;
  });
  return new VerificationEngine({ llama, onnx, threads, models });
}
