import { isUtf8 } from "node:buffer";
import { FormatError } from "../../formats/errors.js";
import { openFile } from "../../formats/file-source.js";
import type { ByteSource } from "../../formats/source.js";
import { Gemma4Error } from "./errors.js";

export type JsonObject = Readonly<Record<string, unknown>>;

/** Largest JSON file that is parsed as a whole. Real: 33 KB (a tokenizer_config.json with its template). */
const MAX_SMALL_FILE_BYTES = 16 * 1024 ** 2;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value as it appears in messages: JSON, cut to a readable length. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/**
 * Reads a whole file of a checkpoint; undefined when there is none.
 *
 * @throws FormatError when it cannot be read, Gemma4Error when it has more than `limit` bytes
 */
export async function readWhole(path: string, limit: number): Promise<Buffer | undefined> {
  let source: ByteSource;
  try {
    source = await openFile(path);
  } catch (error) {
    if (error instanceof FormatError && error.code === "file-missing") return undefined;
    throw error;
  }
  try {
    if (source.size > limit) {
      throw new Gemma4Error("file-too-large", `${path} has ${source.size} bytes; expected at most ${limit}.`);
    }
    const bytes = Buffer.allocUnsafeSlow(source.size);
    await source.read(bytes, 0);
    return bytes;
  } finally {
    await source.close();
  }
}

/**
 * Reads a small file of a checkpoint as text; undefined when there is none.
 *
 * @throws FormatError when it cannot be read, Gemma4Error when it is too large or not UTF-8
 */
export async function readTextFile(path: string): Promise<string | undefined> {
  const bytes = await readWhole(path, MAX_SMALL_FILE_BYTES);
  if (bytes !== undefined && !isUtf8(bytes)) {
    throw new Gemma4Error("bad-text", `${path} is not valid UTF-8 text.`);
  }
  return bytes?.toString("utf8");
}

/**
 * Reads a small JSON file whose root is an object; undefined when there is no such file.
 *
 * @throws Gemma4Error when the file is unreadable, too large, not JSON or not an object
 */
export async function readJsonObject(path: string): Promise<JsonObject | undefined> {
  const text = await readTextFile(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Gemma4Error("bad-json", `${path} is not valid JSON: ${(error as Error).message}.`, {
      cause: error,
      advice: "The file may be incomplete; fetch it again.",
    });
  }
  if (!isObject(value)) {
    throw new Gemma4Error("bad-json", `${path} holds ${show(value)}; expected a JSON object.`);
  }
  return value;
}

/**
 * The fields of one JSON object, read with a check each. Nothing has a default: a field is there and
 * right, or the error names the file, the field, what was found and what was expected.
 */
export class Fields {
  readonly #values: JsonObject;
  readonly #file: string;
  readonly #path: string;

  /**
   * @param file for messages
   * @param path dotted path of the object inside the file, with a dot at its end; empty for the root
   */
  constructor(values: JsonObject, file: string, path = "") {
    this.#values = values;
    this.#file = file;
    this.#path = path;
  }

  /** The field as it is; undefined when it is absent or belongs to the prototype. */
  raw(name: string): unknown {
    return Object.hasOwn(this.#values, name) ? this.#values[name] : undefined;
  }

  /** True when the field is there and not null. */
  has(name: string): boolean {
    return (this.raw(name) ?? null) !== null;
  }

  keys(): string[] {
    return Object.keys(this.#values);
  }

  fail(name: string, expected: string, advice?: string): Gemma4Error {
    const value = this.raw(name);
    const found = value === undefined ? "is missing" : `is ${show(value)}`;
    return new Gemma4Error(
      "bad-config",
      `${this.#file}: ${this.#path}${name} ${found}; expected ${expected}.`,
      advice === undefined ? {} : { advice },
    );
  }

  /** A whole number from `min` to `max`. */
  count(name: string, max: number, min = 1): number {
    const value = this.raw(name);
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    throw this.fail(name, `a whole number from ${min} to ${max}`);
  }

  /** Like `count`; null when the field is absent or null. */
  countOrNull(name: string, max: number, min = 1): number | null {
    return this.has(name) ? this.count(name, max, min) : null;
  }

  /** A finite number above 0 and at most `max`. */
  positive(name: string, max = 3e38): number {
    const value = this.raw(name);
    if (typeof value === "number" && value > 0 && value <= max) return value;
    throw this.fail(name, max === 3e38 ? "a number above 0" : `a number above 0 and at most ${max}`);
  }

  /** A finite number. */
  number(name: string): number {
    const value = this.raw(name);
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.fail(name, "a number");
  }

  text(name: string): string {
    const value = this.raw(name);
    if (typeof value === "string") return value;
    throw this.fail(name, "a text");
  }

  boolean(name: string): boolean {
    const value = this.raw(name);
    if (typeof value === "boolean") return value;
    throw this.fail(name, "true or false");
  }

  /** A field that may be absent or null, but otherwise has to hold one of these values. */
  optionally(name: string, allowed: readonly unknown[]): void {
    if (this.has(name)) this.oneOf(name, [...allowed, null]);
  }

  /** A field that has to hold one of these values. */
  oneOf(name: string, allowed: readonly unknown[]): void {
    if (!allowed.includes(this.raw(name)))
      throw this.fail(name, allowed.map((value) => show(value)).join(" or "));
  }

  object(name: string): Fields {
    const value = this.raw(name);
    if (isObject(value)) return new Fields(value, this.#file, `${this.#path}${name}.`);
    throw this.fail(name, "an object");
  }
}
