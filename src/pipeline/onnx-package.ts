import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { readConfig } from "../gemma4/config.js";
import { readJsonObject } from "../gemma4/json.js";
import type { Gemma4Config } from "../gemma4/types.js";
import { listWeights } from "../gemma4/weights.js";
import { PipelineError } from "./errors.js";
import { folderMetadata, withVocabulary } from "./metadata.js";

const DECODER = /^decoder_model_merged(_[a-z0-9]+)?\.onnx$/;

/** A text model of the transformers.js layout: one decoder, and the embedding that goes with it. */
export interface OnnxPackage {
  /** Path of the decoder's file, which stands for both. */
  readonly path: string;
  readonly embed: string;
  readonly decoder: string;
  /** Folder with config.json and the tokenizer. */
  readonly folder: string;
  readonly name: string;
  readonly config: Gemma4Config;
}

/** Whether a path is for this format rather than for GGUF: a folder without safetensors, or an .onnx file. */
export async function isOnnxPath(path: string): Promise<boolean> {
  if (/\.onnx$/i.test(path)) return true;
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() !== true) return false;
  const names = await readdir(path);
  if (names.some((name) => /\.safetensors(\.index\.json)?$/.test(name))) return false;
  return names.includes("onnx") || names.some((name) => DECODER.test(name));
}

/**
 * Refuses a folder that is no package where a model to measure is asked for.
 *
 * @throws PipelineError (exit code 2)
 */
export async function checkNoFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() !== true) return;
  const names = await readdir(path);
  if (names.includes("genai_config.json")) {
    throw refuse(
      path,
      "it is a folder for onnxruntime-genai",
      "Packages in the transformers.js layout can be measured: convert --to onnx writes them.",
    );
  }
  throw refuse(
    path,
    "it is a folder without a package",
    "Give a GGUF file, or the folder that convert --to onnx has written; a checkpoint can be the --reference.",
  );
}

function refuse(path: string, problem: string, advice: string): PipelineError {
  return new PipelineError("bad-package", `${path}: ${problem}.`, { exitCode: 2, advice });
}

/** The embedding that transformers.js would load beside a decoder. */
async function embedFor(folder: string, decoder: string, root: string): Promise<string> {
  const files = (await readdir(folder)).filter((name) => /^embed_tokens(_[a-z0-9]+)?\.onnx$/.test(name));
  const own = decoder.replace("decoder_model_merged", "embed_tokens");
  if (files.includes(own)) return own;
  const [only] = files;
  if (only !== undefined && files.length === 1) return only;
  const found = only === undefined ? "there is none" : `there are ${files.join(", ")}`;
  throw refuse(
    join(folder, decoder),
    `it goes with ${own}, and ${found}`,
    `Export that graph too, into ${root}.`,
  );
}

/**
 * Finds the text models behind a path: a decoder's file, or the folder of a package, of which every decoder counts.
 *
 * @throws PipelineError, Gemma4Error when there is none, or something that belongs to it is missing
 */
export async function findPackages(path: string): Promise<OnnxPackage[]> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new PipelineError("no-source", `${path}: there is no such file or folder.`, { cause, exitCode: 2 });
  });
  let graphs: string;
  let names: string[];
  if (found.isDirectory()) {
    graphs = (await stat(join(path, "onnx")).catch(() => undefined))?.isDirectory()
      ? join(path, "onnx")
      : path;
    names = (await readdir(graphs)).filter((name) => DECODER.test(name)).toSorted();
    if (names.length === 0) {
      throw refuse(
        path,
        "there is no decoder_model_merged*.onnx in it",
        "Give the folder that convert --to onnx has written.",
      );
    }
  } else {
    graphs = dirname(path);
    names = [basename(path)];
    if (!DECODER.test(basename(path))) {
      throw refuse(
        path,
        "it is not a decoder",
        "Give a package's folder, or its decoder_model_merged*.onnx.",
      );
    }
  }
  const folder = basename(resolve(graphs)) === "onnx" ? dirname(resolve(graphs)) : graphs;
  const config = await readConfig(folder);
  const packages: OnnxPackage[] = [];
  for (const name of names) {
    packages.push({
      path: join(graphs, name),
      embed: join(graphs, await embedFor(graphs, name, folder)),
      decoder: join(graphs, name),
      folder,
      name: basename(resolve(folder)),
      config,
    });
  }
  return packages;
}

/** Hands over a file with a package's vocabulary, for llama.cpp to cut text into tokens. */
export async function withPackageVocabulary<T>(
  { folder, name, config }: Pick<OnnxPackage, "folder" | "name" | "config">,
  use: (path: string) => Promise<T>,
): Promise<T> {
  const metadata = await folderMetadata({
    folder,
    name,
    config,
    weights: listWeights(config).filter(({ unused }) => !unused),
  });
  return withVocabulary(metadata(0), use);
}

/** Name by which `config.json` knows a package, which may mark it as instruction tuned. */
export async function knownAs({ folder, name }: OnnxPackage): Promise<string[]> {
  const json = await readJsonObject(join(folder, "config.json"));
  const known = json?.["_name_or_path"];
  return typeof known === "string" ? [name, known] : [name];
}
