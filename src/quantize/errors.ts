import { LapidaryError } from "../base/errors.js";

/** Why a plan could not be carried out. */
export class QuantizeError extends LapidaryError {}
