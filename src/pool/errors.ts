import { LapidaryError } from "../base/errors.js";

/** What went wrong while tiles were being worked on. */
export class PoolError extends LapidaryError {}
