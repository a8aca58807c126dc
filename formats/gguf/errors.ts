import { FormatError } from "../errors.js";

/** A GGUF file that is damaged or beyond what is supported, or values that the format cannot hold. */
export class GgufError extends FormatError {}
