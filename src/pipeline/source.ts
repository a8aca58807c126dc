import { realpath, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { openGguf } from "../../formats/gguf/read.js";
import type { GgufModel } from "../../formats/gguf/types.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import type { Checkpoint } from "../../formats/safetensors/types.js";
import { type BoundCheckpoint, bindCheckpoint } from "../gemma4/bind.js";
import { readConfig } from "../gemma4/config.js";
import type { Gemma4Config } from "../gemma4/types.js";
import { PipelineError } from "./errors.js";

export interface CheckpointSource {
  readonly kind: "checkpoint";
  /** Repository or folder name, such as `gemma-4-E2B-it`. */
  readonly name: string;
  readonly folder: string;
  readonly checkpoint: Checkpoint;
  readonly config: Gemma4Config;
  readonly bound: BoundCheckpoint;
}

export interface GgufSource {
  readonly kind: "gguf";
  /** File name without its extension, type and part number. */
  readonly name: string;
  readonly model: GgufModel;
}

/** Something that can be rounded. */
export type ModelSource = CheckpointSource | GgufSource;

/** Number types that end a file name, as in `gemma-4-E2B-it-BF16.gguf`. */
const TYPE_SUFFIX = /[-._](?:f32|f16|bf16)$/i;
const PART_SUFFIX = /-\d{5}-of-\d{5}$/;
const CACHE_REPOSITORY = /^models--(?:.+--)?([^/]+)$/;

/** `models--google--gemma-4-E2B-it/snapshots/<commit>` is known by its repository, any other folder by its name. */
async function folderName(folder: string): Promise<string> {
  const real = await realpath(folder);
  const snapshots = dirname(real);
  const repository = CACHE_REPOSITORY.exec(basename(dirname(snapshots)))?.[1];
  return basename(snapshots) === "snapshots" && repository !== undefined ? repository : basename(real);
}

function ggufName(path: string): string {
  return basename(path)
    .replace(/\.gguf$/i, "")
    .replace(PART_SUFFIX, "")
    .replace(TYPE_SUFFIX, "");
}

/** What a path holds, by its name and what lies there. */
export async function sourceKind(path: string): Promise<"checkpoint" | "gguf"> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new PipelineError("no-source", `${path}: there is no such file or folder.`, { cause, exitCode: 2 });
  });
  if (found.isDirectory()) return "checkpoint";
  if (/\.gguf$/i.test(path)) return "gguf";
  throw new PipelineError("no-source", `${path}: expected the folder of a checkpoint, or a .gguf file.`, {
    exitCode: 2,
    advice:
      "A checkpoint folder holds config.json, tokenizer.json and model.safetensors (or its shards and index).",
  });
}

/**
 * Opens what a user named: the folder of a checkpoint, or a GGUF file (any part of a split one). Headers
 * are read and every tensor is checked; no data is read.
 *
 * @throws PipelineError, FormatError, Gemma4Error
 */
export async function openSource(path: string): Promise<ModelSource> {
  if ((await sourceKind(path)) === "gguf") {
    return { kind: "gguf", name: ggufName(path), model: await openGguf(path) };
  }
  const config = await readConfig(path);
  const checkpoint = await openCheckpoint(path);
  return {
    kind: "checkpoint",
    name: await folderName(path),
    folder: path,
    checkpoint,
    config,
    bound: bindCheckpoint(config, checkpoint),
  };
}

/** Paths of all files that decide what comes out: weights, and for a checkpoint its small files. */
export async function sourceFiles(source: ModelSource): Promise<string[]> {
  if (source.kind === "gguf") return [...source.model.paths];
  const small = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
  ].map((name) => join(source.folder, name));
  const present = await Promise.all(
    small.map((path) =>
      stat(path).then(
        (found) => found.isFile(),
        () => false,
      ),
    ),
  );
  return [
    ...small.filter((_, index) => present[index]),
    ...source.checkpoint.shards.map((shard) => shard.path),
  ];
}
