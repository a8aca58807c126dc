/**
 * Unicode scripts that are counted by name: those that languages of many millions of people are written in. Kana and
 * Han of Japanese are counted apart, as Unicode has them.
 */
export const scriptNames = [
  "Latin",
  "Cyrillic",
  "Greek",
  "Armenian",
  "Georgian",
  "Hebrew",
  "Arabic",
  "Ethiopic",
  "Devanagari",
  "Bengali",
  "Gurmukhi",
  "Gujarati",
  "Oriya",
  "Tamil",
  "Telugu",
  "Kannada",
  "Malayalam",
  "Sinhala",
  "Thai",
  "Lao",
  "Myanmar",
  "Khmer",
  "Tibetan",
  "Mongolian",
  "Hangul",
  "Hiragana",
  "Katakana",
  "Han",
] as const;

/** Characters of any other script. */
export const otherScripts = "other";

/** Digits, punctuation, white space, emoji and marks that any script may bear. */
const shared = /[\p{Script=Common}\p{Script=Inherited}\p{Script=Unknown}]/u;
const patterns = scriptNames.map((name) => new RegExp(`\\p{Script=${name}}`, "u"));
const names = [...scriptNames, otherScripts];

const unseen = 0;
const none = 1;
const firstScript = 2;
const codePoints = 0x11_0000;

function classify(point: number): number {
  const character = String.fromCodePoint(point);
  if (shared.test(character)) return none;
  const found = patterns.findIndex((pattern) => pattern.test(character));
  return firstScript + (found === -1 ? scriptNames.length : found);
}

/**
 * Counts the characters (code points) of texts by their script (Unicode Standard Annex 24). Characters that
 * belong to no one script, such as digits, punctuation and spaces, are not counted.
 *
 * @returns scripts that occur, by name, most frequent first; scripts without a name of their own under `other`
 */
export function countScripts(texts: Iterable<string>): Record<string, number> {
  // A character is held against the expressions once, however often it occurs.
  const classes = new Uint8Array(codePoints);
  const counts = new Float64Array(firstScript + names.length);
  for (const text of texts) {
    for (let at = 0; at < text.length; at++) {
      const point = text.codePointAt(at) ?? 0;
      if (point > 0xffff) at++;
      if (classes[point] === unseen) classes[point] = classify(point);
      const index = classes[point] ?? none;
      counts[index] = (counts[index] ?? 0) + 1;
    }
  }
  const found = names.map((name, index): [string, number] => [name, counts[firstScript + index] ?? 0]);
  return Object.fromEntries(found.filter(([, count]) => count > 0).toSorted((a, b) => b[1] - a[1]));
}
