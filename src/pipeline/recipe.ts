import { createReadStream } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
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
import { nearest } from "../base/nearest.js";
import type { Method } from "../blocks/types.js";
import type { ConvertRequest, TypeNames } from "./convert.js";
import type { BalanceChoice } from "./balance.js";
import { PipelineError } from "./errors.js";
import { RECIPE_KEYS, recipeSchema, shown, TENSOR_KEYS } from "./recipe-schema.js";

/**
 * A recipe with a line for every tensor of the largest member (60 layers, 14 matrices each) has 60 kB. Larger
 * files are something else, most likely a model. (The parser takes seconds for this much.)
 */
const MAX_RECIPE_BYTES = 256 * 1024;

/**
 * Aliases (`*name`) that a recipe may use. Each repeats what its anchor holds, and anchors can hold aliases:
 * without a bound, nine lines make a billion entries.
 */
const MAX_ALIASES = 100;

/**
 * Lists and maps that may stand in each other, counted with what the parser needs around them; a recipe has
 * three. The parser calls itself for each, and where the stack of calls ends inside a regular expression,
 * Node does not throw but aborts.
 */
const MAX_DEPTH = 64;

/** Messages of the parser that speak of its programming interface, in words of ours. */
const MESSAGES: Readonly<Partial<Record<ErrorCode, string>>> = {
  MULTIPLE_DOCS: "a second document begins here, and a recipe is one",
  NON_STRING_KEY: "this key is a list or a map, and keys of a recipe are words",
};

/** What a recipe says, checked. */
export interface Recipe {
  /** Stands in the name of the file in place of the mix's. */
  readonly name: string | undefined;
  readonly mix: string;
  /** Path of an importance matrix, as seen from the working folder. */
  readonly imatrix: string | undefined;
  readonly typeNames: TypeNames;
  readonly method: Method | undefined;
  readonly balance: BalanceChoice | undefined;
  readonly keepUnusedKv: boolean;
  readonly keepSplit: boolean;
}

/** What of a request a recipe can decide. */
type RecipeOptions = Required<
  Pick<
    ConvertRequest,
    "types" | "name" | "imatrix" | "typeNames" | "method" | "balance" | "keepUnusedKv" | "keepSplit"
  >
>;

/** What is asked for beside a recipe; what is left out the recipe decides. */
export type BesideRecipe = Pick<
  ConvertRequest,
  "imatrix" | "method" | "balance" | "keepUnusedKv" | "keepSplit" | "splitMaxBytes"
> & { readonly typeNames: TypeNames };

type Path = readonly PropertyKey[];

/**
 * Reads a recipe.
 *
 * @throws PipelineError `no-recipe` when the file cannot be read, `bad-recipe` when it is no recipe
 */
export async function readRecipe(path: string): Promise<Recipe> {
  const chunks: Buffer[] = [];
  try {
    // One byte more than allowed; the size of a pipe cannot be asked for.
    for await (const chunk of createReadStream(path, { end: MAX_RECIPE_BYTES })) chunks.push(chunk as Buffer);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason =
      code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "this is a folder" : message;
    throw new PipelineError("no-recipe", `${path}: ${reason}; expected a recipe.`, { exitCode: 2, cause });
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length > MAX_RECIPE_BYTES) {
    throw refusal(`${path}: larger than ${MAX_RECIPE_BYTES / 1024} KiB, which no recipe is.`);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refusal(`${path}: not text in UTF-8; expected a recipe in YAML.`);
  }
  return parseRecipe(text, path);
}

/**
 * The recipe in a text.
 *
 * @param path of the file that it comes from: for messages, and for paths that are relative to it
 * @throws PipelineError `bad-recipe`
 */
export function parseRecipe(text: string, path: string): Recipe {
  const { document, lines } = parse(text, path);
  const checked = recipeSchema.safeParse(valueOf(document, path));
  if (!checked.success) throw explain(checked.error.issues, document, lines, path);
  const { mix, name, pure = false, output, embedding, per_layer_embedding: perLayerEmbedding } = checked.data;
  const { tensors = [], fallback = "near", imatrix, method, balance } = checked.data;
  const { keep_unused_kv, keep_split } = checked.data;
  return {
    name,
    mix,
    imatrix: imatrix === undefined || isAbsolute(imatrix) ? imatrix : join(dirname(path), imatrix),
    typeNames: {
      tensorTypes: tensors.map(({ match, type }, index) => ({
        pattern: match,
        type,
        where: `${path}: tensors[${index}].match`,
      })),
      output,
      embedding,
      perLayerEmbedding,
      pure,
      fallback,
    },
    method,
    balance,
    keepUnusedKv: keep_unused_kv ?? false,
    keepSplit: keep_split ?? false,
  };
}

/**
 * A recipe together with what is asked for beside it. What is given beside goes before what the recipe says:
 * patterns stand in front of its patterns, and a bound for split files takes the place of the source's split.
 */
export function withRecipe(recipe: Recipe, beside: BesideRecipe): RecipeOptions {
  const ours = recipe.typeNames;
  const theirs = beside.typeNames;
  return {
    types: [recipe.mix],
    name: recipe.name,
    imatrix: beside.imatrix ?? recipe.imatrix,
    method: beside.method ?? recipe.method,
    balance: beside.balance ?? recipe.balance,
    typeNames: {
      tensorTypes: [...(theirs.tensorTypes ?? []), ...(ours.tensorTypes ?? [])],
      output: theirs.output ?? ours.output,
      embedding: theirs.embedding ?? ours.embedding,
      perLayerEmbedding: theirs.perLayerEmbedding ?? ours.perLayerEmbedding,
      pure: theirs.pure === true || ours.pure === true,
      fallback: theirs.fallback ?? ours.fallback,
    },
    keepUnusedKv: beside.keepUnusedKv || recipe.keepUnusedKv,
    keepSplit: beside.keepSplit === true || (recipe.keepSplit && beside.splitMaxBytes === undefined),
  };
}

function refusal(message: string, advice?: string, cause?: unknown): PipelineError {
  return new PipelineError("bad-recipe", message, {
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
function checkDepth(text: string, path: string): void {
  const lines = new LineCounter();
  lines.addNewLine(0);
  const parser = new Parser(lines.addNewLine);
  for (const lexeme of new Lexer().lex(text)) {
    // What the parser gives is left alone; the stack is what counts.
    Array.from(parser.next(lexeme));
    if (parser.stack.length > MAX_DEPTH) {
      throw refusal(`${path}: ${position(lines, parser.offset)}: nested too deeply for a recipe.`);
    }
  }
}

/** The document of a text; nothing in it is resolved yet. */
function parse(text: string, path: string): { document: Document.Parsed; lines: LineCounter } {
  const lines = new LineCounter();
  let document: Document.Parsed;
  try {
    checkDepth(text, path);
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
    throw unreadable(path, cause);
  }
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) {
    const message = MESSAGES[problem.code] ?? problem.message.replace(/\.$/, "");
    throw refusal(`${path}: ${position(lines, problem.pos[0])}: ${message}.`);
  }
  checkNodes(document, lines, path);
  return { document, lines };
}

/** yaml throws for what no grammar refuses, such as aliases that multiply. */
function unreadable(path: string, cause: unknown): PipelineError {
  if (cause instanceof PipelineError) return cause;
  let reason = cause instanceof Error ? cause.message.replace(/\.$/, "") : "not YAML";
  if (cause instanceof ReferenceError) reason = "aliases of aliases repeat too much";
  return refusal(`${path}: ${reason}.`, undefined, cause);
}

/** @throws PipelineError for a key that is there twice, and for too many aliases */
function checkNodes(document: Document.Parsed, lines: LineCounter, path: string): void {
  const at = (node: Node): string => position(lines, startOf(node));
  let aliases = 0;
  try {
    visit(document, {
      Alias: (_, alias) => {
        aliases++;
        if (aliases > MAX_ALIASES) {
          throw refusal(`${path}: ${at(alias)}: more than ${MAX_ALIASES} aliases, which no recipe needs.`);
        }
        if (alias.resolve(document) === undefined) {
          throw refusal(`${path}: ${at(alias)}: the alias *${alias.source} has no anchor in front of it.`);
        }
      },
      Map: (_, { items }) => {
        const seen = new Set<unknown>();
        for (const { key } of items) {
          if (!isScalar(key)) continue;
          if (seen.has(key.value)) {
            throw refusal(`${path}: ${at(key)}: the key ${shown(String(key.value))} is there twice.`);
          }
          seen.add(key.value);
        }
      },
    });
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function valueOf(document: Document.Parsed, path: string): unknown {
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (cause) {
    throw unreadable(path, cause);
  }
  if (value === null || value === undefined) {
    throw refusal(`${path}: empty; expected at least recipe: 1 and mix: with the name of a mix.`);
  }
  return value;
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

type Issue = NonNullable<ReturnType<typeof recipeSchema.safeParse>["error"]>["issues"][number];

/** What comes first explains the rest: another version everything, a misspelt key one that is missing. */
function rank({ code, path }: Issue, document: Document.Parsed): number {
  if (path[0] === "recipe" && document.has("recipe")) return 0;
  return code === "unrecognized_keys" ? 1 : 2;
}

/** One error for all that is wrong with a recipe: the first thing in the file, unless another explains it. */
function explain(
  issues: readonly Issue[],
  document: Document.Parsed,
  lines: LineCounter,
  file: string,
): PipelineError {
  const [first] = issues
    .map((issue) => ({
      issue,
      rank: rank(issue, document),
      offset: startOf(nodeAt(document, issue.path)),
    }))
    .toSorted((a, b) => a.rank - b.rank || a.offset - b.offset);
  if (first === undefined) return refusal(`${file}: not a recipe.`);
  const { issue } = first;
  const where = [file, ...(issue.path.length === 0 ? [] : [written(issue.path)])].join(": ");
  if (issue.code === "unrecognized_keys") {
    const [key = ""] = issue.keys;
    const known = issue.path.length === 0 ? RECIPE_KEYS : TENSOR_KEYS;
    const near = nearest(key, known);
    return refusal(
      `${where}: there is no key ${shown(key)} (${position(lines, startOf(keyAt(document, issue.path, key)))}).`,
      near === undefined ? `Known keys: ${known.join(", ")}.` : `Did you mean ${near}?`,
    );
  }
  const advice: unknown = issue.code === "custom" ? issue.params?.["advice"] : undefined;
  return refusal(
    `${where}: ${issue.message} (${position(lines, first.offset)}).`,
    typeof advice === "string" ? advice : undefined,
  );
}
