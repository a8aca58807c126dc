/** Most characters of a value that a message repeats. */
const MAX_SHOWN = 60;

/** A word of the file, cut to a bearable length. */
export function shown(text: string): string {
  return JSON.stringify(text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text);
}

function found(value: unknown): string {
  if (value === undefined) return "the key is missing";
  if (value === null) return "found nothing";
  if (typeof value === "string") return `found ${shown(value)}`;
  if (Array.isArray(value)) return "found a list";
  // Lists and maps may refer to themselves; they are named, never printed.
  return typeof value === "number" || typeof value === "boolean" ? `found ${value}` : "found a map";
}

/** Message for a value of another kind. */
export function expected(what: string) {
  return { error: ({ input }: { readonly input?: unknown }) => `expected ${what}, ${found(input)}` };
}
