import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { TextError } from "./errors.js";
import { decodeUtf8 } from "./utf8.js";

/** One turn of a chat. Fields beside these two (`tool_calls`, `name`, …) go to the chat template as they are. */
export interface Message {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

export interface PlainDocument {
  readonly kind: "text";
  /** Base name of the file. */
  readonly file: string;
  readonly text: string;
}

export interface ChatDocument {
  readonly kind: "chat";
  readonly file: string;
  /** Line of the file, from 1. */
  readonly line: number;
  readonly messages: readonly Message[];
  /** Function declarations offered to the model, in the form of the OpenAI API; null when there are none. */
  readonly tools: readonly unknown[] | null;
}

export type Document = PlainDocument | ChatDocument;

/** Bytes of all files of one source. Evaluation texts have 1.3 MB (wikitext-2); the text is tokenized in one piece. */
export const maxTextBytes = 64 * 1024 * 1024;
/** Files of a folder; the built-in set has a dozen. */
export const maxTextFiles = 1000;
/** Characters of one chat; 128 thousand tokens, the context of the E members, are about half a million. */
export const maxChatLength = 4 * 1024 * 1024;
/** Turns of one chat: far more than fit the context. */
export const maxMessages = 10_000;

const roles: ReadonlySet<unknown> = new Set(["system", "developer", "user", "assistant", "model", "tool"]);

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseMessage(value: unknown, where: string): Message {
  if (!isObject(value))
    throw new TextError("text-chat", `${where} is not an object with "role" and "content".`);
  const { role, content } = value;
  if (typeof role !== "string" || !roles.has(role)) {
    throw new TextError(
      "text-chat",
      `${where} has the role ${JSON.stringify(role) ?? "undefined"}, expected one of ${[...roles].join(", ")}.`,
    );
  }
  // Turns that only call a tool are written with a null content by many exporters; templates trim it as a string.
  const text =
    (content === null || content === undefined) && Array.isArray(value["tool_calls"]) ? "" : content;
  if (typeof text !== "string") {
    throw new TextError("text-chat", `${where} has a "content" that is not a string.`, {
      advice: "Only text can be measured: join the text parts, and leave images and sound out.",
    });
  }
  return { ...value, role, content: text };
}

function parseChat(line: string, file: string, number: number): ChatDocument {
  const where = `${file}, line ${number}`;
  if (line.length > maxChatLength) {
    throw new TextError(
      "text-chat",
      `${where}: the chat has ${line.length} characters, more than ${maxChatLength}.`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new TextError("text-chat", `${where}: this is not JSON (${(cause as Error).message}).`, {
      cause,
      advice: 'A .jsonl file holds one chat a line: {"messages": [{"role": "user", "content": "…"}]}.',
    });
  }
  if (!isObject(value) || !Array.isArray(value["messages"]) || value["messages"].length === 0) {
    throw new TextError("text-chat", `${where}: there is no "messages" array with at least one message.`, {
      advice: 'A .jsonl file holds one chat a line: {"messages": [{"role": "user", "content": "…"}]}.',
    });
  }
  const messages: readonly unknown[] = value["messages"];
  if (messages.length > maxMessages) {
    throw new TextError(
      "text-chat",
      `${where}: the chat has ${messages.length} messages, more than ${maxMessages}.`,
    );
  }
  const tools = value["tools"] ?? null;
  if (tools !== null && !Array.isArray(tools)) {
    throw new TextError("text-chat", `${where}: "tools" is not an array of function declarations.`);
  }
  return {
    kind: "chat",
    file,
    line: number,
    messages: messages.map((message, index) => parseMessage(message, `${where}: message ${index + 1}`)),
    tools: tools as readonly unknown[] | null,
  };
}

/**
 * Reads the text of one file: chats when its name ends in `.jsonl`, else one plain document.
 *
 * @param file name for messages, and of the documents
 * @throws TextError `text-encoding`, `text-chat`
 */
export function parseDocuments(bytes: Uint8Array, file: string): Document[] {
  const text = decodeUtf8(bytes, file);
  if (!file.endsWith(".jsonl")) return [{ kind: "text", file, text }];
  const chats: Document[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() !== "") chats.push(parseChat(line, file, index + 1));
  }
  return chats;
}

async function textFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = entries
    .filter((entry) => !entry.isDirectory() && /\.(txt|jsonl)$/.test(entry.name))
    .map((entry) => entry.name);
  if (names.length === 0) {
    throw new TextError("text-empty", `${folder}: the folder holds no .txt and no .jsonl file.`, {
      exitCode: 2,
    });
  }
  if (names.length > maxTextFiles) {
    throw new TextError("text-size", `${folder}: ${names.length} text files, more than ${maxTextFiles}.`);
  }
  return names.toSorted((a, b) => (a < b ? -1 : 1)).map((name) => join(folder, name));
}

/**
 * Loads a text to measure on: a plain-text file, a `.jsonl` file of chats (one object with `messages`,
 * and `tools` if there are any, a line), or a folder of such files, of which those ending in `.txt` and
 * `.jsonl` are read in the order of their names; folders inside it are not entered.
 *
 * @returns the documents in order, at least one, not all of them blank
 * @throws TextError `text-missing`, `text-empty` (exit code 2), `text-size`, `text-encoding`, `text-chat`
 */
export async function loadDocuments(path: string): Promise<Document[]> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new TextError("text-missing", `${path}: the text cannot be read.`, { cause, exitCode: 2 });
  });
  const files = found.isDirectory() ? await textFiles(path) : [path];
  const documents: Document[] = [];
  let total = 0;
  for (const file of files) {
    const { size, isRegular } = await stat(file).then((s) => ({ size: s.size, isRegular: s.isFile() }));
    if (!isRegular)
      throw new TextError("text-missing", `${file}: this is not a regular file.`, { exitCode: 2 });
    total += size;
    if (total > maxTextBytes) {
      throw new TextError("text-size", `${path}: the text has more than ${maxTextBytes} bytes.`, {
        advice: "A few hundred kilobytes say as much; cut the text down.",
      });
    }
    documents.push(...parseDocuments(await readFile(file), basename(file)));
  }
  const blank = (document: Document): boolean => document.kind === "text" && document.text.trim() === "";
  if (documents.every(blank)) {
    throw new TextError("text-empty", `${path}: the text is empty.`, { exitCode: 2 });
  }
  return documents;
}
