import { join } from "node:path";
import { gguf } from "../../formats/gguf/values.js";
import type { GgufEntry } from "./gguf/entries.js";
import { Fields, readJsonObject } from "./json.js";

/** What lapidary takes from `generation_config.json`. */
export interface Generation {
  /** Recommended sampling as metadata, in the order in which llama.cpp's converter writes it. */
  readonly sampling: readonly GgufEntry[];
  /** Tokens that are never to be generated; null when the file does not name any. */
  readonly suppressTokens: readonly number[] | null;
}

const MAX_INT = 2 ** 31 - 1;

/** [key after `general.sampling.`, type, names in the file, first found wins]. */
const SAMPLING = [
  ["sequence", "string", ["sequence"]],
  ["top_k", "i32", ["top_k"]],
  ["top_p", "f32", ["top_p"]],
  ["min_p", "f32", ["min_p"]],
  ["xtc_probability", "f32", ["xtc_probability"]],
  ["xtc_threshold", "f32", ["xtc_threshold"]],
  ["temp", "f32", ["temperature"]],
  ["penalty_last_n", "i32", ["penalty_last_n"]],
  ["penalty_repeat", "f32", ["penalty_repeat", "repetition_penalty"]],
  ["mirostat", "i32", ["mirostat"]],
  ["mirostat_tau", "f32", ["mirostat_tau"]],
  ["mirostat_eta", "f32", ["mirostat_eta"]],
] as const;

function isTokenId(id: unknown): id is number {
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id <= MAX_INT;
}

function readSuppressTokens(fields: Fields): number[] | null {
  if (!fields.has("suppress_tokens")) return null;
  const list = fields.raw("suppress_tokens");
  if (Array.isArray(list) && list.every((id) => isTokenId(id))) return list;
  throw fields.fail("suppress_tokens", "a list of token ids");
}

/**
 * Reads `generation_config.json` of a checkpoint folder; null when there is none.
 *
 * @throws Gemma4Error when the file is damaged or a sampling value is not a number
 */
export async function readGeneration(folder: string): Promise<Generation | null> {
  const file = join(folder, "generation_config.json");
  const json = await readJsonObject(file);
  if (json === undefined) return null;
  const fields = new Fields(json, file);
  const sampling: GgufEntry[] = [];
  for (const [suffix, type, names] of SAMPLING) {
    const name = names.find((name) => fields.has(name));
    if (name === undefined) continue;
    const key = `general.sampling.${suffix}`;
    if (type === "string") sampling.push([key, gguf.string(fields.text(name))]);
    else if (type === "i32") sampling.push([key, gguf.i32(fields.count(name, MAX_INT, -1))]);
    else sampling.push([key, gguf.f32(fields.number(name))]);
  }
  return { sampling, suppressTokens: readSuppressTokens(fields) };
}
