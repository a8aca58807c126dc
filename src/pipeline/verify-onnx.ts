import { stat } from "node:fs/promises";
import type { Engine, ModelInfo } from "../engines/types.js";
import { accuracyLevelOf } from "../gemma4/graph/verification.js";
import { readTextGraphs, type TextGraphs } from "../gemma4/graph/files.js";
import { listWeights, parameterCount } from "../gemma4/weights.js";
import type { OnnxVerified } from "../verify/onnx/engine.js";
import { PipelineError } from "./errors.js";
import {
  findPackages,
  isOnnxPath,
  knownAs,
  type OnnxPackage,
  withPackageVocabulary,
} from "./onnx-package.js";
import type { Reporter } from "./progress.js";
import { verifyCandidates, type VerifyReport, type VerifyRequest } from "./verify.js";

/** A package with its graphs read, and the file that stands for its vocabulary. */
interface Opened {
  readonly found: OnnxPackage;
  readonly model: OnnxVerified;
  /** Level in the file; null where no product has one. */
  readonly level: number | null;
  readonly names: readonly string[];
}

async function openPackage(found: OnnxPackage, vocabulary: string): Promise<Opened> {
  const { graphs, level, model } = await describePackage(found);
  const { path, parameters, bytes, description } = model;
  return {
    found,
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
  const packages: OnnxPackage[] = [];
  const ofFile = new Map<string, readonly OnnxPackage[]>();
  for (const file of request.files) {
    if (!(await isOnnxPath(file))) continue;
    const found = await findPackages(file);
    ofFile.set(file, found);
    packages.push(...found);
  }
  const reference = await referencePackage(request.reference);
  const all = reference === null ? packages : [...packages, reference];
  return withPackages(all, [], async (opened) => {
    const of = (found: OnnxPackage): Opened => opened.find((each) => each.found === found)!;
    const candidates = request.files.flatMap((file) => {
      const found = ofFile.get(file);
      if (found === undefined)
        return [{ file, path: file, vocabulary: file, accuracyLevel: null, names: [] }];
      return found.flatMap((each) =>
        levelsOf(of(each), request.accuracyLevels).map((accuracyLevel) => ({
          file: each.path,
          path: nameAt(each, accuracyLevel),
          vocabulary: of(each).model.vocabulary,
          accuracyLevel,
          names: of(each).names,
        })),
      );
    });
    const models = packages.flatMap((each) =>
      levelsOf(of(each), request.accuracyLevels).map((level) => ({
        ...of(each).model,
        name: nameAt(each, level),
        ...(level === null ? {} : { accuracyLevel: level }),
      })),
    );
    if (reference !== null) models.push({ ...of(reference).model, name: request.reference! });
    const engine = await startEngine(models, request.threads);
    try {
      return await verifyCandidates(engine, candidates, request, reporter, signal);
    } finally {
      await engine.close();
    }
  });
}

/** Both runtimes as one engine. */
export async function startEngine(models: readonly OnnxVerified[], threads: number): Promise<Engine> {
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
