import { encodeUtf8, type GgufStrings, GgufStringsBuilder } from "../../../formats/gguf/strings.js";
import { Gemma4Error } from "../errors.js";
import { show } from "../json.js";

/** Marks an id that no token has yet. */
const NONE = -1;

/**
 * Texts of tokens by id, without a JavaScript string for each: a text is a span of the file's bytes, or of
 * a second buffer for the few that are written with escapes.
 */
export class TokenTable {
  readonly size: number;
  readonly #file: string;
  readonly #bytes: Buffer;
  readonly #starts: Int32Array;
  readonly #lengths: Int32Array;
  #extra = Buffer.alloc(4096);
  #extraSize = 0;

  /**
   * @param bytes the tokenizer's file
   * @param size number of ids: one for each row of the embedding
   */
  constructor(bytes: Buffer, size: number, file: string) {
    this.#bytes = bytes;
    this.#file = file;
    this.size = size;
    this.#starts = new Int32Array(size);
    this.#lengths = new Int32Array(size).fill(NONE);
  }

  has(id: number): boolean {
    return this.#lengths[id] !== NONE && id < this.size;
  }

  /** UTF-8 bytes of a token that is there; a view. */
  at(id: number): Buffer {
    const start = this.#starts[id] ?? 0;
    const length = this.#lengths[id] ?? 0;
    return start >= 0
      ? this.#bytes.subarray(start, start + length)
      : this.#extra.subarray(~start, ~start + length);
  }

  /** Gives an id the text between two bytes of the file. */
  setSpan(id: number, start: number, end: number): void {
    this.#claim(id, start, end - start);
  }

  setText(id: number, text: string): void {
    const encoded = encodeUtf8(text, `${this.#file}: token ${show(text)}`);
    if (this.#extraSize + encoded.length > this.#extra.length) {
      const grown = Buffer.alloc(Math.max(this.#extra.length * 2, this.#extraSize + encoded.length));
      this.#extra.copy(grown, 0, 0, this.#extraSize);
      this.#extra = grown;
    }
    this.#extra.set(encoded, this.#extraSize);
    this.#claim(id, ~this.#extraSize, encoded.length);
    this.#extraSize += encoded.length;
  }

  #claim(id: number, start: number, length: number): void {
    if (id >= this.size) {
      throw new Gemma4Error(
        "vocabulary-size",
        `${this.#file} has a token with id ${id}; expected ids below ${this.size}, the number of rows of the embedding.`,
        { advice: "The tokenizer belongs to another checkpoint, or the embedding was not resized." },
      );
    }
    const taken = this.has(id);
    this.#starts[id] = start;
    this.#lengths[id] = length;
    if (taken)
      throw new Gemma4Error(
        "bad-tokenizer",
        `${this.#file} gives id ${id} to a second token ${show(this.at(id).toString())}.`,
      );
  }

  /**
   * All texts in the order of their ids.
   * @throws Gemma4Error when an id has no token or two ids have the same
   */
  build(): GgufStrings {
    this.#checkComplete();
    this.#checkUnique();
    const list = new GgufStringsBuilder();
    for (let id = 0; id < this.size; id++) list.append(this.at(id));
    return list.build();
  }

  #checkComplete(): void {
    const first = this.#lengths.indexOf(NONE);
    if (first < 0) return;
    const missing = this.#lengths.reduce((count, length) => count + (length === NONE ? 1 : 0), 0);
    throw new Gemma4Error(
      "vocabulary-size",
      `${this.#file} has no token with id ${first} (${missing} of ${this.size} are missing); expected one for each row of the embedding.`,
      { advice: "The tokenizer belongs to another checkpoint, or the embedding was padded." },
    );
  }

  /** Open addressing over the hashes of the texts: 4 MB for 262,144 tokens, where a Set of strings takes 30. */
  #checkUnique(): void {
    const slots = new Int32Array(2 ** Math.ceil(Math.log2(this.size * 2))).fill(NONE);
    const mask = slots.length - 1;
    for (let id = 0; id < this.size; id++) {
      const text = this.at(id);
      let hash = 0x811c9dc5;
      for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ (text[at] ?? 0), 0x01000193);
      let slot = hash & mask;
      for (let other = slots[slot] ?? NONE; other !== NONE; other = slots[slot] ?? NONE) {
        if (this.at(other).equals(text)) {
          throw new Gemma4Error(
            "bad-tokenizer",
            `${this.#file} has the token ${show(text.toString())} twice, with the ids ${other} and ${id}.`,
          );
        }
        slot = (slot + 1) & mask;
      }
      slots[slot] = id;
    }
  }
}
