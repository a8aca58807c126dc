import { LapidaryError } from "../../src/base/errors.js";

/** Statistics that cannot be taken, stored or read, or that are not of what they are asked for. */
export class StatisticsError extends LapidaryError {}
