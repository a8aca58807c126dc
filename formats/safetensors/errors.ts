import { FormatError } from "../errors.js";

/** A checkpoint in the safetensors format that is damaged, incomplete or beyond what is supported. */
export class SafetensorsError extends FormatError {}

/** What to do about most damage: it comes from broken downloads. */
export const FETCH_AGAIN = "The file may be damaged or only partly downloaded; fetch it again.";

/** A value from a file as JSON, cut short for a message. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}
