import { FormatError } from "../errors.js";

/** A file that is no importance matrix, or a damaged one. */
export class ImatrixError extends FormatError {}
