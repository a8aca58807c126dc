import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import type { GgufStrings } from "../../../formats/gguf/strings.js";
import { Gemma4Error } from "../errors.js";
import { isObject, type JsonObject, readJsonObject, readWhole, show } from "../json.js";
import type { Gemma4Config } from "../types.js";
import { type AddedToken, type ScannedTokenizer, scanTokenizer } from "./scan-tokenizer.js";
import { findSpecialTokens, type SpecialVocabulary } from "./special-tokens.js";

/** The file is held as bytes, and spans of it as 32-bit offsets. Real: 33 MB. */
const MAX_TOKENIZER_BYTES = 256 * 1024 ** 2;

/** ggml's token types. */
const TOKEN_TYPE = { normal: 1, control: 3, userDefined: 4, byte: 6 } as const;

/** Control tokens that llama.cpp always renders, so that tool calls and thoughts can be read. */
const VISIBLE: ReadonlySet<string> = new Set([
  "<|channel>",
  "<channel|>",
  "<|tool_call>",
  "<tool_call|>",
  "<|tool_response>",
  "<tool_response|>",
  '<|"|>',
]);
const LONGEST_VISIBLE = Math.max(...[...VISIBLE].map((text) => text.length));
const BYTE_TOKEN = /^<0x[0-9A-Fa-f]{2}>$/;

/** A tokenizer as GGUF wants it. */
export interface Tokenizer {
  /** Texts by id, `▁` for a space. */
  readonly tokens: GgufStrings;
  /** ggml's type of each token. */
  readonly types: Int32Array;
  /** `left right`, in the order of their ranks. */
  readonly merges: GgufStrings;
  readonly special: SpecialVocabulary;
}

/** Parts of the tokenizer that llama.cpp does not read from the file but has built in for Gemma 4. */
function checkAlgorithm(scanned: ScannedTokenizer, file: string): void {
  const expect = (name: string, found: unknown, wanted: unknown): void => {
    if (found === wanted) return;
    throw new Gemma4Error(
      "other-tokenizer",
      `${file}: ${name} is ${show(found)}; expected ${show(wanted)}.`,
      {
        advice: "llama.cpp knows Gemma 4's tokenizer only: BPE with byte fallback, spaces replaced by ▁.",
      },
    );
  };
  const { model, parts } = scanned;
  expect("model.type", model["type"], "BPE");
  expect("model.byte_fallback", model["byte_fallback"], true);
  expect("model.ignore_merges", model["ignore_merges"] ?? false, false);
  const decoder = parts["decoder"];
  expect("decoder.type", isObject(decoder) ? decoder["type"] : decoder, "Sequence");
  const normalizer = parts["normalizer"];
  const steps =
    isObject(normalizer) && normalizer["type"] === "Sequence" ? normalizer["normalizers"] : [normalizer];
  const only = Array.isArray(steps) && steps.length === 1 && isObject(steps[0]) ? steps[0] : undefined;
  const pattern = only?.["pattern"];
  const replacesSpaces =
    only?.["type"] === "Replace" && isObject(pattern) && pattern["String"] === " " && only["content"] === "▁";
  if (!replacesSpaces)
    expect("normalizer", normalizer, { type: "Replace", pattern: { String: " " }, content: "▁" });
}

/** Puts added tokens that are not in the model's vocabulary into the table; the others have to agree with it. */
function mergeAddedTokens(scanned: ScannedTokenizer, file: string): Map<number, AddedToken> {
  const { table } = scanned;
  const byId = new Map<number, AddedToken>();
  for (const token of scanned.added) {
    if (byId.has(token.id)) {
      throw new Gemma4Error(
        "bad-tokenizer",
        `${file}: added_tokens has id ${token.id} twice; expected it once.`,
      );
    }
    byId.set(token.id, token);
    if (!table.has(token.id)) {
      table.setText(token.id, token.content);
    } else if (table.at(token.id).toString() !== token.content) {
      throw new Gemma4Error(
        "bad-tokenizer",
        `${file}: id ${token.id} is ${show(table.at(token.id).toString())} in the vocabulary but ${show(token.content)} in added_tokens; expected the same.`,
      );
    }
  }
  return byId;
}

function typeOf(text: Buffer, added: AddedToken | undefined, beyondModel: boolean): number {
  // All texts that matter here begin with "<" and are short; the other quarter of a million are not decoded.
  const short = text[0] === 0x3c && text.length <= LONGEST_VISIBLE ? text.toString() : "";
  if (VISIBLE.has(short)) return TOKEN_TYPE.userDefined;
  if (!beyondModel && BYTE_TOKEN.test(short)) return TOKEN_TYPE.byte;
  if (added?.special === true) return TOKEN_TYPE.control;
  return beyondModel ? TOKEN_TYPE.userDefined : TOKEN_TYPE.normal;
}

/**
 * Makes GGUF's lists from the bytes of a `tokenizer.json`.
 *
 * @param file its path, for messages
 * @param tokenizerConfig contents of tokenizer_config.json, if there is one
 * @throws Gemma4Error when the file is malformed, is another kind of tokenizer, or does not give each
 *   row of the embedding exactly one token
 */
export function parseTokenizer(
  bytes: Buffer,
  file: string,
  config: Gemma4Config,
  tokenizerConfig: JsonObject | undefined,
): Tokenizer {
  if (!isUtf8(bytes)) throw new Gemma4Error("bad-text", `${file} is not valid UTF-8 text.`);
  const scanned = scanTokenizer(bytes, file, config.vocabulary);
  checkAlgorithm(scanned, file);
  const { table, modelTokens, merges } = scanned;
  const added = mergeAddedTokens(scanned, file);
  const tokens = table.build();
  const types = new Int32Array(table.size);
  for (let id = 0; id < table.size; id++) types[id] = typeOf(table.at(id), added.get(id), id >= modelTokens);
  const special = findSpecialTokens(
    scanned.parts["post_processor"],
    scanned.added,
    tokenizerConfig,
    config.specialTokenIds,
  );
  for (const [token, id] of special.ids) {
    if (id >= table.size) {
      throw new Gemma4Error(
        "bad-config",
        `${config.file}: ${token}_token_id is ${id}; expected an id below ${table.size}, the number of tokens.`,
      );
    }
  }
  return { tokens, types, merges, special };
}

/** Reads `tokenizer_config.json`; undefined when the folder has none. */
export function readTokenizerConfig(folder: string): Promise<JsonObject | undefined> {
  return readJsonObject(join(folder, "tokenizer_config.json"));
}

/**
 * Reads the tokenizer of a checkpoint folder.
 *
 * @throws Gemma4Error with exit code 2 when there is no tokenizer.json, with 1 as `parseTokenizer` does
 */
export async function readTokenizer(folder: string, config: Gemma4Config): Promise<Tokenizer> {
  const file = join(folder, "tokenizer.json");
  const bytes = await readWhole(file, MAX_TOKENIZER_BYTES);
  if (bytes === undefined) {
    throw new Gemma4Error(
      "no-tokenizer",
      `${folder} has no tokenizer.json; expected one beside config.json.`,
      {
        exitCode: 2,
        advice: "Fetch tokenizer.json and tokenizer_config.json of the same model into the folder.",
      },
    );
  }
  return parseTokenizer(bytes, file, config, await readTokenizerConfig(folder));
}
