import { LapidaryError } from "../base/errors.js";

/** What is wrong with a request for a plan: an unknown mix, a type that nothing here can write, a bad pattern. */
export class PlanError extends LapidaryError {}
