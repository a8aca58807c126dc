import { FETCH_AGAIN, SafetensorsError, shown } from "./errors.js";

/** How large a JSON document may get once it is parsed. */
export interface JsonBounds {
  /** Objects and arrays inside each other. */
  readonly depth: number;
  /** Objects and arrays in all. */
  readonly containers: number;
  /** Keys of one object. */
  readonly keys: number;
  /** Values of one array. */
  readonly elements: number;
}

export type JsonObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const SYNTAX = "is not valid JSON";

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/** Position of the quote that ends the string which starts at `start`; the text's length when none does. */
function stringEnd(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length) {
    const unit = text.charCodeAt(at);
    if (unit === QUOTE) return at;
    at += unit === BACKSLASH ? 2 : 1;
  }
  return text.length;
}

function isSpace(unit: number): boolean {
  return unit === 0x20 || unit === 0x0a || unit === 0x0d || unit === 0x09;
}

/**
 * Walks a document before it is parsed. The walk follows the nesting as JSON.parse will see it, up to the
 * first mistake in the syntax, which it leaves to JSON.parse.
 *
 * @returns what is wrong: a bound that is passed or a key that an object has twice (JSON.parse would keep
 *   the last one without a word)
 */
function objection(text: string, bounds: JsonBounds): string | undefined {
  /** One entry for each open object or array: the keys so far, or the number of commas. */
  const open: (Set<string> | number)[] = [];
  let containers = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit === QUOTE) {
      const end = stringEnd(text, at);
      const keys = open.at(-1);
      if (keys instanceof Set) {
        let next = end + 1;
        while (isSpace(text.charCodeAt(next))) next++;
        if (text.charCodeAt(next) === COLON) {
          const token = text.slice(at + 1, end);
          const key = token.includes("\\") ? unescaped(token) : token;
          if (key === undefined) return SYNTAX;
          if (keys.has(key)) return `has the key ${shown(key)} twice`;
          if (keys.size === bounds.keys) return `has an object of more than ${bounds.keys} keys`;
          keys.add(key);
        }
      }
      at = end;
    } else if (unit === OPEN_BRACE || unit === OPEN_BRACKET) {
      if (open.length === bounds.depth) return `is nested deeper than ${bounds.depth}`;
      if (++containers > bounds.containers) return `has more than ${bounds.containers} objects and lists`;
      open.push(unit === OPEN_BRACE ? new Set() : 0);
    } else if (unit === CLOSE_BRACE || unit === CLOSE_BRACKET) {
      open.pop();
    } else if (unit === COMMA) {
      const commas = open.at(-1);
      if (typeof commas === "number") {
        if (commas + 1 >= bounds.elements) return `has a list of more than ${bounds.elements} values`;
        open[open.length - 1] = commas + 1;
      }
    }
  }
  return undefined;
}

function unescaped(token: string): string | undefined {
  try {
    return JSON.parse(`"${token}"`) as string;
  } catch {
    return undefined;
  }
}

/**
 * Parses UTF-8 JSON from outside whose root has to be an object.
 *
 * @param what what is parsed, at the start of messages: `model.safetensors: the header`
 * @throws SafetensorsError when it is not UTF-8, not JSON, no object, has a key twice or passes a bound
 */
export function parseJson(bytes: Uint8Array, what: string, bounds: JsonBounds): JsonObject {
  const refuse = (reason: string, cause?: unknown): never => {
    throw new SafetensorsError("safetensors-json", `${what} ${reason}.`, { advice: FETCH_AGAIN, cause });
  };
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    return refuse("is not UTF-8", error);
  }
  const reason = objection(text, bounds);
  if (reason !== undefined) return refuse(reason);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return refuse(SYNTAX, error);
  }
  return isObject(value) ? value : refuse(`is ${shown(value)}, expected an object`);
}
