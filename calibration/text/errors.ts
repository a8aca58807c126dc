import { LapidaryError } from "../../src/base/errors.js";

/** A text that cannot be read, or that is not what its name promises. */
export class TextError extends LapidaryError {}
