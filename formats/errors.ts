import { LapidaryError } from "../src/base/errors.js";

/** A file that cannot be read, or that is not what its format asks for. The class of each format derives from it. */
export class FormatError extends LapidaryError {}

/** A value from a file as JSON, cut short for a message. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}
