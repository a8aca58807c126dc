import { LapidaryError } from "../base/errors.js";

/** Two files that cannot be compared, scores that are no numbers, thresholds that make no sense. */
export class VerifyError extends LapidaryError {}
