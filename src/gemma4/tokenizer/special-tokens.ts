import { isObject, type JsonObject } from "../json.js";
import { type Gemma4Config, SPECIAL_TOKENS, type SpecialToken } from "../types.js";
import type { AddedToken } from "./scan-tokenizer.js";

/** Special tokens of a vocabulary, in the order in which llama.cpp's converter finds and writes them. */
export interface SpecialVocabulary {
  readonly ids: ReadonlyMap<SpecialToken, number>;
  /** Whether the tokenizer puts the token around a text; only for the tokens it says something about. */
  readonly added: ReadonlyMap<SpecialToken, boolean>;
}

/** What the converter looks for when a template does not make it look for more. */
const USUAL = SPECIAL_TOKENS.filter((token) => token !== "eot" && token !== "eom");

/** Names of the special tokens while the template is read, which may fill in or replace some. */
interface State {
  /** Empty when the checkpoint has no tokenizer_config.json. */
  readonly config: Map<string, unknown>;
  readonly hasConfig: boolean;
  readonly wanted: SpecialToken[];
  readonly added: Map<SpecialToken, boolean>;
  bos: unknown;
  eos: unknown;
  cls: unknown;
  sep: unknown;
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** `id` of a template's element of this kind; undefined when it is of the other. */
function idOf(element: unknown, kind: "SpecialToken" | "Sequence"): string | undefined {
  const inner = isObject(element) ? element[kind] : undefined;
  const id = isObject(inner) ? inner["id"] : undefined;
  return typeof id === "string" && id !== "" ? id : undefined;
}

function readFirst(state: State, first: string): void {
  if (!state.hasConfig) {
    state.bos = first;
  } else if (first !== state.bos && first !== state.cls) {
    if (!state.bos) state.config.set("bos_token", (state.bos = first));
    if (!state.cls) state.config.set("cls_token", (state.cls = first));
  }
  state.added.set("bos", first === state.bos || first === state.cls);
}

function readLast(state: State, last: string): void {
  if (!state.hasConfig) {
    state.eos = last;
  } else if (last !== state.eos) {
    // The tokenizer ends texts with another token than the model: the model's one ends a turn.
    const other = (["eot", "eom"] as const).find((token) => !state.wanted.includes(token));
    if (other !== undefined) {
      state.wanted.push(other);
      state.config.set(`${other}_token`, state.eos);
    }
    state.config.set("eos_token", (state.eos = last));
  }
  state.added.set("eos", last === state.eos);
}

/** `add_sep` follows from what stands between the two texts of a pair. */
function readPair(
  state: State,
  pair: readonly unknown[],
  first: string | undefined,
  last: string | undefined,
): void {
  const from = first !== undefined && idOf(pair[0], "SpecialToken") === first ? 1 : 0;
  const to = last !== undefined && idOf(pair.at(-1), "SpecialToken") === last ? pair.length - 1 : pair.length;
  const inner = pair.slice(from, to);
  if (idOf(inner[0], "Sequence") !== "A" || idOf(inner.at(-1), "Sequence") !== "B") return;
  const between = inner.slice(1, -1).map((element) => idOf(element, "SpecialToken"));
  if (between.length === 0) return;
  const separates = (token: string | undefined): boolean =>
    token !== undefined && (token === state.sep || token === state.eos);
  const addSep =
    (separates(between[0]) && last === undefined) || (between.length === 2 && separates(between[1]));
  state.added.set("sep", addSep);
  if (addSep && !state.sep && state.hasConfig) state.config.set("sep_token", state.eos);
}

function readTemplate(state: State, template: JsonObject): void {
  const single = list(template["single"]);
  const first = single.length > 1 ? idOf(single[0], "SpecialToken") : undefined;
  const last = single.length > 1 ? idOf(single.at(-1), "SpecialToken") : undefined;
  if (first !== undefined) readFirst(state, first);
  if (last !== undefined) readLast(state, last);
  const pair = list(template["pair"]);
  if (pair.length > 0) readPair(state, pair, first, last);
}

function contentOf(token: unknown): unknown {
  return isObject(token) ? token["content"] : token;
}

/**
 * Finds the special tokens and whether they are added, by the rules of llama.cpp's converter: the
 * post-processor's template first, then `tokenizer_config.json`, then `config.json` for what is missing.
 *
 * @param postProcessor of tokenizer.json; null in Google's files
 * @param tokenizerConfig undefined when the checkpoint has none
 */
export function findSpecialTokens(
  postProcessor: unknown,
  addedTokens: readonly AddedToken[],
  tokenizerConfig: JsonObject | undefined,
  configIds: Gemma4Config["specialTokenIds"],
): SpecialVocabulary {
  const config = new Map<string, unknown>(Object.entries(tokenizerConfig ?? {}));
  if (!config.get("bos_token") && config.get("cls_token")) config.set("bos_token", config.get("cls_token"));
  if (!config.get("eos_token") && config.get("sep_token")) config.set("eos_token", config.get("sep_token"));
  const state: State = {
    config,
    hasConfig: tokenizerConfig !== undefined,
    wanted: [...USUAL],
    added: new Map(),
    bos: config.get("bos_token"),
    eos: config.get("eos_token"),
    cls: config.get("cls_token"),
    sep: config.get("sep_token"),
  };
  if (isObject(postProcessor)) {
    const steps = Object.hasOwn(postProcessor, "processors")
      ? list(postProcessor["processors"])
      : [postProcessor];
    for (const step of steps)
      if (isObject(step) && step["type"] === "TemplateProcessing") readTemplate(state, step);
  }

  const ids = new Map<SpecialToken, number>();
  for (const token of state.wanted) {
    const flag = config.get(`add_${token}_token`);
    if (typeof flag === "boolean") state.added.set(token, flag);
    const content = contentOf(config.get(`${token}_token`));
    const id = addedTokens.find((added) => added.content === content)?.id;
    if (id !== undefined) ids.set(token, id);
  }
  for (const token of state.wanted) {
    const id = configIds[token];
    if (id !== undefined && !ids.has(token)) ids.set(token, id);
  }
  return { ids, added: state.added };
}
