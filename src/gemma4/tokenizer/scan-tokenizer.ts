import { encodeUtf8, type GgufStrings, GgufStringsBuilder } from "../../../formats/gguf/strings.js";
import { Gemma4Error } from "../errors.js";
import { isObject, type JsonObject, show } from "../json.js";
import { JsonScanner } from "./scan-json.js";
import { TokenTable } from "./token-table.js";

/** An entry of `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** What a `tokenizer.json` holds, its two long lists in flat form. */
export interface ScannedTokenizer {
  readonly table: TokenTable;
  /** Number of tokens in `model.vocab`. */
  readonly modelTokens: number;
  readonly merges: GgufStrings;
  readonly added: readonly AddedToken[];
  /** Fields of `model` other than the vocabulary and the merges. */
  readonly model: JsonObject;
  /** Fields of the file other than `model` and `added_tokens`. */
  readonly parts: JsonObject;
}

const MAX_ID = 2 ** 31 - 1;
const SPACE = 0x20;
/** A space inside one half of a merge becomes U+0120 (C4 A0), since a space separates the halves. */
const ENCODED_SPACE = "\u0120";
/** Bytes of the length in front of each string in a GGUF list. */
const PREFIX = 8;
/** Merges are handed on in batches: half a million single ones cost 0.4 s more. */
const BATCH_BYTES = 1024 * 1024;
/** A batch with less room than this is handed on. Real: 94 bytes for the longest merge. */
const BATCH_RESERVE = 1024;

/** Assembles merges as `left right`, in the encoding of GGUF lists. */
class MergeReader {
  readonly #scanner: JsonScanner;
  readonly #file: string;
  readonly #list = new GgufStringsBuilder();
  #batch = Buffer.allocUnsafe(BATCH_BYTES);
  #size = 0;
  #count = 0;
  /** Both forms of a merge exist, `["a", "b"]` and `"a b"`, but not in one file. */
  #pairs: boolean | undefined;

  constructor(scanner: JsonScanner, file: string) {
    this.#scanner = scanner;
    this.#file = file;
  }

  read(): GgufStrings {
    this.#scanner.list(() => {
      this.#pairs ??= this.#scanner.isList();
      const start = this.#size;
      this.#reserve(PREFIX);
      this.#size += PREFIX;
      if (this.#pairs) this.#readPair();
      else this.#readText();
      this.#batch.writeUInt32LE(this.#size - start - PREFIX, start);
      this.#batch.writeUInt32LE(0, start + 4);
      this.#count++;
      if (this.#batch.length - this.#size < BATCH_RESERVE) {
        this.#flush();
        // The list keeps the bytes of the old one.
        this.#batch = Buffer.allocUnsafe(BATCH_BYTES);
      }
    });
    this.#flush();
    return this.#list.build();
  }

  #flush(): void {
    this.#list.appendEncoded(this.#batch.subarray(0, this.#size), this.#count);
    this.#size = 0;
    this.#count = 0;
  }

  #readPair(): void {
    let halves = 0;
    this.#scanner.list(() => {
      if (halves === 1) {
        this.#reserve(1);
        this.#batch[this.#size++] = SPACE;
      }
      halves++;
      this.#scanner.string();
      this.#put(true);
    });
    if (halves !== 2) throw this.#scanner.fail("a merge of two tokens before this");
  }

  #readText(): void {
    const start = this.#size;
    this.#scanner.string();
    this.#put(false);
    const text = this.#batch.subarray(start, this.#size);
    const space = text.indexOf(SPACE);
    if (space <= 0 || space === text.length - 1 || text.includes(SPACE, space + 1)) {
      throw this.#scanner.fail("a merge of two tokens with one space between them before this");
    }
  }

  /** Adds the string last read, with U+0120 for spaces where it is one half of a merge. */
  #put(half: boolean): void {
    const { bytes, start, end, escaped, spaced } = this.#scanner;
    if (escaped || (spaced && half)) {
      const text = this.#scanner.text();
      const encoded = encodeUtf8(
        half ? text.replaceAll(" ", ENCODED_SPACE) : text,
        `A merge in ${this.#file}`,
      );
      this.#reserve(encoded.length);
      this.#batch.set(encoded, this.#size);
      this.#size += encoded.length;
      return;
    }
    this.#reserve(end - start);
    // A loop: the halves have three bytes on average, for which a call of copy costs more.
    for (let at = start; at < end; at++) this.#batch[this.#size++] = bytes[at] ?? 0;
  }

  #reserve(length: number): void {
    if (this.#size + length <= this.#batch.length) return;
    const grown = Buffer.allocUnsafe((this.#size + length) * 2);
    this.#batch.copy(grown, 0, 0, this.#size);
    this.#batch = grown;
  }
}

function readVocabulary(scanner: JsonScanner, table: TokenTable): number {
  let count = 0;
  scanner.object(() => {
    const { start, end } = scanner;
    const text = scanner.escaped ? scanner.text() : undefined;
    const id = scanner.integer(MAX_ID);
    if (text === undefined) table.setSpan(id, start, end);
    else table.setText(id, text);
    count++;
  });
  return count;
}

function addedTokens(value: unknown, file: string): AddedToken[] {
  if (!Array.isArray(value)) {
    throw new Gemma4Error("bad-tokenizer", `${file}: added_tokens is ${show(value)}; expected a list.`);
  }
  return value.map((entry: unknown) => {
    const { id, content, special } = isObject(entry) ? entry : {};
    const sound = typeof id === "number" && Number.isInteger(id) && id >= 0 && typeof content === "string";
    if (!sound || typeof special !== "boolean") {
      throw new Gemma4Error(
        "bad-tokenizer",
        `${file}: added_tokens has ${show(entry)}; expected id, content and special.`,
      );
    }
    return { id, content, special };
  });
}

/**
 * Walks over a `tokenizer.json` once. The vocabulary and the merges go from its bytes straight into flat
 * buffers; everything else is small and is parsed. The whole of Gemma 4's file (33 MB) parsed at once
 * would take 300 MB.
 *
 * @param bytes the file; views of it are kept in the table
 * @param file for messages
 * @param vocabulary number of rows of the embedding, above any id
 * @throws Gemma4Error when it is not JSON or not of the known form
 */
export function scanTokenizer(bytes: Buffer, file: string, vocabulary: number): ScannedTokenizer {
  const scanner = new JsonScanner(bytes, file);
  const table = new TokenTable(bytes, vocabulary, file);
  const parts = new Map<string, unknown>();
  const model = new Map<string, unknown>();
  let modelTokens: number | undefined;
  let merges: GgufStrings | undefined;
  let seenModel = false;

  const readModel = (): void => {
    scanner.object(() => {
      const key = scanner.text();
      if (key === "vocab" && modelTokens === undefined) modelTokens = readVocabulary(scanner, table);
      else if (key === "merges" && merges === undefined) merges = new MergeReader(scanner, file).read();
      else if (key === "vocab" || key === "merges" || model.has(key))
        throw scanner.fail(`${key} only once in model`);
      else model.set(key, scanner.value());
    });
  };
  scanner.object(() => {
    const key = scanner.text();
    if (parts.has(key) || (key === "model" && seenModel)) throw scanner.fail(`${key} only once`);
    if (key !== "model") {
      parts.set(key, scanner.value());
      return;
    }
    seenModel = true;
    readModel();
  });
  scanner.finish();

  if (modelTokens === undefined || merges === undefined) {
    const missing = modelTokens === undefined ? "vocab" : "merges";
    throw new Gemma4Error("bad-tokenizer", `${file}: model.${missing} is missing; expected a BPE tokenizer.`);
  }
  return {
    table,
    modelTokens,
    merges,
    added: addedTokens(parts.get("added_tokens") ?? [], file),
    model: Object.fromEntries(model),
    parts: Object.fromEntries(parts),
  };
}
