import { FormatError } from "../errors.js";

export { shown } from "../errors.js";

/** A checkpoint in the safetensors format that is damaged, incomplete or beyond what is supported. */
export class SafetensorsError extends FormatError {}

/** What to do about most damage: it comes from broken downloads. */
export const FETCH_AGAIN = "The file may be damaged or only partly downloaded; fetch it again.";
