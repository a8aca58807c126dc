/** What the name of a model says about it. */
export interface ModelId {
  readonly name: string | null;
  readonly organization: string | null;
  readonly basename: string | null;
  readonly finetune: string | null;
  readonly version: string | null;
  readonly sizeLabel: string | null;
}

type Kind = "basename" | "size_label" | "finetune" | "version" | "type";

const VERSION = /^(?:v|iter)?\p{Nd}+(?:\.\p{Nd}+)*$/iu;
const TYPE = /^(?:i?q\p{Nd}(?:_[\p{L}\p{N}_])*|b?fp?(?:16|32))$/iu;
const SIZE = /^(?:(?:A|\p{Nd}+x)?\p{Nd}+(?:[._]\p{Nd}+)?[KMBT]\p{Nd}?|small|mini|medium|large|x?xl)$/iu;
const FINETUNE = /^(?:chat|instruct|vision|lora)$/i;
const DIGIT = /\p{Nd}/u;

/** `31b` → `31B`, `1_5B` → `1.5B`, `7b1` → `7.1B`. */
function normalizeSize(part: string): string {
  let size = part.replaceAll("_", ".");
  if (DIGIT.test(size.at(-1) ?? "")) size = `${size.slice(0, -2)}.${size.at(-1)}${size.at(-2)}`;
  if (DIGIT.test(size.at(-2) ?? "") && /[kmbt]$/.test(size))
    size = size.slice(0, -1) + size.slice(-1).toUpperCase();
  return size;
}

/** True for a size so far from the model's that it must be something else, such as a context length. */
function isOffSize(size: string, totalParameters: number): boolean {
  const number = size.slice(0, -1);
  const power = " KMBT".indexOf(size.slice(-1));
  if (totalParameters === 0 || power < 0 || !/^\d+(?:\.\d+)?$/.test(number)) return false;
  return Math.abs(Number(number) * 1000 ** power - totalParameters) > Math.floor((7 * totalParameters) / 8);
}

interface Part {
  text: string;
  readonly kinds: Set<Kind>;
}

/** Gives each part of a name its kind, as far as the part alone tells. */
function annotate(text: string, index: number, totalParameters: number): Part {
  if (VERSION.test(text)) return { text, kinds: new Set(["version"]) };
  if (TYPE.test(text)) return { text: text.toUpperCase(), kinds: new Set(["type"]) };
  if (index > 0 && SIZE.test(text)) {
    const size = normalizeSize(text);
    if (!isOffSize(size, totalParameters)) return { text: size, kinds: new Set(["size_label"]) };
    return { text: size.slice(0, -1) + size.slice(-1).toLowerCase(), kinds: new Set(["finetune"]) };
  }
  if (index > 0 && FINETUNE.test(text)) return { text, kinds: new Set(["finetune"]) };
  return { text, kinds: new Set() };
}

/** The base name is the run of words and versions at the start; words after it are a finetune. */
function findBasename(parts: readonly Part[]): void {
  let atStart = true;
  for (const { text, kinds } of parts) {
    if (atStart && ((kinds.size === 0 && /^\p{L}/u.test(text)) || kinds.has("version"))) {
      kinds.add("basename");
    } else {
      atStart = false;
      if (kinds.size === 0) kinds.add("finetune");
    }
  }
  for (const { kinds } of parts.toReversed()) {
    // A version at the very end is one, not part of the base name.
    if (!kinds.has("basename") || kinds.size === 1) break;
    kinds.delete("basename");
  }
}

/**
 * Takes a name such as `google/gemma-4-31B-it` apart, by the rules of llama.cpp's converter.
 *
 * @param totalParameters of the model, to tell sizes from context lengths; 0 when unknown
 */
export function parseModelId(id: string, totalParameters: number): ModelId {
  const nothing = { organization: null, basename: null, finetune: null, version: null, sizeLabel: null };
  // A name in words is kept as it is.
  if (id.includes(" ")) return { ...nothing, name: id };
  const slash = id.indexOf("/");
  const name = id.slice(slash + 1);
  const organization = slash < 0 || id.startsWith(".") ? null : id.slice(0, slash);
  const parts = name
    .split("-")
    .filter((part) => part !== "")
    .map((part, index) => annotate(part, index, totalParameters));
  const sizes = parts.filter(({ kinds }) => kinds.has("size_label"));
  if (sizes.some(({ text }) => DIGIT.test(text))) {
    // Beside a size in numbers, one in words is none.
    for (const { text, kinds } of sizes) if (/^\p{L}+$/u.test(text)) kinds.delete("size_label");
  }
  findBasename(parts);
  const join = (kind: Kind, except?: Kind): string | null => {
    const texts = parts
      .filter(({ kinds }) => kinds.has(kind) && (except === undefined || !kinds.has(except)))
      .map(({ text }) => text);
    return (kind === "size_label" ? [...new Set(texts)] : texts).join("-") || null;
  };
  const sizeLabel = join("size_label");
  const finetune = join("finetune");
  const version = join("version", "basename");
  const telling = sizeLabel !== null || finetune !== null || version !== null;
  return { name, organization, basename: telling ? join("basename") : null, finetune, version, sizeLabel };
}

/** `gemma-4-31B-it` → `Gemma 4 31B It`: words in lower case get a capital, versions and numbers do not. */
export function titleOf(id: string): string {
  return id
    .trim()
    .replaceAll("-", " ")
    .split(/\s+/)
    .filter((word) => word !== "")
    .map((word) => {
      const lower = /\p{Ll}/u.test(word) && !/[\p{Lu}\p{Lt}]/u.test(word);
      if (!lower || /^(?:v\p{Nd}+(?:\.\p{Nd}+)*|\p{Nd}.*)$/u.test(word)) return word;
      return word.replaceAll(/\p{L}+/gu, (letters) => letters.charAt(0).toUpperCase() + letters.slice(1));
    })
    .join(" ");
}
