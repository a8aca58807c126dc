import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openFile } from "../../formats/file-source.js";
import { FormatError } from "../../formats/errors.js";
import { writeFileAtomic } from "../base/atomic-file.js";
import { genaiConfig } from "../gemma4/genai-config.js";
import { Gemma4Error } from "../gemma4/errors.js";
import { type JsonObject, readJsonObject } from "../gemma4/json.js";
import { COPIED_FILES, transformersJsConfig } from "../gemma4/transformers-js.js";
import type { Gemma4Config } from "../gemma4/types.js";
import { PipelineError } from "./errors.js";

/** Largest file that is taken over as it is. Real: 33 MB (tokenizer.json). */
const MAX_COPIED_BYTES = 512 * 1024 ** 2;

/** A small file of a package. */
interface SmallFile {
  readonly path: string;
  readonly bytes: Uint8Array;
  /** Whether an earlier one may be replaced: it was made from what it said. */
  readonly replaces: boolean;
}

async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    const source = await openFile(path);
    try {
      if (source.size > MAX_COPIED_BYTES) {
        throw new PipelineError(
          "file-too-large",
          `${path} has ${source.size} bytes, expected at most ${MAX_COPIED_BYTES}.`,
        );
      }
      const bytes = new Uint8Array(source.size);
      await source.read(bytes, 0);
      return bytes;
    } finally {
      await source.close();
    }
  } catch (error) {
    if (error instanceof FormatError && error.code === "file-missing") return undefined;
    throw error;
  }
}

function jsonBytes(value: JsonObject): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}

/** `config.json` of a checkpoint folder. */
export async function readConfigJson(folder: string): Promise<JsonObject> {
  const path = join(folder, "config.json");
  const json = await readJsonObject(path);
  if (json === undefined) throw new Gemma4Error("file-missing", `${path} is missing.`);
  return json;
}

/**
 * `tokenizer_config.json` of a package. The runtimes' tokenizers look for the chat template in it, and not in the file
 * of its own that checkpoints have.
 *
 * @returns undefined where the checkpoint's own will do, or there is none
 */
async function tokenizerConfig(source: string): Promise<Uint8Array | undefined> {
  const json = await readJsonObject(join(source, "tokenizer_config.json"));
  const template = await readIfThere(join(source, "chat_template.jinja"));
  if (json === undefined || template === undefined || json["chat_template"] !== undefined) return undefined;
  return jsonBytes({ ...json, chat_template: new TextDecoder().decode(template) });
}

export interface PackageOptions {
  /** Folder of the checkpoint. */
  readonly source: string;
  readonly out: string;
  readonly config: Gemma4Config;
  readonly layout: "transformers.js" | "genai";
  /** Number of data files by graph file. */
  readonly chunks: Readonly<Record<string, number>>;
  readonly dtype?: Readonly<Record<string, string>> | undefined;
}

/**
 * Everything of a package besides its graphs, without writing anything.
 *
 * @throws PipelineError when a file is there that belongs to something else, and may not be replaced
 */
export async function packageFiles(options: PackageOptions, force: boolean): Promise<SmallFile[]> {
  const { source, out, config, layout, chunks, dtype } = options;
  const json = await readConfigJson(source);
  const files: SmallFile[] = [];
  for (const name of COPIED_FILES) {
    const own = name === "tokenizer_config.json" ? await tokenizerConfig(source) : undefined;
    const bytes = own ?? (await readIfThere(join(source, name)));
    if (bytes !== undefined) files.push({ path: join(out, name), bytes, replaces: false });
  }
  if (layout === "genai") {
    const generation = await readJsonObject(join(source, "generation_config.json"));
    const [file = ""] = Object.keys(chunks);
    const bytes = jsonBytes(genaiConfig(config, json, generation, file));
    files.push({ path: join(out, "genai_config.json"), bytes, replaces: false });
  } else {
    const path = join(out, "config.json");
    const earlier = await readJsonObject(path).catch(() => undefined);
    const bytes = jsonBytes(transformersJsConfig(json, { chunks, dtype }, earlier));
    files.push({ path, bytes, replaces: sameModel(earlier, json) });
  }
  const toWrite: SmallFile[] = [];
  for (const file of files) {
    const there = await readFile(file.path).catch(() => undefined);
    if (there !== undefined && there.equals(file.bytes)) continue;
    if (there !== undefined && !file.replaces && !force) {
      throw new PipelineError(
        "output-exists",
        `${file.path}: is there already, and is not what this export would write.`,
        { exitCode: 2, advice: "Choose another folder, or pass --force to replace it." },
      );
    }
    toWrite.push(file);
  }
  return toWrite;
}

/** What tells models of other sizes apart. */
function shapeOf(config: JsonObject): string {
  const text = (config["text_config"] ?? config) as JsonObject;
  return JSON.stringify([text["hidden_size"], text["num_hidden_layers"], text["vocab_size"]]);
}

/** Whether an earlier package is of a model of the same shape. */
function sameModel(earlier: JsonObject | undefined, json: JsonObject): boolean {
  return earlier !== undefined && shapeOf(earlier) === shapeOf(json);
}

/** Writes them, each in one step. */
export async function writePackageFiles(files: readonly SmallFile[]): Promise<void> {
  for (const { path, bytes } of files) await writeFileAtomic(path, bytes);
}
