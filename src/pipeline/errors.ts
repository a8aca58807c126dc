import { LapidaryError } from "../base/errors.js";

/** What stops a job between the rooms: sources that are neither checkpoint nor GGUF, outputs in the way, gates. */
export class PipelineError extends LapidaryError {}
