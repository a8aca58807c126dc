import { createReadStream } from "node:fs";
import {
  type Document,
  type ErrorCode,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  Parser,
  parseDocument,
  visit,
  type YAMLMap,
} from "yaml";
import type { ZodType } from "zod";
import { nearest } from "../base/nearest.js";
import { PipelineError } from "./errors.js";
import { shown } from "./shown.js";

/**
 * A recipe or a plan with a line for every tensor of the largest member (60 layers, 14 matrices each) has 100 kB. Larger
 * files are something else, most likely a model. (The parser takes seconds for this much.)
 */
const MAX_BYTES = 256 * 1024;

/**
 * Aliases (`*name`) that a file may use. Each repeats what its anchor holds, and anchors can hold aliases:
 * without a bound, nine lines make a billion entries.
 */
const MAX_ALIASES = 100;

/**
 * Lists and maps that may stand in each other, counted with what the parser needs around them; a recipe or
 * a plan has three. The parser calls itself for each, and where the stack of calls ends inside a regular expression,
 * Node does not throw but aborts.
 */
const MAX_DEPTH = 64;

/** Messages of the parser that speak of its programming interface, in words of ours. */
const MESSAGES: Readonly<Partial<Record<ErrorCode, (noun: string) => string>>> = {
  MULTIPLE_DOCS: (noun) => `a second document begins here, and a ${noun} is one`,
  NON_STRING_KEY: (noun) => `this key is a list or a map, and keys of a ${noun} are words`,
};

type Path = readonly PropertyKey[];

/** What a file of YAML has to be. */
export interface YamlForm<T> {
  /** One word; errors are called `no-…` where the file cannot be read, and `bad-…` where it is something else. */
  readonly noun: string;
  /** Its version stands under the noun. */
  readonly schema: ZodType<T>;
  /** What an empty file lacks. */
  readonly minimum: string;
  /** Known keys of the map at a path. */
  readonly keys: (path: Path) => readonly string[];
}

/** The file that is read, for messages. */
interface Source {
  readonly path: string;
  readonly noun: string;
}

/**
 * Reads a file of YAML.
 *
 * @throws PipelineError (exit code 2) when it cannot be read or is not of the form, with the place in it
 */
export async function readYaml<T>(path: string, form: YamlForm<T>): Promise<T> {
  const { noun } = form;
  const source = { path, noun };
  const chunks: Buffer[] = [];
  try {
    // One byte more than allowed; the size of a pipe cannot be asked for.
    for await (const chunk of createReadStream(path, { end: MAX_BYTES })) chunks.push(chunk as Buffer);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason =
      code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "this is a folder" : message;
    throw new PipelineError(`no-${noun}`, `${path}: ${reason}; expected a ${noun}.`, { exitCode: 2, cause });
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length > MAX_BYTES) {
    throw refusal(source, `larger than ${MAX_BYTES / 1024} KiB, which no ${noun} is.`);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refusal(source, `not text in UTF-8; expected a ${noun} in YAML.`);
  }
  return parseYaml(text, path, form);
}

/**
 * What a text of YAML says.
 *
 * @param path of the file that it comes from, for messages
 * @throws PipelineError (exit code 2)
 */
export function parseYaml<T>(text: string, path: string, form: YamlForm<T>): T {
  const source = { path, noun: form.noun };
  const { document, lines } = parse(text, source);
  const value = valueOf(document, source);
  if (value === null || value === undefined) {
    throw refusal(source, `empty; expected at least ${form.minimum}.`);
  }
  const checked = form.schema.safeParse(value);
  if (!checked.success) throw explain(checked.error.issues, { document, lines, source, keys: form.keys });
  return checked.data;
}

/** @param message what is wrong, from the place in the file on */
function refusal({ path, noun }: Source, message: string, advice?: string, cause?: unknown): PipelineError {
  return new PipelineError(`bad-${noun}`, `${path}: ${message}`, {
    exitCode: 2,
    cause,
    ...(advice === undefined ? {} : { advice }),
  });
}

function position(lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `line ${line}, column ${col}`;
}

function startOf(node: Node | null): number {
  return node?.range?.[0] ?? 0;
}

/** Goes through the tokens of a text, which takes no recursion. */
function checkDepth(text: string, source: Source): void {
  const lines = new LineCounter();
  lines.addNewLine(0);
  const parser = new Parser(lines.addNewLine);
  for (const lexeme of new Lexer().lex(text)) {
    // What the parser gives is left alone; the stack is what counts.
    Array.from(parser.next(lexeme));
    if (parser.stack.length > MAX_DEPTH) {
      throw refusal(source, `${position(lines, parser.offset)}: nested too deeply for a ${source.noun}.`);
    }
  }
}

/** The document of a text; nothing in it is resolved yet. */
function parse(text: string, source: Source): { document: Document.Parsed; lines: LineCounter } {
  const lines = new LineCounter();
  let document: Document.Parsed;
  try {
    checkDepth(text, source);
    document = parseDocument(text, {
      lineCounter: lines,
      prettyErrors: false,
      logLevel: "error",
      stringKeys: true,
      // The same types whatever a %YAML line says: no dates, no binary data, no merge keys.
      schema: "core",
      resolveKnownTags: false,
      merge: false,
      // yaml compares every key with every other one; `checkNodes` looks each one up.
      uniqueKeys: false,
    });
  } catch (cause) {
    throw unreadable(source, cause);
  }
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) {
    const message = MESSAGES[problem.code]?.(source.noun) ?? problem.message.replace(/\.$/, "");
    throw refusal(source, `${position(lines, problem.pos[0])}: ${message}.`);
  }
  checkNodes(document, lines, source);
  return { document, lines };
}

/** yaml throws for what no grammar refuses, such as aliases that multiply. */
function unreadable(source: Source, cause: unknown): PipelineError {
  if (cause instanceof PipelineError) return cause;
  let reason = cause instanceof Error ? cause.message.replace(/\.$/, "") : "not YAML";
  if (cause instanceof ReferenceError) reason = "aliases of aliases repeat too much";
  return refusal(source, `${reason}.`, undefined, cause);
}

/** @throws PipelineError for a key that is there twice, and for too many aliases */
function checkNodes(document: Document.Parsed, lines: LineCounter, source: Source): void {
  const at = (node: Node): string => position(lines, startOf(node));
  let aliases = 0;
  try {
    visit(document, {
      Alias: (_, alias) => {
        aliases++;
        if (aliases > MAX_ALIASES) {
          throw refusal(
            source,
            `${at(alias)}: more than ${MAX_ALIASES} aliases, which no ${source.noun} needs.`,
          );
        }
        if (alias.resolve(document) === undefined) {
          throw refusal(source, `${at(alias)}: the alias *${alias.source} has no anchor in front of it.`);
        }
      },
      Map: (_, { items }) => {
        const seen = new Set<unknown>();
        for (const { key } of items) {
          if (!isScalar(key)) continue;
          if (seen.has(key.value)) {
            throw refusal(source, `${at(key)}: the key ${shown(String(key.value))} is there twice.`);
          }
          seen.add(key.value);
        }
      },
    });
  } catch (cause) {
    throw unreadable(source, cause);
  }
}

function valueOf(document: Document.Parsed, source: Source): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (cause) {
    throw unreadable(source, cause);
  }
}

/** `tensors[2].type` */
function written(path: Path): string {
  return path
    .map((step, index) => (typeof step === "number" ? `[${step}]` : `${index > 0 ? "." : ""}${String(step)}`))
    .join("");
}

function pairOf(map: YAMLMap, name: string) {
  return map.items.find(({ key }) => isScalar(key) && String(key.value) === name);
}

/** What stands at a path, or the nearest thing around it that is there. */
function nodeAt(document: Document.Parsed, path: Path): Node | null {
  let closest: Node | null = document.contents;
  for (const step of path) {
    const holder: unknown = isAlias(closest) ? closest.resolve(document) : closest;
    let inside: unknown;
    if (isSeq(holder)) inside = holder.items[Number(step)];
    else if (isMap(holder)) inside = pairOf(holder, String(step))?.value;
    if (!isNode(inside)) break;
    closest = inside;
  }
  return closest;
}

/** A key of the map at a path. */
function keyAt(document: Document.Parsed, path: Path, name: string): Node | null {
  const node = nodeAt(document, path);
  const map = isAlias(node) ? node.resolve(document) : node;
  const key = isMap(map) ? pairOf(map, name)?.key : undefined;
  return isNode(key) ? key : node;
}

type Issue = NonNullable<ReturnType<ZodType["safeParse"]>["error"]>["issues"][number];

/** What comes first explains the rest: another version everything, a misspelt key one that is missing. */
function rank({ code, path }: Issue, { document, source }: Explained): number {
  if (path[0] === source.noun && document.has(source.noun)) return 0;
  return code === "unrecognized_keys" ? 1 : 2;
}

/** A file that is not what it has to be. */
interface Explained {
  readonly document: Document.Parsed;
  readonly lines: LineCounter;
  readonly source: Source;
  readonly keys: (path: Path) => readonly string[];
}

/** One error for all that is wrong with a file: the first thing in it, unless another explains it. */
function explain(issues: readonly Issue[], file: Explained): PipelineError {
  const { document, lines, source } = file;
  const [first] = issues
    .map((issue) => ({
      issue,
      rank: rank(issue, file),
      offset: startOf(nodeAt(document, issue.path)),
    }))
    .toSorted((a, b) => a.rank - b.rank || a.offset - b.offset);
  if (first === undefined) return refusal(source, `not a ${source.noun}.`);
  const { issue } = first;
  const where = issue.path.length === 0 ? "" : `${written(issue.path)}: `;
  if (issue.code === "unrecognized_keys") {
    const [key = ""] = issue.keys;
    const known = file.keys(issue.path);
    const near = nearest(key, known);
    return refusal(
      source,
      `${where}there is no key ${shown(key)} (${position(lines, startOf(keyAt(document, issue.path, key)))}).`,
      near === undefined ? `Known keys: ${known.join(", ")}.` : `Did you mean ${near}?`,
    );
  }
  const advice: unknown = issue.code === "custom" ? issue.params?.["advice"] : undefined;
  return refusal(
    source,
    `${where}${issue.message} (${position(lines, first.offset)}).`,
    typeof advice === "string" ? advice : undefined,
  );
}
