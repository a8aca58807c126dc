import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { StatisticsStore } from "../../calibration/statistics/store.js";
import type { CheckpointParts } from "../gemma4/graph/files.js";
import { paddingToken, placeholderTokens } from "../gemma4/transformers-js.js";
import { PipelineError } from "./errors.js";
import { readConfigJson } from "./package-files.js";
import { type CheckpointSource, openSource } from "./source.js";
import { statisticsFolders } from "./statistics-folders.js";
/** What a calibration has left in a folder. */
export interface Calibrated {
  readonly folder: string;
  readonly inputs: StatisticsStore;
  /** Null where no gradients were taken. */
  readonly curvature: StatisticsStore | null;
}

/** @throws PipelineError `no-source` for anything but the folder of a checkpoint */
export async function openCheckpointFolder(path: string): Promise<CheckpointSource> {
  const source = await openSource(path);
  if (source.kind === "checkpoint") return source;
  throw new PipelineError("no-source", `${path}: expected the folder of a checkpoint, found a GGUF file.`, {
    exitCode: 2,
    advice: "Give the checkpoint that the file was made from.",
  });
}

/** What graphs over a checkpoint are made of. */
export async function checkpointParts({
  folder,
  config,
  bound,
  checkpoint,
}: CheckpointSource): Promise<CheckpointParts> {
  const json = await readConfigJson(folder);
  return {
    config,
    weights: bound.weights,
    shards: checkpoint.shards,
    placeholders: placeholderTokens(json),
    padding: paddingToken(json),
  };
}

/**
 * Opens the statistics of a checkpoint. That they are of its files is seen by their names and sizes: hashing tens of
 * gigabytes would take longer than what they are opened for.
 *
 * @throws StatisticsError; PipelineError `other-checkpoint`
 */
export async function openCalibrated(folder: string, source: CheckpointSource): Promise<Calibrated> {
  const { openStore } = await import("../../calibration/statistics/store.js");
  const inputs = await openStore(statisticsFolders(folder).inputs);
  await checkFiles(folder, inputs, source);
  const { checkpoint } = inputs.header;
  const curvature = await openStore(statisticsFolders(folder).gradients, { checkpoint }).catch(
    (error: unknown) => {
      if ((error as { code?: unknown }).code === "statistics-missing") return null;
      throw error;
    },
  );
  return { folder, inputs, curvature };
}

async function checkFiles(
  folder: string,
  { header }: StatisticsStore,
  source: CheckpointSource,
): Promise<void> {
  for (const { path } of source.checkpoint.shards) {
    const found = header.checkpoint.find(({ file }) => file === basename(path));
    const { size } = await stat(path);
    if (found?.bytes === size) continue;
    const what =
      found === undefined ? "do not know the file" : `expect ${found.bytes} bytes, found ${size}, in`;
    throw new PipelineError("other-checkpoint", `${folder}: the statistics ${what} ${path}.`, {
      exitCode: 2,
      advice: "Give the checkpoint that they were made from.",
    });
  }
}

/** Calls with a folder that is gone afterwards. */
export async function withScratch<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "lapidary-"));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
