import { join } from "node:path";
import { readTextFile } from "./json.js";

/** Front matter of a model card: the fields that are text or lists of text; all others are left out. */
export type ModelCard = ReadonlyMap<string, string | readonly string[]>;

const LINE_BREAK = /\r\n|[\n\r\v\f\u0085\u2028\u2029]/;

/** A scalar on one line; null when it is YAML's null, a mapping or something else that is not text. */
function scalar(source: string): string | null {
  const text = source.trim();
  if (text.startsWith("'"))
    return /^'((?:[^']|'')*)'\s*(?:#.*)?$/.exec(text)?.[1]?.replaceAll("''", "'") ?? null;
  if (text.startsWith('"')) {
    const quoted = /^("(?:[^"\\]|\\.)*")\s*(?:#.*)?$/.exec(text)?.[1];
    try {
      return quoted === undefined ? null : (JSON.parse(quoted) as string);
    } catch {
      return null;
    }
  }
  const plain = text.replace(/(?:^|\s)#.*$/, "").trim();
  if (plain === "" || plain === "~" || plain === "null" || /^[{[&*!|>%@`]/.test(plain)) return null;
  return /:(?:\s|$)/.test(plain) ? null : plain;
}

/** `[a, "b"]`, possibly over several lines; brackets inside quotes are not expected. */
function flowList(source: string): string[] {
  const inside = source.trim().replace(/^\[/, "").replace(/\].*$/s, "");
  const items = inside.match(/'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^,]+/g) ?? [];
  return items.map((item) => scalar(item)).filter((item) => item !== null);
}

function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}

/** Text after `|` or `>`: lines kept, or folded into one. */
function blockScalar(header: string, lines: readonly string[]): string {
  const first = lines.find((line) => line.trim() !== "");
  const indent = first === undefined ? 0 : indentOf(first);
  const literal = lines
    .map((line) => line.slice(indent))
    .join("\n")
    .trimEnd();
  const text = header.startsWith("|")
    ? literal
    : literal.replaceAll(/(?<!\n)\n(?!\n)/g, " ").replaceAll(/\n\n/g, "\n");
  return header.includes("-") || text === "" ? text : `${text}\n`;
}

/** Items of a block list; items that are mappings or lists themselves are left out. */
function blockList(lines: readonly string[]): string[] {
  const indent = indentOf(lines[0] ?? "");
  const items: string[] = [];
  let current: string | undefined;
  const finish = (): void => {
    const item = current === undefined ? null : scalar(current);
    if (item !== null) items.push(item);
  };
  for (const line of lines) {
    if (indentOf(line) === indent && /^\s*-(?:\s|$)/.test(line)) {
      finish();
      current = line.trim().slice(1);
    } else if (current !== undefined) {
      current += ` ${line.trim()}`;
    }
  }
  finish();
  return items;
}

function value(rest: string, lines: readonly string[]): string | string[] | null {
  if (/^[|>]/.test(rest)) return blockScalar(rest, lines);
  if (rest.startsWith("[")) return flowList([rest, ...lines].join(" "));
  const own = lines.filter((line) => line.trim() !== "" && !line.trim().startsWith("#"));
  if (rest === "" && /^\s*-(?:\s|$)/.test(own[0] ?? "")) return blockList(own);
  return scalar([rest, ...own.map((line) => line.trim())].join(" "));
}

/**
 * The front matter of a model card, as far as text and lists of text go: plain, quoted and block
 * scalars, block and flow lists. A card without front matter gives an empty map.
 */
export function parseModelCard(text: string): ModelCard {
  const [opening, ...rest] = text.split(LINE_BREAK);
  const card = new Map<string, string | readonly string[]>();
  if (opening !== "---") return card;
  const end = rest.indexOf("---");
  const lines = (end < 0 ? rest : rest.slice(0, end)).map((line) => line.replaceAll("\t", "  "));
  for (let at = 0; at < lines.length;) {
    const match = /^(?:"([^"]+)"|'([^']+)'|([^\s#'"[\]{}:-][^:#]*?))\s*:(?:\s+(.*))?$/.exec(lines[at] ?? "");
    at++;
    if (match === null) continue;
    const start = at;
    // What belongs to the field: deeper lines, and list items at the left edge.
    while (at < lines.length && /^(?:\s|-(?:\s|$)|$)/.test(lines[at] ?? "")) at++;
    const key = match[1] ?? match[2] ?? match[3] ?? "";
    const found = value((match[4] ?? "").trim(), lines.slice(start, at));
    if (found !== null && !card.has(key)) card.set(key, found);
  }
  return card;
}

/** Front matter of the README.md of a checkpoint folder; empty when there is none. */
export async function readModelCard(folder: string): Promise<ModelCard> {
  const text = await readTextFile(join(folder, "README.md"));
  return text === undefined ? new Map() : parseModelCard(text);
}
