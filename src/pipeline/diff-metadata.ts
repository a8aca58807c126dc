import type { GgufArray, GgufMetadata, GgufValue } from "../../formats/gguf/types.js";

/** Elements of a list that are shown, and characters of a text; vocabularies and chat templates have thousands. */
const SHOWN_ELEMENTS = 8;
const SHOWN_CHARACTERS = 80;
/** Characters shown in front of the first one that differs. */
const LEAD_CHARACTERS = 16;

type Plain = string | number | boolean;

/** A value, of a long text or list the part where the two sides begin to differ. */
export type ShortValue =
  | { readonly type: string; readonly value: number | boolean | string }
  | {
      readonly type: string;
      /** Characters (UTF-16 units) or elements of the whole. */
      readonly length: number;
      /** Index of the first one that is shown. */
      readonly from: number;
      readonly value: string | readonly Plain[];
    };

/** A key that differs; null on the side that lacks it. */
export interface MetadataDifference {
  readonly key: string;
  readonly a: ShortValue | null;
  readonly b: ShortValue | null;
}

function element(array: GgufArray, index: number): string | number | bigint | boolean | undefined {
  return array.of === "string" ? array.value.at(index) : array.value[index];
}

/** Index of the first element that differs, or −1; a shorter list differs where it ends. */
function firstDifference(a: GgufArray, b: GgufArray): number {
  if (a.of !== b.of) return 0;
  // 262,144 tokens are 262,144 strings to make, one after another; their bytes are there.
  if (a.of === "string" && b.of === "string" && Buffer.compare(a.value.bytes, b.value.bytes) === 0) return -1;
  const shorter = Math.min(a.value.length, b.value.length);
  for (let index = 0; index < shorter; index++) {
    if (!Object.is(element(a, index), element(b, index))) return index;
  }
  return a.value.length === b.value.length ? -1 : shorter;
}

function firstOther(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  for (let index = 0; index < shorter; index++) if (a[index] !== b[index]) return index;
  return a.length === b.length ? -1 : shorter;
}

/** Where two values begin to differ: 0 for what has no parts, −1 when they are equal. */
function differsAt(a: GgufValue, b: GgufValue): number {
  if (a.type !== b.type) return 0;
  if (a.type === "array" && b.type === "array") return firstDifference(a, b);
  if (a.type === "string" && b.type === "string") return firstOther(a.value, b.value);
  return Object.is(a.value, b.value) ? -1 : 0;
}

/** JSON has no 64-bit integers, and no NaN or infinity. */
function plain(value: string | number | bigint | boolean): Plain {
  if (typeof value === "bigint") return value.toString();
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

function shorten(value: GgufValue, at: number): ShortValue {
  if (value.type === "array") {
    const { length } = value.value;
    const from = length <= SHOWN_ELEMENTS ? 0 : Math.min(at, length);
    const shown: Plain[] = [];
    for (let index = from; index < Math.min(length, from + SHOWN_ELEMENTS); index++) {
      const one = element(value, index);
      if (one !== undefined)
        shown.push(plain(typeof one === "string" ? one.slice(0, SHOWN_CHARACTERS) : one));
    }
    return { type: `${value.of}[]`, length, from, value: shown };
  }
  if (value.type === "string") {
    const { length } = value.value;
    const from = length <= SHOWN_CHARACTERS ? 0 : Math.max(0, Math.min(at, length) - LEAD_CHARACTERS);
    return { type: "string", length, from, value: value.value.slice(from, from + SHOWN_CHARACTERS) };
  }
  return { type: value.type, value: plain(value.value) };
}

/** Keys whose types or values differ: A's in file order, then those that only B has. */
export function diffMetadata(a: GgufMetadata, b: GgufMetadata): MetadataDifference[] {
  const differences: MetadataDifference[] = [];
  for (const [key, value] of a) {
    const other = b.get(key);
    const at = other === undefined ? 0 : differsAt(value, other);
    if (at < 0) continue;
    differences.push({ key, a: shorten(value, at), b: other === undefined ? null : shorten(other, at) });
  }
  for (const [key, value] of b) if (!a.has(key)) differences.push({ key, a: null, b: shorten(value, 0) });
  return differences;
}
