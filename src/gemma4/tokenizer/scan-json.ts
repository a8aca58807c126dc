import { Gemma4Error } from "../errors.js";

/** Deepest nesting that is followed. Real: 6 (a post-processor). */
const MAX_DEPTH = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

/**
 * Walks over JSON in a buffer without making objects of it. The caller knows what to expect and asks for
 * it; strings are handed out as spans of bytes. The bytes have to be UTF-8.
 */
export class JsonScanner {
  readonly bytes: Buffer;
  readonly #file: string;
  #at = 0;
  /** First byte inside the quotes of the string last read, and the byte after the last. */
  start = 0;
  end = 0;
  /** The string last read has escapes; it has a space (escapes aside). */
  escaped = false;
  spaced = false;

  constructor(bytes: Buffer, file: string) {
    this.bytes = bytes;
    this.#file = file;
  }

  fail(expected: string): Gemma4Error {
    const found = this.#at >= this.bytes.length ? "ends" : `has ${JSON.stringify(this.#context())}`;
    return new Gemma4Error("bad-json", `${this.#file} ${found} at byte ${this.#at}; expected ${expected}.`, {
      advice: "The file may be incomplete; fetch it again.",
    });
  }

  #context(): string {
    return this.bytes.toString("utf8", this.#at, Math.min(this.#at + 20, this.bytes.length));
  }

  /** Next byte that is not white space, without moving past it; undefined at the end. */
  peek(): number | undefined {
    while (isSpace(this.bytes[this.#at])) this.#at++;
    return this.bytes[this.#at];
  }

  #take(byte: number, what: string): void {
    if (this.peek() !== byte) throw this.fail(what);
    this.#at++;
  }

  isString(): boolean {
    return this.peek() === QUOTE;
  }

  isList(): boolean {
    return this.peek() === OPEN_LIST;
  }

  /** Moves over a string; `start`, `end` and `escaped` then tell where it is. */
  string(): void {
    this.#take(QUOTE, "a string");
    const { bytes } = this;
    let at = this.#at;
    this.start = at;
    this.escaped = false;
    this.spaced = false;
    for (let byte = bytes[at]; byte !== QUOTE; byte = bytes[++at]) {
      if (byte === BACKSLASH) {
        this.escaped = true;
        at++;
      } else if (byte === 0x20) {
        this.spaced = true;
      } else if (byte === undefined || byte < 0x20) {
        this.#at = Math.min(at, bytes.length);
        throw this.fail("the end of a string");
      }
    }
    this.end = at;
    this.#at = at + 1;
  }

  /** The string last read, decoded. */
  text(): string {
    const raw = this.bytes.toString("utf8", this.start, this.end);
    if (!this.escaped) return raw;
    try {
      return JSON.parse(`"${raw}"`) as string;
    } catch (error) {
      throw new Gemma4Error("bad-json", `${this.#file} has a malformed string at byte ${this.start}.`, {
        cause: error,
      });
    }
  }

  /** A whole number from 0 to `max`. */
  integer(max: number): number {
    let byte = this.peek();
    let value = 0;
    let digits = 0;
    while (byte !== undefined && byte >= 0x30 && byte <= 0x39 && value <= max) {
      value = value * 10 + (byte - 0x30);
      digits++;
      byte = this.bytes[++this.#at];
    }
    const ends = byte === COMMA || byte === CLOSE_OBJECT || byte === CLOSE_LIST || isSpace(byte);
    if (digits === 0 || !ends || value > max) throw this.fail(`a whole number from 0 to ${max}`);
    return value;
  }

  /** Calls `member` after each key of an object, at its value, which `member` has to move over. */
  object(member: () => void): void {
    this.#items(OPEN_OBJECT, CLOSE_OBJECT, "an object", () => {
      this.string();
      this.#take(COLON, "a colon");
      member();
    });
  }

  /** Calls `item` at each element of a list, which `item` has to move over. */
  list(item: () => void): void {
    this.#items(OPEN_LIST, CLOSE_LIST, "a list", item);
  }

  #items(open: number, close: number, what: string, item: () => void): void {
    this.#take(open, what);
    if (this.peek() === close) {
      this.#at++;
      return;
    }
    for (;;) {
      item();
      const byte = this.peek();
      if (byte !== COMMA && byte !== close) throw this.fail(`a comma or the end of ${what}`);
      this.#at++;
      if (byte === close) return;
    }
  }

  /** Moves over any value and returns it parsed. For small parts: it becomes objects. */
  value(): unknown {
    this.peek();
    const start = this.#at;
    this.#skip();
    try {
      return JSON.parse(this.bytes.toString("utf8", start, this.#at));
    } catch (error) {
      this.#at = start;
      throw this.fail(`a JSON value (${(error as Error).message})`);
    }
  }

  /** Moves to the end of a value; whether it is well formed shows when it is parsed. */
  #skip(): void {
    let depth = 0;
    do {
      const byte = this.peek();
      if (byte === QUOTE) {
        this.string();
      } else if (byte === OPEN_OBJECT || byte === OPEN_LIST) {
        if (++depth > MAX_DEPTH) throw this.fail(`at most ${MAX_DEPTH} levels of nesting`);
        this.#at++;
      } else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
        depth--;
        this.#at++;
      } else if (byte === undefined) {
        throw this.fail("the rest of a value");
      } else if (depth > 0) {
        this.#at++;
      } else {
        this.#skipLiteral();
      }
    } while (depth > 0);
  }

  #skipLiteral(): void {
    const start = this.#at;
    for (let byte = this.bytes[start]; byte !== undefined; byte = this.bytes[++this.#at]) {
      if (byte === COMMA || byte === COLON || byte === CLOSE_OBJECT || byte === CLOSE_LIST || isSpace(byte))
        break;
    }
    if (this.#at === start) throw this.fail("a value");
  }

  /** @throws Gemma4Error when anything but white space follows */
  finish(): void {
    if (this.peek() !== undefined) throw this.fail("the end of the file");
  }
}
