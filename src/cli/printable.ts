/**
 * Text from outside as a terminal may have it: control characters, which could move the cursor or change
 * colours, are written as `\\x1b` and the like; line breaks stay.
 */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]/gu, (character) =>
    character === "\n" ? character : `\\x${(character.codePointAt(0) ?? 0).toString(16).padStart(2, "0")}`,
  );
}
