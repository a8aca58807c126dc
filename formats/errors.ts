import { LapidaryError } from "../src/base/errors.js";

/** A file that cannot be read, or that is not what its format asks for. The class of each format derives from it. */
export class FormatError extends LapidaryError {}
