import { readdir } from "node:fs/promises";
import { join, parse } from "node:path";
import { Gemma4Error } from "./errors.js";
import { isObject, type JsonObject, readJsonObject, readTextFile, show } from "./json.js";
import { readTokenizerConfig } from "./tokenizer/tokenizer.js";

/** Real: none of Google's repositories has any. */
const MAX_NAMED_TEMPLATES = 64;

/** Chat templates of a model: Jinja sources. */
export interface ChatTemplates {
  readonly main: string | null;
  /** Others by name (letters, digits and underscores). */
  readonly named: ReadonlyMap<string, string>;
}

/** A conversation, as templates want it. */
export interface Chat {
  /** Objects with a `role` and what else the template reads, such as `content` and `tool_calls`. */
  readonly messages: readonly object[];
  /** Functions that the model may call, in the form of the OpenAI API. */
  readonly tools?: readonly unknown[] | null;
}

export interface RenderOptions {
  /** Text of the BOS token, which the template puts in front. */
  readonly bosToken: string;
  /** End with the opening of the model's turn. False when left out. */
  readonly addGenerationPrompt?: boolean;
}

/** Templates of a list of `{ name, template }`, of which the one named `default` is the main one. */
function fromList(entries: readonly unknown[], file: string): ChatTemplates {
  let main: string | null = null;
  const named = new Map<string, string>();
  for (const entry of entries) {
    const { name, template } = isObject(entry) ? entry : {};
    if (typeof name !== "string" || typeof template !== "string") {
      throw new Gemma4Error(
        "bad-template",
        `${file}: chat_template has ${show(entry)}; expected a name and a template.`,
      );
    }
    const key = name.replaceAll(/[^A-Za-z0-9]/g, "_");
    if (key === "default") main = template;
    else if (key !== "") named.set(key, template);
  }
  if (named.size > MAX_NAMED_TEMPLATES) {
    throw new Gemma4Error(
      "bad-template",
      `${file} has ${named.size} chat templates; expected at most ${MAX_NAMED_TEMPLATES}.`,
    );
  }
  return { main, named };
}

function fromField(field: unknown, file: string): ChatTemplates {
  if (typeof field === "string") return { main: field, named: new Map() };
  if (Array.isArray(field)) return fromList(field, file);
  throw new Gemma4Error(
    "bad-template",
    `${file}: chat_template is ${show(field)}; expected a text or a list of templates.`,
  );
}

async function additional(folder: string): Promise<unknown[]> {
  const files = await readdir(join(folder, "additional_chat_templates")).catch((): string[] => []);
  const templates: unknown[] = [];
  for (const file of files.filter((file) => file.endsWith(".jinja")).toSorted()) {
    const template = await readTextFile(join(folder, "additional_chat_templates", file));
    if (template !== undefined) templates.push({ name: parse(file).name, template });
  }
  return templates;
}

/**
 * Reads the chat templates of a checkpoint folder. First found wins, in the order of llama.cpp's
 * converter: `chat_template` in tokenizer_config.json, chat_template.jinja (with the folder
 * additional_chat_templates), chat_template.json.
 *
 * @param tokenizerConfig contents of tokenizer_config.json, read when left out
 * @throws Gemma4Error when one of the files is damaged
 */
export async function readChatTemplates(
  folder: string,
  tokenizerConfig?: JsonObject,
): Promise<ChatTemplates> {
  const config = tokenizerConfig ?? (await readTokenizerConfig(folder));
  const own = config?.["chat_template"];
  if (own !== undefined && own !== null) return fromField(own, join(folder, "tokenizer_config.json"));

  const jinja = join(folder, "chat_template.jinja");
  const main = await readTextFile(jinja);
  if (main !== undefined)
    return fromList([{ name: "default", template: main }, ...(await additional(folder))], jinja);

  const json = join(folder, "chat_template.json");
  const field = (await readJsonObject(json))?.["chat_template"] ?? null;
  return field === null ? { main: null, named: new Map() } : fromField(field, json);
}

function cannotApply(error: unknown): Gemma4Error {
  const reason = error instanceof Error ? error.message : String(error);
  return new Gemma4Error("bad-template", `The chat template cannot be applied: ${reason}.`, { cause: error });
}

/**
 * Prepares a chat template. The function that comes back writes a conversation as the text that the model
 * was tuned on. The template adds the BOS token itself: tokenize the result without adding another.
 *
 * @throws Gemma4Error when the template is malformed; so does the function when the template refuses the messages
 */
export async function chatRenderer(
  template: string,
  options: RenderOptions,
): Promise<(chat: Chat) => string> {
  // 110 KB that only this function needs.
  const { Template } = await import("@huggingface/jinja");
  const { bosToken, addGenerationPrompt = false } = options;
  let compiled: InstanceType<typeof Template>;
  try {
    compiled = new Template(template);
  } catch (error) {
    throw cannotApply(error);
  }
  return ({ messages, tools }) => {
    try {
      return compiled.render({
        messages,
        bos_token: bosToken,
        add_generation_prompt: addGenerationPrompt,
        ...(tools === undefined || tools === null ? {} : { tools }),
      });
    } catch (error) {
      throw cannotApply(error);
    }
  };
}
