import type { Document } from "./documents.js";

/** Where a passage begins. */
export interface Place {
  readonly file: string;
  /** From 1. */
  readonly line: number;
}

/** A passage that is nearly the same as an earlier one. */
export interface NearDuplicate {
  readonly place: Place;
  readonly of: Place;
}

/** Characters that are hashed together, so that shared words are no match and shared clauses are. */
const gramLength = 16;
/** Of so many hashes in a row the least is kept (Schleimer, Wilkerson and Aiken: winnowing). */
const winnow = 8;
/** Fewer kept hashes than this, about 90 characters, say too little: headings, closing braces, greetings. */
const minFingerprints = 16;
/** Kept hashes of a passage that stand in another text, from which it counts as nearly the same. */
const sameShare = 0.7;
/** And of those, the share of the passage that stands in one and the same: phrases of all kinds make no passage. */
const onePassageShare = 0.3;
/** Characters from which a passage without blank lines is cut at the next line end. */
const passageLength = 800;
/** Characters of a line from which it is cut itself. */
const maxLine = 2 * passageLength;

/** Text without differences of layout, case and numbers: what is left is what was written. */
function normalize(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/\p{Nd}+/gu, "0")
    .replaceAll(/\s+/g, " ")
    .trim();
}

function* cutLines(text: string): Generator<{ line: number; text: string }> {
  for (const [index, line] of text.split("\n").entries()) {
    for (let at = 0; at === 0 || at < line.length; at += maxLine) {
      yield { line: index + 1, text: line.slice(at, at + maxLine) };
    }
  }
}

/** Paragraphs: lines up to a blank one, or up to enough characters. */
function* paragraphs(text: string): Generator<{ line: number; text: string }> {
  let first = 0;
  let parts: string[] = [];
  let length = 0;
  for (const { line, text: part } of cutLines(text)) {
    const blank = part.trim() === "";
    if (!blank) {
      if (parts.length === 0) first = line;
      parts.push(part);
      length += part.length;
    }
    if (parts.length > 0 && (blank || length >= passageLength)) {
      yield { line: first, text: parts.join("\n") };
      parts = [];
      length = 0;
    }
  }
  if (parts.length > 0) yield { line: first, text: parts.join("\n") };
}

function* passages(document: Document): Generator<{ line: number; text: string }> {
  if (document.kind === "text") {
    yield* paragraphs(document.text);
    return;
  }
  for (const { content } of document.messages) {
    for (const { text } of paragraphs(content)) yield { line: document.line, text };
  }
}

const base = 0x01000193;

function mix(value: number): number {
  const h = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d);
  return h ^ (h >>> 13);
}

/** The kept hashes of a passage, each once. */
function fingerprints(text: string): Set<number> {
  const kept = new Set<number>();
  const count = text.length - gramLength + 1;
  if (count < 1) return kept;
  let leaving = 1;
  for (let i = 0; i < gramLength; i++) leaving = Math.imul(leaving, base);
  const recent = new Int32Array(winnow);
  let hash = 0;
  for (let i = 0; i < text.length; i++) {
    hash = (Math.imul(hash, base) + text.charCodeAt(i)) | 0;
    if (i >= gramLength) hash = (hash - Math.imul(leaving, text.charCodeAt(i - gramLength))) | 0;
    const gram = i - gramLength + 1;
    if (gram < 0) continue;
    recent[gram % winnow] = mix(hash);
    if (gram < winnow - 1) continue;
    let least = recent[0] ?? 0;
    for (const other of recent) if (other < least) least = other;
    kept.add(least);
  }
  return kept;
}

/** Hash to number, open addressing over typed arrays: 8 bytes a slot, where a `Map` takes several times that. */
class HashTable {
  #keys = new Int32Array(1024);
  /** Value plus one, 0 for an empty slot. */
  #values = new Int32Array(1024);
  #size = 0;

  /** @returns the number, or -1 */
  get(key: number): number {
    return (this.#values[this.#slot(key)] ?? 0) - 1;
  }

  /** Sets a number for a hash that has none yet. */
  add(key: number, value: number): void {
    if (2 * (this.#size + 1) > this.#keys.length) this.#grow();
    const slot = this.#slot(key);
    if (this.#values[slot] !== 0) return;
    this.#keys[slot] = key;
    this.#values[slot] = value + 1;
    this.#size++;
  }

  #slot(key: number): number {
    const mask = this.#keys.length - 1;
    let slot = (Math.imul(key, 0x9e3779b1) >>> 0) & mask;
    while (this.#values[slot] !== 0 && this.#keys[slot] !== key) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const keys = this.#keys;
    const values = this.#values;
    this.#keys = new Int32Array(2 * keys.length);
    this.#values = new Int32Array(2 * keys.length);
    this.#size = 0;
    for (let i = 0; i < keys.length; i++) {
      const value = values[i] ?? 0;
      if (value !== 0) this.add(keys[i] ?? 0, value - 1);
    }
  }
}

/**
 * Passages of texts, to find others that are nearly the same: 70 % of what is left of a paragraph when case,
 * layout and numbers are ignored has been seen before. Works on characters, so that no model is needed and
 * other line ends make no difference.
 *
 * Takes about 4 bytes a character: 256 MiB for a text of 64 MiB.
 */
export class PassageIndex {
  readonly #table = new HashTable();
  readonly #places: Place[] = [];

  /**
   * Takes in the passages of a document that are not nearly the same as an earlier one, and names the others.
   * Within one chat a repeated passage is a quotation.
   *
   * @param file what the document is called
   */
  add(document: Document, file: string): NearDuplicate[] {
    const duplicates: NearDuplicate[] = [];
    const fresh: (() => void)[] = [];
    for (const { line, text } of passages(document)) {
      const kept = fingerprints(normalize(text));
      if (kept.size < minFingerprints) continue;
      const of = this.#match(kept);
      if (of !== null) duplicates.push({ place: { file, line }, of });
      else if (document.kind === "chat") fresh.push(() => this.#insert(kept, { file, line }));
      else this.#insert(kept, { file, line });
    }
    for (const insert of fresh) insert();
    return duplicates;
  }

  /** Names the passages of a document that are nearly the same as one of the index, and takes none in. */
  compare(document: Document, file: string): NearDuplicate[] {
    const found: NearDuplicate[] = [];
    for (const { line, text } of passages(document)) {
      const kept = fingerprints(normalize(text));
      const of = kept.size < minFingerprints ? null : this.#match(kept);
      if (of !== null) found.push({ place: { file, line }, of });
    }
    return found;
  }

  #insert(kept: ReadonlySet<number>, place: Place): void {
    const id = this.#places.push(place) - 1;
    for (const hash of kept) this.#table.add(hash, id);
  }

  /** The passage that most of the known hashes come from, when enough are known. */
  #match(kept: ReadonlySet<number>): Place | null {
    const votes = new Map<number, number>();
    let known = 0;
    for (const hash of kept) {
      const id = this.#table.get(hash);
      if (id === -1) continue;
      known++;
      votes.set(id, (votes.get(id) ?? 0) + 1);
    }
    if (known < sameShare * kept.size) return null;
    const [best, count] = [...votes].reduce((a, b) => (b[1] > a[1] ? b : a));
    return count < onePassageShare * kept.size ? null : (this.#places[best] ?? null);
  }
}
