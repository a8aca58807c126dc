import { LapidaryError } from "../base/errors.js";

/** What can go wrong with block types, their encoders and their kernels. */
export class BlockError extends LapidaryError {}
