import { LapidaryError } from "../base/errors.js";

/** Anything that goes wrong between lapidary and a runtime that executes models. */
export class EngineError extends LapidaryError {}
