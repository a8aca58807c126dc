import { LapidaryError } from "../../src/base/errors.js";

/** What can go wrong with budgets and with the estimates that they are divided by. */
export class AllocationError extends LapidaryError {}
