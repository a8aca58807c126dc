import { LapidaryError } from "../../src/base/errors.js";

/** Matrices that cannot be rounded with feedback, and rounded ones that are not what they should be. */
export class RoundingError extends LapidaryError {}
